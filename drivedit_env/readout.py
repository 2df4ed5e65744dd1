"""Who is where, read off the pictures that an environment shows: `info["agents"]`, and reward terms made of it.

A reader sees nothing but pictures, so dreams, simulators and films are read alike. A read-out is a function of the
picture, the one a step before where there is one, and noise that seed and step name: what is done again is read again.

Legend: B pictures, m samples, K agents. Boxes are x (ahead), y (to the left), z of the middle, length, width, height
(m), yaw (rad to the left), speed (m/s along it) in the own car's frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from drivedit.models import World, find_world
from drivedit.models.finding import AGENTS
from drivedit.models.sets.agent_sets import AgentSamples, summarise
from drivedit.models.sets.agents import AgentsReader
from drivedit.utils import generator, resolve_device, whole_number
from drivedit_env.infos import Infos, masked, put, zeros

OWN_SIZE = (4.4, 1.8)  # m: length and width of the own car
HORIZON = 5.0  # s to look ahead
MOMENTS = 26  # of it that are looked at
CLEAR = 20.0  # m: no clearance is larger
OWN_SPEED = "speed"  # among what a reader tells of the own car
Told = dict[str, np.ndarray]


class Readout:
    """Reads pictures; it does not change, so copies of environments share it.

    Args:
        reader: Who reads.
        every: Steps from one read-out to the next.
        samples: Sets drawn of each picture.
        steps: Of the solver.
        pessimism: Standard deviations over samples by which clearance and time to collision are lowered.

    Raises:
        ValueError: A number is out of its range.
    """

    def __init__(
        self, reader: AgentsReader, every: int = 1, samples: int = 4, steps: int = 4, pessimism: float = 1.0
    ) -> None:
        for name, value in {"every": every, "samples": samples, "steps": steps}.items():
            whole_number(value, f"{name} of a read-out is a whole number from 1 to 1000", 1, 1000)
        if not 0 <= pessimism <= 100:
            raise ValueError(f"pessimism is from 0 to 100 standard deviations, got {pessimism}")
        self.reader, self.every, self.samples, self.steps = reader.eval(), every, samples, steps
        self.pessimism = pessimism

    def __deepcopy__(self, memo: dict[int, Any]) -> Readout:
        return self

    def check(self, shape: Sequence[int]) -> None:
        """ValueError unless pictures of a shape can be read."""
        if tuple(shape) != (*self.reader.config.image_size, 3):
            raise ValueError(
                f"the reader takes pictures {[*self.reader.config.image_size, 3]}, here they are {list(shape)}"
            )

    def due(self, steps: Any) -> Any:
        """Whether it is read at a step, counted from 0 at the reset."""
        return steps % self.every == 0

    def read(
        self, pictures: np.ndarray, before: np.ndarray | None, known: np.ndarray | None,
        streams: Sequence[tuple[int, int]],
    ) -> Told:  # fmt: skip
        """What info tells of pictures.

        Args:
            pictures: uint8 `[B, H, W, 3]`.
            before: Those a step before; None: not known.
            known: Bool `[B]`, of which they are known; None: of all.
            streams: Seed and step of each, which name its noise.

        Returns:
            `boxes` and `spread` float32 `[B, K, 8]` and `presence` `[B, K]`, the likely ones first and of them the
            nearest; `clearance` (m) and `time_to_collision` (s) `[B]`.
        """
        noise = self.reader.noise([generator(seed, "agents", step) for seed, step in streams], self.samples)
        drawn = self.reader.sample(pictures, None, self.samples, self.steps, before=before, known=known, noise=noise)
        read = summarise(drawn)
        told = {"boxes": read.boxes, "spread": read.spread, "presence": read.presence}
        told["clearance"] = self.lowered(clearances(drawn))
        told["time_to_collision"] = self.lowered(times_to_collision(drawn))
        return {name: value.float().cpu().numpy() for name, value in told.items()}

    def lowered(self, values: Tensor) -> Tensor:
        """Means `[B]` of values of samples `[B, m]`, less some of their standard deviations, at least 0."""
        return (values.mean(1) - self.pessimism * values.std(1, correction=0)).clamp(min=0)


def find_reader(readout: Any, world: Any = None, device: str = "auto") -> AgentsReader:
    """A reader as `readout` names it.

    Args:
        readout: An `AgentsReader`, its file, or True: the one in the folder of the world.
        world: The world, as environments take it.
        device: Where a reader that is loaded goes.

    Raises:
        ValueError: True is said of a world in memory, or it is none of all that.
        FileNotFoundError: There is no such file; the world has no reader.
    """
    if isinstance(readout, AgentsReader):
        return readout
    if isinstance(readout, (str, Path)):
        return AgentsReader.load(readout).to(resolve_device(device))
    if readout is not True:
        raise ValueError(f"readout is True, the path of a reader, or an AgentsReader, got {readout!r}")
    if isinstance(world, World):
        raise ValueError("readout=True takes the reader beside a world on disk, and this one is in memory: name a file")
    path = find_world(world) / AGENTS
    if not path.is_file():
        raise FileNotFoundError(
            f"the world {world} has no read-out of agents, there is no {path}; train one (python -m drivedit.training "
            "agents), and name its file or put it there"
        )
    return AgentsReader.load(path).to(resolve_device(device))


def make_readout(readout: Any, every: int, world: Any = None, device: str = "auto") -> Readout | None:
    """The read-out that the argument `readout` of an environment asks for; None: none. Errors as `find_reader`."""
    if readout is None or readout is False:
        return None
    return readout if isinstance(readout, Readout) else Readout(find_reader(readout, world, device), every)


def read_rows(
    readout: Readout, pictures: np.ndarray, before: np.ndarray | None, elapsed: np.ndarray, scenes: np.ndarray,
    moved: np.ndarray, begun: np.ndarray,
) -> Infos:  # fmt: skip
    """Info of agents in some of many worlds, with Gymnasium's masks.

    Args:
        readout: What reads; for one world at least it is time.
        pictures: uint8 `[N, H, W, 3]`, of all worlds.
        before: Those a step before; None: not known.
        elapsed: Int `[N]` steps since the starts.
        scenes: Int `[N]`, which name the noise.
        moved: Bool `[N]`, whose pictures are new.
        begun: Bool `[N]`, those which stand at their start.
    """
    mask = moved & readout.due(elapsed)
    rows = np.flatnonzero(mask)
    last, streams = None if before is None else before[rows], zip(scenes[rows], elapsed[rows], strict=True)
    told = readout.read(pictures[rows], last, ~begun[rows], [(int(scene), int(step)) for scene, step in streams])
    infos = zeros(told, len(mask))
    put(infos, mask, told)
    return masked({"agents": infos}, mask)


class AgentsReadout(gym.Wrapper):
    """Puts `info["agents"]` on every n-th step of any environment that shows pictures, from the reset on.

    `info["agents"]` has what `Readout.read` tells, of this picture. With `rewards` two terms are added to the reward,
    those of the last read-out until there is a new one: `clearance`, how far below `safe_distance` the clearance is, as
    a share and negative; and `time_to_collision`, likewise below `safe_time`. Both are told in `info["reward_terms"]`.

    Args:
        env: Its observations are pictures uint8 `[H, W, 3]`, or a dictionary with such.
        reader: An `AgentsReader`, or its file.
        every: Steps from one read-out to the next.
        rewards: Weights of the terms by name; none: the reward stays as it is.
        picture: Name of the picture where there are several observations; None: the only one that fits.
        samples: As in `Readout`.
        steps: As in `Readout`.
        pessimism: As in `Readout`.
        safe_distance: Metres.
        safe_time: Seconds, at most 5.

    Raises:
        ValueError: No observation can be read, or a term or number cannot be.
    """

    def __init__(
        self, env: gym.Env, reader: AgentsReader | str | Path, every: int = 1,
        rewards: Mapping[str, float] | None = None, picture: str | None = None, samples: int = 4, steps: int = 4,
        pessimism: float = 1.0, safe_distance: float = 10.0, safe_time: float = 3.0,
    ) -> None:  # fmt: skip
        super().__init__(env)
        self.readout = Readout(find_reader(reader), every, samples, steps, pessimism)
        self.picture = self._find(picture)
        self.limits = {"clearance": float(safe_distance), "time_to_collision": float(safe_time)}
        if unknown := set(rewards or {}) - set(self.limits):
            raise ValueError(f"rewards knows the terms {list(self.limits)}, got {sorted(map(str, unknown))}")
        if not 0 < safe_distance <= CLEAR or not 0 < safe_time <= HORIZON:
            raise ValueError(f"safe_distance is from 0 to {CLEAR:g} m, safe_time from 0 to {HORIZON:g} s, "
                             f"got {safe_distance} and {safe_time}")  # fmt: skip
        self.rewards = {name: float(weight) for name, weight in (rewards or {}).items()}
        self._seed, self._elapsed, self._terms = 0, 0, dict.fromkeys(self.rewards, 0.0)
        self._before: np.ndarray | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts the environment, and reads its first picture. Without a seed the noise is that of the next seed."""
        seen, info = self.env.reset(seed=seed, options=options)
        self._seed = self._seed + 1 if seed is None else int(seed)
        self._elapsed, self._before, self._terms = 0, None, dict.fromkeys(self.rewards, 0.0)
        return seen, self._told(seen, info)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Takes a step, and reads its picture where it is time."""
        seen, reward, terminated, truncated, info = self.env.step(action)
        self._elapsed += 1
        info = self._told(seen, info)
        reward = float(reward) + sum(self.rewards[name] * term for name, term in self._terms.items())
        return seen, reward, terminated, truncated, info

    def _told(self, seen: Any, info: dict[str, Any]) -> dict[str, Any]:
        """The info with what is read."""
        now = np.asarray(seen if self.picture is None else seen[self.picture])[None]
        if self.readout.due(self._elapsed):
            told = self.readout.read(now, self._before, None, [(self._seed, self._elapsed)])
            info = {**info, "agents": {name: value[0] for name, value in told.items()}}
            self._terms = {
                name: min(float(told[name][0]) / self.limits[name] - 1.0, 0.0) for name in self.rewards
            }  # fmt: skip
        self._before = now.copy()
        if self.rewards:
            info = {**info, "reward_terms": {**info.get("reward_terms", {}), **self._terms}}
        return info

    def _find(self, picture: str | None) -> str | None:
        """Name of the observation that is read; None: there is one alone."""
        space = self.env.observation_space
        kinds = dict(space.spaces) if isinstance(space, gym.spaces.Dict) else {"": space}
        wanted = (*self.readout.reader.config.image_size, 3)
        fitting = [name for name, kind in kinds.items() if kind.shape == wanted and kind.dtype == np.uint8]
        if picture is not None and picture not in fitting or picture is None and len(fitting) != 1:
            shown = {name: f"{kind.dtype} {list(kind.shape or ())}" for name, kind in kinds.items()}
            raise ValueError(
                f"the reader takes one picture uint8 {list(wanted)}, the observations are {shown}"
                + ("; say which one: picture=NAME" if len(fitting) > 1 else "")
            )
        name = fitting[0] if picture is None else picture
        return name or None


# -- distances -------------------------------------------------------------------------------------------------------


def clearances(samples: AgentSamples, ahead: Tensor | None = None) -> Tensor:
    """Metres from the own car's outline to the nearest agent's, `[B, m]`, at most `CLEAR`.

    Args:
        samples: Sets.
        ahead: `[..., B, m, K, 2]` other places of their middles; None: where they are.
    """
    places = samples.boxes[..., :2] if ahead is None else ahead
    half, own = samples.boxes[..., 3:5] / 2, samples.boxes.new_tensor(OWN_SIZE) / 2
    yaw = samples.boxes[..., 6]
    corners = samples.boxes.new_tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]])
    theirs = _turned(corners * half[..., None, :], yaw[..., None]) + places[..., None, :]  # [..., K, 4, 2]
    ours = _turned(corners * own - places[..., None, :], -yaw[..., None])
    apart = torch.minimum(_outside(theirs, own), _outside(ours, half[..., None, :]))
    apart = apart * torch.maximum(_beside(theirs, own), _beside(ours, half))
    return torch.where(samples.present, apart, CLEAR).amin(-1).clamp(max=CLEAR)


def times_to_collision(samples: AgentSamples) -> Tensor:
    """Seconds until outlines touch where all go straight on at their speeds, `[B, m]`, at most `HORIZON`.

    A reader that does not tell the own car's speed takes it to stand.
    """
    boxes, own = samples.boxes, samples.ego.get(OWN_SPEED)
    velocity = boxes[..., 7:8] * torch.stack([boxes[..., 6].cos(), boxes[..., 6].sin()], -1)
    if own is not None:
        velocity = velocity - torch.stack([own, torch.zeros_like(own)], -1)[..., None, :]
    times = torch.linspace(0, HORIZON, MOMENTS, device=boxes.device)
    places = boxes[..., :2] + times.view(-1, 1, 1, 1, 1) * velocity
    touching = clearances(samples, places) <= 0  # [MOMENTS, B, m]
    first = torch.where(touching, times.view(-1, 1, 1), HORIZON)
    return first.amin(0)


def _turned(points: Tensor, yaw: Tensor) -> Tensor:
    """Points `[..., 2]` turned to the left by angles `[...]`."""
    (x, y), cos, sin = points.unbind(-1), yaw.cos(), yaw.sin()
    return torch.stack([cos * x - sin * y, sin * x + cos * y], -1)


def _outside(points: Tensor, half: Tensor) -> Tensor:
    """Distance of the nearest of points `[..., 4, 2]` from a rectangle around zero, of half its sides."""
    return (points.abs() - half).clamp(min=0).norm(dim=-1).amin(-1)


def _beside(points: Tensor, half: Tensor) -> Tensor:
    """Whether points `[..., 4, 2]` all lie beyond one side of such a rectangle: if not so both ways, outlines cross."""
    return ((points.amin(-2) > half) | (points.amax(-2) < -half)).any(-1)
