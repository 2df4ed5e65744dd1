"""From drawn frames to the start scenes of a world: what lies between the frames, and how the car moved.

Legend: B scenes, n frames that are drawn, m + 1 frames of a scene, H W C of a frame.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from drivedit.config import WorldSpec
from drivedit.models.pixel.generator import SceneGenerator
from drivedit.models.scenes import Scene, check_scene


def draw_scenes(
    scenes: SceneGenerator, spec: WorldSpec, attributes: Mapping[str, str] | None, speed: float | None, count: int,
    generator: torch.Generator, *, steps: int | None = None, guidance: float | None = None, method: str | None = None,
) -> list[Scene]:  # fmt: skip
    """Draws start scenes of a world, on no road: as for any scene, a route may be added (`Scene.with_route`).

    Args:
        scenes: The generator.
        spec: Of the world.
        attributes: As of `SceneGenerator.sample`, like the others.
        speed: Of the car, m/s, by which its poses tell how it came; None: open, and no poses are known.
        count: Scenes.
        generator: Of the noise.
        steps: Of the sampler.
        guidance: Scale of guidance.
        method: Of the sampler.

    Raises:
        ValueError: The generator draws other pictures than the world shows or in other steps, or something is told that
            either does not know.
    """
    check_world(scenes, spec)
    frames = scenes.sample(attributes, speed, count, generator, steps=steps, guidance=guidance, method=method)
    return [scene_of(each, spec, scenes.config.apart, speed, attributes) for each in frames]


def check_world(scenes: SceneGenerator, spec: WorldSpec) -> None:
    """Checks that a generator draws what a world shows.

    Raises:
        ValueError: Pictures or the seconds of a step differ; both sides are named.
    """
    own = scenes.config.spec
    there = spec.only([own.picture]) if own.picture in spec.observations else spec
    own.check_same(there, "the generator", "the world", ("observations", "dt"))
    if spec.picture != own.picture:
        raise ValueError(f"the generator draws {own.picture!r}, the first picture of the world is {spec.picture!r}")


def scene_of(
    frames: np.ndarray, spec: WorldSpec, apart: int, speed: float | None = None,
    attributes: Mapping[str, str] | None = None,
) -> Scene:  # fmt: skip
    """A scene that ends with some frames, the car at rest controls and on a straight line.

    Frames in between are blended of those before and after them. A single frame is shown twice.

    Args:
        frames: uint8 `[n, H, W, C]`, the last one is now.
        spec: Of the world.
        apart: Steps from one frame to the next.
        speed: Of the car, m/s; None: not known.
        attributes: What it is like; what the world does not know is left out.

    Raises:
        ValueError: The frames are none of the world's, or an attribute has a value that the world does not know.
    """
    between = blended(frames, apart)
    count = len(between)
    back = spec.dt * np.arange(1 - count, 1)
    poses = None if speed is None else np.stack([speed * back, 0 * back, 0 * back], 1).astype(np.float32)
    told = {name: value for name, value in (attributes or {}).items() if name in spec.attributes}
    controls = np.tile(np.array(spec.rest, np.float32), (count - 1, 1))
    return check_scene(Scene({spec.picture: between}, controls, poses=poses, attributes=told), spec)


def blended(frames: np.ndarray, apart: int) -> np.ndarray:
    """Frames `[m + 1, H, W, C]` at every step of `[n, H, W, C]` that are some steps apart, m = apart (n - 1), >= 1."""
    if len(frames) == 1:
        return np.repeat(frames, 2, 0)
    place = np.arange(apart * (len(frames) - 1) + 1)
    before = np.minimum(place // apart, len(frames) - 2)
    share = (place / apart - before).reshape(-1, 1, 1, 1)
    mixed = np.rint(frames[before] + share * (frames[before + 1].astype(np.float64) - frames[before]))
    return mixed.astype(np.uint8)
