"""Sheets of drawn start scenes, for people to look at what a generator makes of words."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from drivedit.config import DEFAULT_WORLD
from drivedit.models import Scene, World
from drivedit.models.pixel.generator import SceneGenerator
from drivedit.models.pixel.start_scenes import check_world, draw_scenes
from drivedit.models.prompts import attributes_of
from drivedit.utils import generator as seeded_generator
from drivedit.utils import resolve_device, rgb, write_atomically

COLUMNS = 8  # scenes side by side
LABEL = 14  # pixels above each kind of scenes


def scenes(
    world: str = DEFAULT_WORLD,
    generator: Path = Path("scenes.safetensors"),
    attributes: tuple[str, ...] = (),
    count: int = 16,
    out: Path = Path("sheet.png"),
    *,
    speed: float | None = None,
    seed: int = 0,
    steps: int | None = None,
    guidance: float | None = None,
    sampler: str | None = None,
    device: str = "auto",
) -> Path:
    """Draws start scenes of a world and shows the last frame of each.

    Args:
        world: Shipped name, folder or hub:NAME/WORLD of the world that they are for.
        generator: File of the generator, as `python -m drivedit.training pixel` writes it.
        attributes: Words for what they are like, "night,fog" or "foggy night, dense traffic"; of several there is a
            row for each. None: a row for each value of each attribute.
        count: Scenes of each row.
        out: Picture to write, a PNG.
        speed: Of the car, m/s; None: any.
        seed: Of the noise, the same in every row.
        steps: Of the sampler; None: the generator's, like the next two.
        guidance: Scale of guidance; 1: none.
        sampler: euler, heun, dpm_pp or dpm_pp_2s.
        device: Where they are drawn: auto, cpu, cuda, ...

    Returns:
        The path of the picture.

    Raises:
        FileNotFoundError: There is no such world or generator.
        ValueError: A word is no attribute, two contradict each other, the generator draws other pictures than the world
            shows, a number is out of its range, or the sheet is no PNG.
    """
    if out.suffix.lower() != ".png":
        raise ValueError(f"out must be a .png, got {out}")
    drawing, where = SceneGenerator.load(generator), resolve_device(device)
    own, spec = drawing.config.spec, World.from_pretrained(world, device="cpu").spec
    check_world(drawing, spec)
    told = [attributes_of(words, own) for words in attributes]
    told = told or [{name: value} for name, values in own.attributes.items() for value in values] or [{}]
    drawing.to(where)
    rows = []
    for kind in told:
        rng = seeded_generator(seed, "scenes")
        drawn = draw_scenes(
            drawing, spec, kind, speed, count, rng, steps=steps, guidance=guidance, method=sampler,
        )  # fmt: skip
        rows.append((", ".join(f"{name} {value}" for name, value in kind.items()) or "any", drawn))
    done, data = cv2.imencode(".png", cv2.cvtColor(sheet(rows), cv2.COLOR_RGB2BGR))
    assert done
    write_atomically(out, lambda file: file.write(data.tobytes()))
    return out


def sheet(rows: list[tuple[str, list[Scene]]]) -> np.ndarray:
    """A picture uint8 `[., ., 3]` of the last frames of scenes, each kind below its label, at most 8 side by side."""
    lines = []
    for label, drawn in rows:
        frames = rgb(np.stack([scene.frames[-1] for scene in drawn]))
        wide = min(max(len(each) for _, each in rows), COLUMNS)
        filled = np.concatenate([frames, np.zeros((-len(frames) % wide, *frames.shape[1:]), np.uint8)])
        head = np.zeros((LABEL, wide * frames.shape[2], 3), np.uint8)
        cv2.putText(head, label, (3, 11), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (255, 255, 255), 1, cv2.LINE_AA)
        lines += [head, *(np.concatenate(list(line), 1) for line in filled.reshape(-1, wide, *frames.shape[1:]))]
    return np.concatenate(lines)
