"""A learned policy on disk and at the wheel, without Stable-Baselines3 and without pickle.

A policy is one safetensors file: the weights of the actor, and in its header what else must be known (`PolicySpec`),
under a digest of both. The network is read off the weights; the architectures are those of SB3's default policies: the
convolutions of Mnih et al. (2015) or a flat input, maybe an LSTM, and a multilayer perceptron.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from drivedit.agents.dreams import Encode, open_encoder
from drivedit.agents.learning.wrappers import Memory, scaled
from drivedit.config.base import BaseConfig
from drivedit.config.spec import LARGEST
from drivedit.utils import read_tensors, write_tensors

FORMAT = "drivedit-agent-2"
MOST_SEEN = 2**26  # numbers that a policy may see at once, 0.27 GB
STRIDES = (4, 2, 1)
ACTIVATIONS: dict[str, type[nn.Module]] = {
    kind.__name__.lower(): kind
    for kind in (
        nn.Tanh, nn.ReLU, nn.ELU, nn.GELU, nn.LeakyReLU, nn.SELU, nn.CELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Softplus,
        nn.Softsign, nn.Hardswish, nn.Hardtanh, nn.ReLU6, nn.Identity,
    )
}  # fmt: skip


@dataclass
class PolicySpec(BaseConfig):
    """What the weights of a policy do not tell.

    Attributes:
        shape: Of one observation: frames uint8 `[H, W, 1 or 3]`, or latents float32 `[C, h, w]`.
        sees: `pixels` or `latent`.
        gray: Whether frames are made grey.
        stack: Observations that the policy sees at once.
        padding: What stands before the first observation of an episode: `first`, copies of it, or `zeros`.
        normalize: Whether frames are divided by 255.
        activation: Of the perceptron: a key of `ACTIVATIONS`, with torch's default arguments.
        squash: Whether actions pass through tanh (SAC, TD3); else they are clipped to [-1, 1].
        repeat: Steps that every decision lasts.
        fingerprint: Of the world whose latents it sees; empty: not known.
        world: Name or folder of that world, where it was when the policy learned.
        low: Least value of every control, which -1 of the network means; None: -1.
        high: Greatest one, which 1 means; None: 1.
    """

    shape: list[int]
    sees: Literal["pixels", "latent"] = "pixels"
    gray: bool = False
    stack: int = 1
    padding: Literal["first", "zeros"] = "first"
    normalize: bool = True
    activation: str = "tanh"
    squash: bool = False
    repeat: int = 1
    fingerprint: str = ""
    world: str | None = None
    low: list[float] | None = None
    high: list[float] | None = None

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {list(ACTIVATIONS)}, got {self.activation!r}")
        if self.repeat < 1 or self.stack < 1:
            raise ValueError(f"repeat and stack must be at least 1, got {self.repeat} and {self.stack}")
        if self.sees == "pixels" and (len(self.shape) != 3 or self.shape[2] not in (1, 3)):
            raise ValueError(f"a frame is [H, W, 1 or 3], got {self.shape}")
        if len(self.shape) != 3 or min(self.shape) < 1 or self.stack * math.prod(self.shape) > MOST_SEEN:
            raise ValueError(
                f"an observation has three axes, and all that is seen at once at most {MOST_SEEN} numbers; "
                f"got {self.stack} of {self.shape}"
            )
        self.check_ranges(low=(-LARGEST, LARGEST), high=(-LARGEST, LARGEST))
        low, high = self.low or [], self.high or []
        if len(low) != len(high) or any(a >= b for a, b in zip(low, high, strict=True)):
            raise ValueError(f"every control has low < high, got {self.low} and {self.high}")

    @property
    def space(self) -> gym.spaces.Box:
        """The space of one observation."""
        if self.sees == "pixels":
            return gym.spaces.Box(0, 255, tuple(self.shape), np.uint8)
        return gym.spaces.Box(-np.inf, np.inf, tuple(self.shape), np.float32)


class Actor(nn.Module):
    """The network of a policy, built as its weights say.

    Args:
        weights: Names `features.*`, `lstm.*`, `hidden.*` and `out.*`.
        activation: Class of the perceptron's activation.

    Raises:
        RuntimeError, KeyError or IndexError: The weights are of another network.
    """

    def __init__(self, weights: dict[str, torch.Tensor], activation: type[nn.Module]) -> None:
        super().__init__()
        with torch.device("meta"):  # nothing is allocated: the weights are the parameters, if they fit
            self._build({name: tuple(value.shape) for name, value in weights.items()}, activation)
        self.load_state_dict(weights, assign=True)
        self.requires_grad_(False)
        self.eval()

    def _build(self, shapes: dict[str, tuple[int, ...]], activation: type[nn.Module]) -> None:
        """Layers of the shapes that the weights have."""
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
            self.lstm = nn.LSTM(inner, gates // 4, sum(name.startswith("lstm.weight_ih_l") for name in shapes))
        layers = []
        for name in (n for i in range(len(shapes)) if (n := f"hidden.{2 * i}.weight") in shapes):
            layers += [nn.Linear(shapes[name][1], shapes[name][0]), activation()]
        self.hidden = nn.Sequential(*layers)
        self.out = nn.Linear(shapes["out.weight"][1], shapes["out.weight"][0])

    @torch.no_grad()
    def forward(self, seen: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        """Means of the actions `[N, A]` for what is seen, float `[N, K C, H, W]`, and the LSTM's next state."""
        x = seen.flatten(1) if self.flat else self.features.linear(self.features.cnn(seen))  # type: ignore[operator]
        if self.lstm is not None:
            x, state = self.lstm(x[None], state)
            x = x[0]
        return self.out(self.hidden(x)), state


class Policy:
    """A learned policy at the wheel: a frame comes in, an action goes out, and it remembers what it needs to.

    One that learned on latents takes frames as well: its world's encoder, opened at the first frame, makes latents of
    them.

    Args:
        spec: What the weights do not tell.
        weights: Of the actor, see `Actor`.
        world: Name or folder of the world whose latents it sees; None: where it was when the policy learned.

    Raises:
        ValueError: The weights are of no known architecture, do not fit the spec, or are not finite.
    """

    def __init__(self, spec: PolicySpec, weights: dict[str, torch.Tensor], world: str | None = None) -> None:
        self._place = world
        self._encode: Encode | None = None
        wrong = [name for name, value in weights.items() if not (value.is_floating_point() and value.isfinite().all())]
        if wrong:
            raise ValueError(f"the weights of a policy are finite floating-point numbers, these are not: {wrong}")
        self.spec, self.weights = spec, {k: v.detach().float().cpu().contiguous() for k, v in weights.items()}
        try:
            self._actor = Actor(self.weights, ACTIVATIONS[spec.activation])
            self._memory = Memory(spec.space, spec.gray, spec.stack, spec.padding)
            count = self._actor.out.out_features
            ends = [spec.low or [-1.0] * count, spec.high or [1.0] * count]
            self._low, self._high = np.array(ends, np.float32).reshape(2, count)
            self.reset()
            answer = self(np.zeros(spec.shape, spec.space.dtype))
        except (KeyError, IndexError, RuntimeError, ValueError) as error:
            names = ", ".join(f"{name} {list(value.shape)}" for name, value in weights.items())
            raise ValueError(f"no known policy network for {spec} has these weights: {names} ({error})") from error
        if not np.isfinite(answer).all():
            raise ValueError(
                f"the weights of this policy are beyond what float32 can compute with, it answers {answer}"
            )
        self.reset()

    @property
    def sees(self) -> str:
        """`pixels` or `latent`."""
        return self.spec.sees

    @property
    def fingerprint(self) -> str:
        """Of the world whose latents it sees; empty: not known, or it sees frames."""
        return self.spec.fingerprint

    def reset(self) -> None:
        """Forgets the last episode."""
        self._state: Any = None
        self._fresh, self._left = True, 0

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """Chooses the controls.

        Args:
            observation: A frame uint8 `[H, W, 1 or 3]`, or a latent float32 `[C, h, w]` if it sees such.

        Returns:
            float32 [A], each in the range of its control.

        Raises:
            ValueError: The observation has another shape or type, or the world whose latents the policy sees is not
                found.
        """
        if self.sees == "latent" and observation.dtype == np.uint8:
            if self._encode is None:
                self._encode = open_encoder(self.fingerprint, self._place, self.spec.world)
            observation = self._encode(observation[None])[0]
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
        mean, self._state = self._actor(x / 255.0 if self._memory.frames and self.spec.normalize else x, self._state)
        mean = mean.tanh() if self.spec.squash else mean.clamp(-1.0, 1.0)
        self._action, self._left = scaled(mean[0].numpy(), self._low, self._high), self.spec.repeat - 1
        return self._action.copy()

    def save(self, path: str | Path) -> None:
        """Writes the policy to one safetensors file, whole or not at all."""
        write_tensors(path, self.weights, FORMAT, self.spec.to_dict())

    @classmethod
    def load(cls, path: str | Path, world: str | None = None) -> Policy:
        """Reads a policy that `save` wrote; `drivedit.agents.drivers.zips.read_zip` reads those of Stable-Baselines3.

        Args:
            path: The file.
            world: See the class.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged, or holds something else.
        """
        weights, spec = read_tensors(path, FORMAT)
        try:
            return cls(PolicySpec.from_dict(spec), weights, world)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} describes no policy ({error})") from error
