"""Policies out of the zip files of Stable-Baselines3, without Stable-Baselines3 and without unpickling anything.

A zip holds tensors, and a JSON text in which every pickled object stands beside a description for people: the name of
its class and its attributes. The descriptions alone are read. What they leave open, or what is not known here, is
refused by name. What no zip ever says (how a stack of frames begins, how frames were made grey, how many steps an
action lasts) is taken to be as SB3's own wrappers do it, and said in a warning.
"""

from __future__ import annotations

import io
import json
import logging
import pickle
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from drivedit.agents.drivers.policy import ACTIVATIONS, Policy, PolicySpec

log = logging.getLogger(__name__)
LARGEST = 2**30  # bytes of a part of a zip that are read
# Where the parts of an actor are in a state dict of SB3; the first prefix that is there counts.
PARTS = {
    "features": ("actor.features_extractor.", "pi_features_extractor.", "features_extractor."),
    "lstm": ("lstm_actor.",),
    "hidden": ("actor.latent_pi.", "mlp_extractor.policy_net."),
    "out": ("actor.mu.", "action_net."),
}
# What is there beside the actor and does not act.
BESIDE = re.compile(
    r"(critic(_target)?|actor_target|value_net|lstm_critic|mlp_extractor\.value_net|(pi_|vf_)?features_extractor)\b|"
    r"(actor\.)?log_std\b"
)
_ON, _OFF = "stable_baselines3.common.policies", "stable_baselines3.{}.policies"
_RECURRENT = "sb3_contrib.common.recurrent.policies"
# The policies of SB3: their extractor and activation unless `policy_kwargs` name others.
POLICIES = {
    f"{_ON}.ActorCriticPolicy": ("FlattenExtractor", "tanh"),
    f"{_ON}.ActorCriticCnnPolicy": ("NatureCNN", "tanh"),
    f"{_RECURRENT}.RecurrentActorCriticPolicy": ("FlattenExtractor", "tanh"),
    f"{_RECURRENT}.RecurrentActorCriticCnnPolicy": ("NatureCNN", "tanh"),
    f"{_OFF.format('sac')}.SACPolicy": ("FlattenExtractor", "relu"),
    f"{_OFF.format('sac')}.CnnPolicy": ("NatureCNN", "relu"),
    f"{_OFF.format('td3')}.TD3Policy": ("FlattenExtractor", "relu"),
    f"{_OFF.format('td3')}.CnnPolicy": ("NatureCNN", "relu"),
    "sb3_contrib.tqc.policies.TQCPolicy": ("FlattenExtractor", "relu"),
    "sb3_contrib.tqc.policies.CnnPolicy": ("NatureCNN", "relu"),
}
# Arguments of policies that change nothing in how the actor acts, or that its weights tell.
HARMLESS = {
    "net_arch", "ortho_init", "log_std_init", "full_std", "use_expln", "use_sde", "optimizer_class", "optimizer_kwargs",
    "features_extractor_kwargs", "share_features_extractor", "n_critics", "n_quantiles", "lstm_hidden_size",
    "n_lstm_layers", "shared_lstm", "enable_critic_lstm", "lstm_kwargs", "clip_mean",
}  # fmt: skip


def read_zip(
    path: str | Path, gray: bool | None = None, padding: str = "zeros", repeat: int = 1, world: str | None = None
) -> Policy:
    """Reads a policy of PPO, A2C, RecurrentPPO, SAC, TD3, DDPG or TQC that SB3 saved.

    Args:
        path: The zip.
        gray: Whether its channels are grey frames; None: colours where their number divides by three.
        padding: What stood before the first frame of an episode in a stack: `zeros` as SB3's `VecFrameStack` has it, or
            `first`, copies of that frame, as Gymnasium's `FrameStackObservation` has it.
        repeat: Steps that every decision lasted.
        world: Name or folder of the world whose latents it learned on, if it did: no zip says that.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, or something in it cannot be read here without unpickling; it is named.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    data, state = _parts(path)
    try:
        said = _said(data)
        shape, kind = _seen(data)
        weights = actor_weights(state)
        _fits(said["extractor"], weights)
        spec: dict[str, Any] = {key: said[key] for key in ("normalize", "activation", "squash")} | {"repeat": repeat}
        if kind == "latent":
            return Policy(PolicySpec.from_dict({"shape": shape, "sees": kind, **spec}), weights, world)
        channels, height, width = shape
        gray = channels % 3 != 0 if gray is None else gray
        stack = channels if gray else channels // 3
        if stack > 1 or gray:
            log.warning(
                "%s does not say how its %d channels were made; read as %d %s frames, %s before the first of an "
                "episode (other ways: drivedit.agents.drivers.zips.read_zip)",
                path, channels, stack, "grey" if gray else "coloured", padding,
            )  # fmt: skip
        frames = PolicySpec.from_dict(
            {"shape": [height, width, 3], "gray": gray, "stack": stack, "padding": padding, **spec}
        )
        return Policy(frames, weights)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def actor_weights(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The actor's part of the state dict of an SB3 policy, under the names of `Actor`.

    Raises:
        ValueError: It is of another architecture.
    """
    weights, used = {}, set()
    for part, prefixes in PARTS.items():
        prefix = next((p for p in prefixes if any(name.startswith(p) for name in state)), None)
        if prefix is not None:
            found = {name: value for name, value in state.items() if name.startswith(prefix)}
            used |= found.keys()
            weights |= {f"{part}.{name.removeprefix(prefix)}": value for name, value in found.items()}
    layers = {name: name.split(".") for name in weights if re.fullmatch(r"out\.\d+\.\w+", name)}
    last = max((int(number) for _, number, _ in layers.values()), default=0)
    for name, (_, number, kind) in layers.items():  # TD3: one sequence, whose last layer makes the action
        weights[f"out.{kind}" if int(number) == last else f"hidden.{number}.{kind}"] = weights.pop(name)
    unknown = sorted(name for name in state if name not in used and not BESIDE.match(name))
    if "out.weight" not in weights or unknown:
        raise ValueError(f"no actor of SB3 is known that has the weights {unknown or sorted(state)}")
    return weights


def _parts(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The JSON and the tensors of a zip."""
    try:
        with zipfile.ZipFile(path) as archive:
            for name in ("data", "policy.pth"):
                if archive.getinfo(name).file_size > LARGEST:
                    raise ValueError(f"{path}: {name} is larger than {LARGEST} bytes")
            data = json.loads(archive.read("data"))
            tensors = io.BytesIO(archive.read("policy.pth"))
        state = torch.load(tensors, map_location="cpu", weights_only=True)
        if not isinstance(data, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
            raise TypeError
    except (
        zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, KeyError, TypeError, AttributeError,
        RuntimeError, UnicodeDecodeError, json.JSONDecodeError, pickle.UnpicklingError,
    ) as error:  # fmt: skip
        why = type(error).__name__  # torch's own message would tell to unpickle what nobody has checked
        raise ValueError(f"{path} is no zip of Stable-Baselines3, or damaged ({why})") from error
    return data, state


def _said(data: dict[str, Any]) -> dict[str, Any]:
    """What the descriptions tell about the network: its extractor, its activation, and what is done around it."""
    policy = data.get("policy_class")
    policy = policy if isinstance(policy, dict) else {}
    made = re.match(r"<function (\w+)\.__init__ at", str(policy.get("__init__")))
    name = f"{policy.get('__module__')}.{made[1] if made else '?'}"
    if name not in POLICIES:
        raise ValueError(f"policies of the class {name} cannot be read, only {sorted(POLICIES)}")
    extractor, activation = POLICIES[name]
    given = {key: value for key, value in (data.get("policy_kwargs") or {}).items() if not key.startswith(":")}
    told = str(given.pop("features_extractor_class", f"<class 'stable_baselines3.common.torch_layers.{extractor}'>"))
    found = re.fullmatch(r"<class 'stable_baselines3\.common\.torch_layers\.(FlattenExtractor|NatureCNN)'>", told)
    if not found:
        raise ValueError(f"the features extractor {told} is not known, only NatureCNN and FlattenExtractor")
    chosen = str(given.pop("activation_fn", None))
    names = {str(kind): key for key, kind in ACTIVATIONS.items()}
    if chosen != "None" and chosen not in names:
        raise ValueError(f"the activation {chosen} is not known, only {', '.join(ACTIVATIONS)}")
    normalize, squash = given.pop("normalize_images", True), given.pop("squash_output", False)
    if not isinstance(normalize, bool) or not isinstance(squash, bool):
        raise ValueError(f"normalize_images and squash_output are true or false, got {normalize!r} and {squash!r}")
    if given.keys() - HARMLESS:
        raise ValueError(f"policy_kwargs with {sorted(given.keys() - HARMLESS)} are not known")
    off_policy = activation == "relu"
    if off_policy and data.get("use_sde"):
        raise ValueError("gSDE with SAC or TQC (use_sde=True) limits the mean of the actions; that cannot be read")
    return {
        "extractor": found[1], "activation": names.get(chosen, activation),
        "normalize": normalize, "squash": squash or off_policy,
    }  # fmt: skip


def _seen(data: dict[str, Any]) -> tuple[list[int], str]:
    """The shape of what is seen, channels first, and whether it is `pixels` or a `latent`; the actions are checked."""
    spaces = {}
    for name in ("observation_space", "action_space"):
        space = data.get(name)
        kind = space.get(":type:") if isinstance(space, dict) else space
        if not isinstance(space, dict) or not re.fullmatch(r"<class 'gym(nasium)?\.spaces\.box\.Box'>", str(kind)):
            raise ValueError(f"the {name} must be a Box, got {kind}")
        bounds = {key: set(re.findall(r"[^\s\[\]]+", str(space.get(key)))) - {"..."} for key in ("low", "high")}
        spaces[name] = {**space, **{key: {n.rstrip(".") for n in numbers} for key, numbers in bounds.items()}}
    actions, seen = spaces["action_space"], spaces["observation_space"]
    if (actions["low"], actions["high"]) != ({"-1"}, {"1"}):
        raise ValueError(
            f"actions must lie in [-1, 1], here they lie in {actions['low']} to {actions['high']}; "
            "learn with gymnasium.wrappers.RescaleAction around the environment"
        )
    shape = seen.get("_shape", seen.get("shape"))
    if not isinstance(shape, list) or len(shape) != 3 or not all(isinstance(n, int) for n in shape):
        raise ValueError(f"frames or latents with three axes are needed, this policy sees {shape}")
    if seen.get("dtype") == "uint8" and (seen["low"], seen["high"]) == ({"0"}, {"255"}):
        return shape, "pixels"
    if seen.get("dtype") != "float32":
        raise ValueError(f"frames uint8 in [0, 255] or latents float32 are needed, it sees {seen.get('dtype')}")
    if data.get("_last_original_obs") is not None or (seen["low"], seen["high"]) != ({"-inf"}, {"inf"}):
        raise ValueError("it saw observations through VecNormalize or within bounds, whose statistics are not in a zip")
    return shape, "latent"


def _fits(extractor: str, weights: dict[str, torch.Tensor]) -> None:
    """Compares the extractor that is told with the weights."""
    if (extractor == "NatureCNN") != any(name.startswith("features.cnn.") for name in weights):
        raise ValueError(f"the features extractor is said to be {extractor}, but the weights are another one's")
