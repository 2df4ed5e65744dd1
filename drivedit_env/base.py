"""What the single and the vector environment have in common: settings, observations, rewards, info, checks."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

from drivedit.inference import compile_decoder, compile_step
from drivedit.models import RowState, Sampling, StepOutput, World, shipped_worlds
from drivedit.models.finding import HUB
from drivedit.utils import real_numbers, whole_number
from drivedit_env.readout import Readout
from drivedit_env.shipped import load_world
from drivedit_env.state import EnvState

PIXELS, LATENT = "pixels", "latent"  # the world's picture, and what is not decoded
RENDER_HEIGHT = 512  # px

Observations = Any  # an array [B, ...], or for several kinds a dictionary of such
MOST_PASSES = 1000  # of the network for one frame


@dataclass(frozen=True)
class WorldName:
    """By what a copied environment finds its world again: the same files, on the same kind of device."""

    world: str
    device: str
    fingerprint: str
    adapter: str | None = None


class DreamSettings:
    """Settings of a dream, and what follows from them.

    A call first checks, then computes, and then changes the environment at once (`_change`), so that one that is
    refused or broken off leaves everything as it was. Copies (`copy.deepcopy`, `pickle`) go on exactly from where their
    original is; they share its world, or load it by its name.

    Attributes:
        render_modes: The render modes that there are, beside None.
    """

    render_modes: tuple[str, ...] = ("rgb_array",)

    _world: Any
    _passes: int | None
    _guidance: float
    _compiled: Any
    _decoder: Any
    _readout: Readout | None
    _dt: np.ndarray | None = None  # seconds of a step of each world, where they are not the world's own

    def _configure(
        self,
        world: str | Path | World,
        render_mode: str | None,
        obs_type: str | Sequence[str],
        sampling_steps: int | None,
        reward_weights: dict[str, float] | None,
        device: str,
        compile: bool,
        guidance: float,
        adapter: str | Path | None,
    ) -> tuple[spaces.Space, spaces.Box]:
        """Checks and keeps the settings; returns the spaces of observations and actions of one."""
        if render_mode not in (None, *self.render_modes):
            raise ValueError(f"render_mode must be None or one of {list(self.render_modes)}, got {render_mode!r}")
        _check_passes(sampling_steps)
        self._world, self._name = load_world(world, device, adapter), None
        if not isinstance(world, World):
            self._name = WorldName(
                _lasting(world), str(device), self.world.fingerprint, adapter and str(Path(adapter).resolve())
            )
        spec = self.world.spec
        self._kinds = self._check_kinds(obs_type)
        terms = list(spec.rewards)
        unknown = set(reward_weights or {}) - set(terms)
        if unknown:
            raise ValueError(f"reward_weights knows the terms {terms}, got {sorted(map(str, unknown))}")
        self.render_mode, self._compile = render_mode, bool(compile)
        self._obs_type = obs_type if isinstance(obs_type, str) else tuple(obs_type)
        self.reward_weights = {name: float((reward_weights or {}).get(name, 1.0)) for name in terms}
        self._prepare(sampling_steps, self.world.check_guidance(guidance))
        self._fingerprint = self.world.fingerprint
        self._warned: set[str] = set()
        boxes: dict[str, spaces.Space] = {name: self._box(kind) for name, kind in self._kinds.items()}
        self._low, self._high = (
            np.array([getattr(control, side) for control in spec.controls], np.float32) for side in ("low", "high")
        )
        least, greatest = self._low.tolist(), self._high.tolist()
        alike = len({*least}) == len({*greatest}) == 1
        inside = f"[{least[0]:g}, {greatest[0]:g}]" if alike else f"the ranges {least} to {greatest}"
        self._box_in_words = f"[{', '.join(spec.names('controls'))}]", inside
        observations = boxes[self._obs_type] if isinstance(self._obs_type, str) else spaces.Dict(boxes)
        return observations, spaces.Box(self._low, self._high, dtype=np.float32)

    def _read_by(self, readout: Readout | None) -> None:
        """Keeps what reads agents off pictures; ValueError if it takes others than the world's."""
        if readout is not None:
            readout.check(self._box(self.world.spec.picture).shape)
        self._readout = readout

    def _reads(self, elapsed: int | np.ndarray) -> bool:
        """Whether agents are read so many steps after the start, in one world at least."""
        return self._readout is not None and bool(np.any(self._readout.due(elapsed)))

    def _check_kinds(self, obs_type: Any) -> dict[str, str]:
        """The kinds of observation of the world by the names that were asked for, or ValueError."""
        picture, known = self.world.spec.picture, [PIXELS, LATENT, *self.world.spec.observations]
        names = [obs_type] if isinstance(obs_type, str) else obs_type
        valid = isinstance(names, (list, tuple)) and len(names) and all(name in known for name in names)
        if not valid or len(set(names)) < len(names):
            raise ValueError(f"obs_type must be one of {known}, or a list of several, got {obs_type!r}")
        return {name: picture if name == PIXELS else name for name in names}

    def _box(self, kind: str) -> spaces.Box:
        """The space of a kind of observation."""
        told = self.world.modality(kind)
        return spaces.Box(told.low, told.high, told.shape, np.dtype(told.dtype).type)

    @property
    def world(self) -> World:
        """The world; as it was given or loaded."""
        return self._world

    @property
    def obs_type(self) -> str | tuple[str, ...]:
        """What observations are; it cannot be changed, because the observation space would be another."""
        return self._obs_type

    @property
    def readout(self) -> Readout | None:
        """What reads agents off the pictures; None: nothing does."""
        return self._readout

    @property
    def compile(self) -> bool:
        """Whether the step is compiled where it can be."""
        return self._compile

    @property
    def sampling_steps(self) -> int | None:
        """Passes of the network for one frame; None: the world's own number. It can be set at any time."""
        return self._passes

    @sampling_steps.setter
    def sampling_steps(self, passes: int | None) -> None:
        self._prepare(_check_passes(passes), self._guidance)

    @property
    def guidance(self) -> float:
        """Scale of the guidance on the controls; 1: none. It can be set at any time."""
        return self._guidance

    @guidance.setter
    def guidance(self, scale: float) -> None:
        self._prepare(self._passes, self.world.check_guidance(scale))

    @property
    def dt(self) -> Any:
        """Seconds of a step, of many worlds `[N]`; where the world takes any they can be set at any time.

        One number is for all worlds. A reset sets those of its worlds back, or to its option `dt`.
        """
        many = getattr(self, "num_envs", 0)
        seconds = np.full(many or 1, self.world.spec.dt) if self._dt is None else self._dt.copy()
        return seconds if many else float(seconds[0])

    @dt.setter
    def dt(self, seconds: Any) -> None:
        self._change(_dt=self._intervals(seconds, getattr(self, "num_envs", 1)))

    def _chosen_intervals(self, choices: Mapping[int, Mapping[str, Any]]) -> np.ndarray | None:
        """Seconds of a step of all worlds when some are reset with these options, by number; ValueError for others."""
        if self._dt is None and not any("dt" in choice for choice in choices.values()):
            return None
        seconds = self.dt
        for row, choice in choices.items():
            seconds[row] = choice.get("dt", self.world.spec.dt)
        return self._intervals(seconds, len(seconds))

    def _intervals(self, seconds: Any, rows: int) -> np.ndarray | None:
        """Seconds `[rows]` of a step, of one number or `rows` numbers; None: the world's own.

        Raises:
            ValueError: The world takes no such interval.
        """
        if seconds is None:
            return None
        wanted = f"dt is a number of seconds above 0, or one for each of {rows} worlds"
        numbers = real_numbers(seconds, wanted).astype(np.float64)
        if numbers.shape not in ((), (rows,)):
            raise ValueError(f"{wanted}, got shape {list(numbers.shape)}")
        if (numbers == self.world.spec.dt).all():
            return None
        self.world.check_dt(torch.from_numpy(np.array(numbers)), rows)
        return np.broadcast_to(numbers, (rows,)).copy()

    def _prepare(self, passes: int | None, guidance: float) -> None:
        """Makes what steps and decodes, for a number of passes and a guidance."""
        self.world.check_passes(passes)
        if self.compile and guidance != 1:
            raise ValueError(f"a compiled step has no guidance, got {guidance:g}: compile=False, or guidance=1")
        compiled = compile_step(self.world, passes) if self.compile else None
        pictures = compiled is not None and self.world.spec.picture in self._kinds.values()
        decoder = compile_decoder(self.world) if pictures else None
        self._change(_passes=passes, _guidance=guidance, _compiled=compiled, _decoder=decoder)

    def _change(self, **values: Any) -> None:
        """Sets attributes at once: a signal such as Ctrl-C arrives before this one call into C or after it."""
        vars(self).update(values)

    # -- copies --------------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        made = ("_compiled", "_decoder", "_window")
        return {name: value for name, value in vars(self).items() if name not in made} | {
            "_world": self._name or self.world
        }

    def __setstate__(self, kept: dict[str, Any]) -> None:
        vars(self).update(kept)
        name = self._world
        if isinstance(name, WorldName):
            self._world = load_world(name.world, name.device, name.adapter)
            if self.world.fingerprint != name.fingerprint:
                raise ValueError(
                    f"the environment was copied in world {name.fingerprint}, but {name.world!r} is now "
                    f"{self.world.fingerprint}: make a new environment"
                )
        self._prepare(self._passes, self._guidance)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        other = type(self).__new__(type(self))
        memo |= {id(self): other, id(self.world): self.world}
        other.__setstate__(copy.deepcopy(self.__getstate__() | {"_world": self.world}, memo))
        return other

    # -- steps ---------------------------------------------------------------------------------------------------

    @property
    def rewarding(self) -> bool:
        """Whether the reward depends on how one drives; it does not where the recordings had no rewards."""
        weights, world = self.reward_weights, self.world
        worth = {name: weights[name] * term.value for name, term in world.spec.rewards.items()}
        kinds = {name: term.kind for name, term in world.spec.rewards.items()}
        at_the_end = any(worth[name] for name, kind in kinds.items() if kind in ("constant", "on_end"))
        driven = any(worth[name] for name, kind in kinds.items() if kind in ("learned", "telemetry"))
        return driven or (at_the_end and world.end_threshold < 1)

    def encode(self, frames: np.ndarray) -> np.ndarray:
        """Latents float32 `[B, ...]` of frames uint8 `[B, H, W, C]`, as `obs_type="latent"` shows them.

        Raises:
            ValueError: The frames have another size or type than this world's, or its encoder looks at several at once.
        """
        return self.world.embed(frames).cpu().numpy()

    def _dream(self, state: RowState, actions: np.ndarray) -> tuple[RowState, StepOutput]:
        """The worlds one frame later, under checked actions `[B, A]`."""
        controls = torch.from_numpy(actions).to(self.world.device)
        if self._compiled is not None:
            return self._compiled(state, controls)
        dt = None if self._dt is None else torch.from_numpy(self._dt).to(self.world.device)
        return self.world.step(state, controls, dt, sampling=Sampling(self.sampling_steps, guidance=self.guidance))

    def _pictures(self, state: RowState) -> np.ndarray:
        """The pictures of a state, uint8 `[B, H, W, C]`."""
        if self._decoder is not None:
            return self._decoder(self.world.observe(state, [LATENT])[LATENT])
        picture = self.world.spec.picture
        return self.world.observe(state, [picture])[picture].cpu().numpy()

    def _observations(self, state: RowState, pictures: np.ndarray | None = None) -> Observations:
        """Observations of a state, the caller's to keep; its `pictures`, if they are known, need not be made anew."""
        picture = self.world.spec.picture
        rest = [kind for kind in self._kinds.values() if kind != picture]
        seen = {kind: value.cpu().numpy().copy() for kind, value in self.world.observe(state, rest).items()}
        if len(rest) < len(self._kinds):
            seen[picture] = self._pictures(state) if pictures is None else pictures.copy()
        if isinstance(self._obs_type, str):
            return seen[self._kinds[self._obs_type]]
        return {name: seen[kind] for name, kind in self._kinds.items()}

    def _reward(self, infos: dict[str, Any]) -> Any:
        """The weighted sum of the reward terms, float64 `[B]`, or a number where the info is of one world."""
        rewards, terms = np.zeros(np.shape(infos["confidence"])), infos["reward_terms"]
        for name, weight in self.reward_weights.items():
            rewards = rewards + weight * terms[name]
        return rewards

    def _infos(self, out: StepOutput, state: RowState, elapsed: np.ndarray) -> dict[str, Any]:
        """Info of all worlds, so many steps after their starts: arrays `[B]`, in dictionaries where info has them."""
        values = [*out.telemetry.values(), *out.reward_terms.values(), out.confidence]
        columns = torch.stack(values).double().cpu().numpy()  # the caller's to keep
        told = len(out.telemetry)
        return {
            "telemetry": dict(zip(out.telemetry, columns[:told], strict=True)),
            "reward_terms": dict(zip(out.reward_terms, columns[told:-1], strict=True)),
            "confidence": columns[-1],
            "given": {name: value.cpu().numpy() for name, value in self.world.given(state).items()},
            "time": self.world.seconds(state, elapsed),
        }

    def _check_actions(self, actions: Any, *batch: int) -> np.ndarray:
        """Clean float32 actions `[*batch, A]` inside the box, or ValueError."""
        low, high, (controls, inside) = self._low, self._high, self._box_in_words
        shape = (*batch, len(low))
        wanted = f"actions are an array {list(shape)}, rows of" if batch else f"an action is {len(low)} numbers"
        wanted = f"{wanted} {controls} in {inside}"
        numbers = real_numbers(actions, wanted)
        if numbers.shape != shape or np.isnan(numbers).any():
            got = repr(numbers) if numbers.size <= 8 else f"shape {list(numbers.shape)}"
            nan = " with NaN" if numbers.shape == shape else ""
            raise ValueError(f"{wanted}, got {got}{nan}")
        with np.errstate(over="ignore"):
            actions = numbers.astype(np.float32)
        if ((actions < low) | (actions > high)).any():
            self._warn_once(f"an action lies outside {inside} and is clipped (said once)")
        return np.clip(actions, low, high)

    def _check_state(self, state: EnvState | bytes) -> EnvState:
        """A state of this world, or ValueError."""
        fingerprint = self._world_fingerprint()
        if isinstance(state, bytes):
            state = EnvState.from_bytes(state, self.world.State, fingerprint, self.world.device)
        if not isinstance(state, EnvState):
            raise ValueError(f"a state is what get_state() gives, or its to_bytes(), got {type(state).__name__}")
        if state.fingerprint != fingerprint:
            raise ValueError(f"the state belongs to world {state.fingerprint}, this is {fingerprint}")
        state.check(self.world)
        return state

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            gym.logger.warn(message)

    def _world_fingerprint(self) -> str:
        """The fingerprint of the world; of one made in memory it is computed once, from its weights."""
        if not self._fingerprint:
            self._fingerprint = self.world.digest()
        return self._fingerprint


def rows_of(seen: Observations, rows: Any) -> Observations:
    """Some rows of observations, or one."""
    return {name: value[rows] for name, value in seen.items()} if isinstance(seen, dict) else seen[rows]


def copied(seen: Observations) -> Observations:
    """The same observations, the caller's to keep."""
    return {name: value.copy() for name, value in seen.items()} if isinstance(seen, dict) else seen.copy()


def _check_passes(passes: int | None) -> int | None:
    """A number of passes of the network, or ValueError."""
    if passes is None:
        return None
    return whole_number(passes, f"sampling_steps must be None or from 1 to {MOST_PASSES}", 1, MOST_PASSES)


def _lasting(world: str | Path) -> str:
    """The name of a world that also holds in another folder."""
    named = isinstance(world, str) and (world in shipped_worlds() or world.startswith(HUB))
    return str(world) if named else str(Path(world).resolve())
