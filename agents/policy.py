"""A learned policy on disk and at the wheel, without Stable-Baselines3 and without pickle.

A policy is one safetensors file: the weights of the actor, and in its header what else must be known (`PolicySpec`).
The network is read off the weights; the architectures are those of SB3's default policies: the convolutions of Mnih et
al. (2015) or a flat input, maybe an LSTM, and a multilayer perceptron. The zip files of SB3 can be read as well: only
their JSON and their tensors, never the pickled objects in them.
"""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from drivedit.agents.wrappers import Memory
from drivedit.config.base import BaseConfig
from drivedit.utils import read_tensors, write_tensors

FORMAT = "drivedit-agent-1"
STRIDES = (4, 2, 1)
ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU}
# Where the parts of an actor are in a state dict of SB3; the first prefix that is there counts.
PARTS = {
    "features": ("actor.features_extractor.", "pi_features_extractor.", "features_extractor."),
    "lstm": ("lstm_actor.",),
    "hidden": ("actor.latent_pi.", "mlp_extractor.policy_net."),
    "out": ("actor.mu.", "action_net."),
}


@dataclass
class PolicySpec(BaseConfig):
    """What the weights of a policy do not tell.

    Attributes:
        shape: Of one observation: frames uint8 `[H, W, 3]`, or latents float32 `[C, h, w]`.
        gray: Whether frames are made grey.
        stack: Observations that the policy sees at once.
        activation: Of the perceptron, `tanh` or `relu`.
        squash: Whether actions pass through tanh (SAC); else they are clipped to the box.
        repeat: Steps that every decision lasts.
    """

    shape: list[int]
    gray: bool = False
    stack: int = 1
    activation: str = "tanh"
    squash: bool = False
    repeat: int = 1

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {list(ACTIVATIONS)}, got {self.activation!r}")
        if self.repeat < 1:
            raise ValueError(f"repeat must be at least 1, got {self.repeat}")
        if len(self.shape) != 3:
            raise ValueError(f"an observation has three axes, got {self.shape}")

    @property
    def space(self) -> gym.spaces.Box:
        """The space of one observation."""
        if self.shape[2] == 3:
            return gym.spaces.Box(0, 255, tuple(self.shape), np.uint8)
        return gym.spaces.Box(-np.inf, np.inf, tuple(self.shape), np.float32)


class Actor(nn.Module):
    """The network of a policy, built as its weights say.

    Args:
        weights: Names `features.*`, `lstm.*`, `hidden.*` and `out.*`.
        activation: Class of the perceptron's activation.
    """

    def __init__(self, weights: dict[str, torch.Tensor], activation: type[nn.Module]) -> None:
        super().__init__()
        shapes = {name: tuple(value.shape) for name, value in weights.items()}
        self.features = nn.Module()
        convolutions = [shapes[n] for i in (0, 2, 4) if (n := f"features.cnn.{i}.weight") in shapes]
        self.flat = not convolutions
        if convolutions:
            layers: list[nn.Module] = []
            for (outer, inner, kernel, _), stride in zip(convolutions, STRIDES, strict=True):
                layers += [nn.Conv2d(inner, outer, kernel, stride), nn.ReLU()]
            self.features.cnn = nn.Sequential(*layers, nn.Flatten())
            outer, inner = shapes["features.linear.0.weight"]
            self.features.linear = nn.Sequential(nn.Linear(inner, outer), nn.ReLU())
        self.lstm: nn.LSTM | None = None
        if "lstm.weight_ih_l0" in shapes:
            gates, inner = shapes["lstm.weight_ih_l0"]
            self.lstm = nn.LSTM(inner, gates // 4)
        layers = []
        for name in (n for i in range(len(shapes)) if (n := f"hidden.{2 * i}.weight") in shapes):
            layers += [nn.Linear(shapes[name][1], shapes[name][0]), activation()]
        self.hidden = nn.Sequential(*layers)
        self.out = nn.Linear(shapes["out.weight"][1], shapes["out.weight"][0])
        self.load_state_dict(weights)
        self.eval()

    @torch.no_grad()
    def forward(self, seen: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        """Means of the actions `[N, 2]` for what is seen, float `[N, K C, H, W]`, and the LSTM's next state."""
        x = seen.flatten(1) if self.flat else self.features.linear(self.features.cnn(seen))  # type: ignore[operator]
        if self.lstm is not None:
            x, state = self.lstm(x[None], state)
            x = x[0]
        return self.out(self.hidden(x)), state


class Policy:
    """A learned policy at the wheel: a frame comes in, an action goes out, and it remembers what it needs to.

    Args:
        spec: What the weights do not tell.
        weights: Of the actor, see `Actor`.

    Raises:
        ValueError: The weights are of no known architecture, or do not fit the spec.
    """

    def __init__(self, spec: PolicySpec, weights: dict[str, torch.Tensor]) -> None:
        self.spec, self.weights = spec, {k: v.detach().float().cpu().contiguous() for k, v in weights.items()}
        try:
            self._actor = Actor(self.weights, ACTIVATIONS[spec.activation])
            self._memory = Memory(spec.space, spec.gray, spec.stack)
            self.reset()
            self(np.zeros(spec.shape, spec.space.dtype))
        except (KeyError, RuntimeError, ValueError) as error:
            names = ", ".join(f"{name} {list(value.shape)}" for name, value in weights.items())
            raise ValueError(f"no known policy network for {spec} has these weights: {names} ({error})") from error
        self.reset()

    def reset(self) -> None:
        """Forgets the last episode."""
        self._state: Any = None
        self._fresh, self._left = True, 0

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """Chooses the controls.

        Args:
            observation: A frame uint8 `[64, 64, 3]`, or what else the spec says.

        Returns:
            float32 [2]: steering and throttle, in [-1, 1].

        Raises:
            ValueError: The observation has another shape or type.
        """
        space = self.spec.space
        if observation.shape != space.shape or observation.dtype != space.dtype:
            wanted, got = f"{space.dtype} {list(space.shape)}", f"{observation.dtype} {list(observation.shape)}"
            raise ValueError(f"this policy sees observations {wanted}, got {got}; open the environment accordingly")
        if self._left:
            self._left -= 1
            return self._action.copy()
        row = observation[None]
        seen = self._memory.begin(row, np.ones(1, bool)) if self._fresh else self._memory.push(row)
        self._fresh = False
        x = torch.from_numpy(seen).float()
        mean, self._state = self._actor(x / 255.0 if self._memory.frames else x, self._state)
        mean = mean.tanh() if self.spec.squash else mean.clamp(-1.0, 1.0)
        self._action, self._left = mean[0].numpy().astype(np.float32), self.spec.repeat - 1
        return self._action.copy()

    def save(self, path: str | Path) -> None:
        """Writes the policy to one safetensors file, whole or not at all."""
        write_tensors(path, self.weights, FORMAT, self.spec.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> Policy:
        """Reads a policy that `save` wrote, or a zip of SB3's (PPO, RecurrentPPO or SAC, default architecture).

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged, or holds something else.
        """
        path = Path(path)
        if path.suffix == ".zip" and path.is_file():
            return _from_zip(path)
        weights, spec = read_tensors(path, FORMAT)
        return cls(PolicySpec.from_dict(spec), weights)


def actor_weights(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The actor's part of the state dict of an SB3 policy, under the names of `Actor`.

    Raises:
        ValueError: It is of another architecture.
    """
    weights = {}
    for part, prefixes in PARTS.items():
        prefix = next((p for p in prefixes if any(name.startswith(p) for name in state)), None)
        if prefix is not None:
            weights |= {f"{part}.{n.removeprefix(prefix)}": v for n, v in state.items() if n.startswith(prefix)}
    if "out.weight" not in weights:
        raise ValueError(f"the actor of PPO, RecurrentPPO or SAC is needed, got weights {sorted(state)}")
    return weights


def _from_zip(path: Path) -> Policy:
    """Reads SB3's zip: its tensors, and the text of its JSON; nothing in it is unpickled."""
    try:
        with zipfile.ZipFile(path) as archive:
            data = json.loads(archive.read("data"))
            tensors = io.BytesIO(archive.read("policy.pth"))
        state = torch.load(tensors, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, KeyError, json.JSONDecodeError, pickle.UnpicklingError, RuntimeError) as error:
        why = type(error).__name__  # torch's own message would tell to unpickle what nobody has checked
        raise ValueError(f"{path} is no zip of Stable-Baselines3, or damaged ({why})") from error
    weights = actor_weights(state)
    squash = any(name.startswith("actor.") for name in state)
    told = str(data.get("policy_kwargs", {}).get("activation_fn", "ReLU" if squash else "Tanh"))
    spec = PolicySpec([64, 64, 3], activation="relu" if "ReLU" in told else "tanh", squash=squash)
    first = weights.get("features.cnn.0.weight")
    if first is None:
        raise ValueError(f"{path} does not see frames; only a policy with convolutions can be read from a zip")
    channels = first.shape[1]
    colours = 3 if channels % 3 == 0 else 1
    return Policy(replace(spec, gray=colours == 1, stack=channels // colours), weights)
