"""Films of clips, from the command line."""

from __future__ import annotations

import logging
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drivedit.config import DEFAULT_WORLD, MODEL_TYPES, InferenceArgs, WorldSpec
from drivedit.inference.compile import compiled
from drivedit.inference.engine import InferenceEngine
from drivedit.inference.films import read_controls, read_table, write_film, write_films
from drivedit.inference.pipelines.dreams import DreamPipeline
from drivedit.utils.commands import run

log = logging.getLogger(__name__)

FRAMES = 100  # of a clip whose length nothing tells
BOX = ("x", "y", "z", "length", "width", "height", "yaw", "speed")
VIDEO = {"height": 480, "width": 848, "num_frames": 25, "num_inference_steps": 50}  # of a text, unless it is said
FPS = 24.0


def generate(
    world: str = DEFAULT_WORLD,
    out: Path = Path("clip.mp4"),
    *,
    scene: tuple[str, ...] = ("random",),
    prompt: str = "",
    controls: tuple[Path, ...] = (),
    route: str | None = None,
    closed: bool = False,
    layout: str | None = None,
    frames: int | None = None,
    clips: int = 1,
    together: int = 8,
    seed: int = 0,
    sampling_steps: int | None = None,
    guidance: float = 1.0,
    height: int | None = None,
    compile: bool = False,
    device: str = "auto",
) -> Path:
    """Films clips of a world, under given controls. Of several clips those that are there already are kept.

    Args:
        world: Shipped name, folder or hub:NAME/WORLD of a world.
        out: The film, an mp4 or WebP; of several clips their folder.
        scene: Start scenes by number, or random; clips take them in turns.
        prompt: Words that choose a scene by its attributes, for instance "night rain", in a world that has such.
        controls: CSV files with a column for each control of the world and a line for each step, or for each time of a
            column `time` in seconds; clips take them in turns. None: at rest.
        route: CSV file of a route, columns x and y in metres, or random. None: the scene's.
        closed: Whether that route is a loop.
        layout: CSV file of others on the road, columns x, y, z, length, width, height, yaw and speed, or scene: those
            of the scene. None: they are dreamed.
        frames: Frames of a clip, its start included; None: as many as the shortest of the controls leads to, or 100.
        clips: Number of clips.
        together: Clips that are dreamed at once.
        seed: Of the first clip; the others count on.
        sampling_steps: Network passes for one frame; None: the world's own number.
        guidance: Scale of the guidance on the controls, for worlds that have learned it; 1: none.
        height: Height of the films in pixels, even; None: the world's.
        compile: Whether the step is compiled, which needs a C++ compiler.
        device: Where it is dreamed: auto, cpu, cuda, ...

    Returns:
        The film, or the folder of several.

    Raises:
        ValueError: An option does not fit the world, or the folder has clips that were made otherwise.
    """
    if clips < 1 or together < 1 or (height is not None and (height < 2 or height % 2)):
        raise ValueError(f"clips and together are at least 1, height is even, got {clips}, {together} and {height}")
    args = InferenceArgs("world", world, num_inference_steps=sampling_steps, guidance_scale=guidance, device=device)
    engine = InferenceEngine.create_engine(args)
    assert isinstance(engine.pipeline, DreamPipeline)
    loaded = engine.pipeline.world
    driven = _driven(controls, frames, loaded.spec)
    options: dict[str, Any] = {"route": _places(route, ("x", "y")), "layout": _places(layout, BOX)}
    options |= {"closed": True} if closed else {}
    scenes = [int(name) if name.isdecimal() else name for name in scene]

    def dream(group: range) -> Tensor:
        done = engine.run(
            [prompt] * len(group),
            controls=torch.from_numpy(driven[[row % len(driven) for row in group]]),
            options=[{**options, "scene": scenes[row % len(scenes)]} for row in group],
            seeds=[seed + row for row in group],
        )
        for row, ended in zip(group, done["ended"], strict=True):
            if ended is not None:
                log.info("the drive of clip %d ended at frame %d", row, ended)
        return done["samples"]

    write = partial(write_film, fps=loaded.spec.fps, height=height)
    settings = {
        "world": loaded.fingerprint, "scene": scenes, "prompt": prompt, "controls": driven.tolist(), "closed": closed,
        **{name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in options.items()},
        "together": together, "seed": seed, "sampling_steps": sampling_steps, "guidance": guidance, "height": height,
        "compile": compile,
    }  # fmt: skip
    with compiled(loaded, sampling_steps) if compile else nullcontext():
        if clips == 1:
            write(out, dream(range(1))[0])
        else:
            write_films(out, clips, together, settings, dream, write)
    return out


def _driven(paths: tuple[Path, ...], frames: int | None, spec: WorldSpec) -> np.ndarray:
    """The controls of the tables, or of one at rest, float32 `[N, frames - 1, A]`."""
    tables = [read_controls(path, spec) for path in paths]
    count = min(map(len, tables), default=FRAMES - 1) if frames is None else frames - 1
    if count < 1:
        raise ValueError(f"a clip has its start and at least 1 more frame, got {count + 1}")
    tables = tables or [np.tile(np.array(spec.rest, np.float32), (count, 1))]
    for path, table in zip(paths, tables, strict=False):
        if len(table) < count:
            raise ValueError(f"{count + 1} frames need {count} steps of controls, {path} has {len(table)}")
    return np.stack([table[:count] for table in tables])


def _places(told: str | None, columns: tuple[str, ...]) -> np.ndarray | str | None:
    """Rows of a table, or the word that stands for them."""
    if told is None or not told.lower().endswith(".csv"):
        return told
    return np.stack([*read_table(told, columns).values()], 1)


def generate_video(
    model_path: str,
    prompt: str = "",
    model_type: str = "mochi",
    output_path: Path = Path("output.mp4"),
    negative_prompt: str | None = None,
    height: int | None = None,
    width: int | None = None,
    num_frames: int | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float = 1.0,
    flow_shift: float = 7.0,
    seed: int = 1024,
    text_encoder_path: str | None = None,
    device: str = "auto",
) -> Path:
    """Films a clip of a text. No pretrained weights come with this package.

    Args:
        model_path: Folder of transformer.safetensors and vae.safetensors; of model_type world, a world.
        prompt: The text.
        model_type: mochi, hunyuan, hunyuan_hf, wan, or world.
        output_path: The film, an mp4 or WebP.
        negative_prompt: What guidance leads away from, needed where guidance_scale is not 1.
        height: Pixels, a multiple of 8; None: 480, or the world's own, and so on.
        width: Pixels, a multiple of 8; None: 848.
        num_frames: Frames, 4 k + 1 of a text; None: 25, or 100 of a world.
        num_inference_steps: Network passes; None: 50, or the world's own number for a frame.
        guidance_scale: Scale of classifier-free guidance; 1: none.
        flow_shift: Shift of noise levels towards noise; 1: none.
        seed: Of the clip.
        text_encoder_path: Local folder of a pretrained text encoder; None: the hash of words.
        device: Where it is made: auto, cpu, cuda, ...
    """
    sizes: dict[str, Any] = {"height": height, "width": width, "num_frames": num_frames}
    sizes["num_inference_steps"] = num_inference_steps
    missing = VIDEO if model_type in MODEL_TYPES else {"num_frames": FRAMES}
    sizes |= {name: value for name, value in missing.items() if sizes[name] is None}
    args = InferenceArgs(
        model_type, model_path, **sizes, guidance_scale=guidance_scale, flow_shift=flow_shift, seed=seed,
        text_encoder_path=text_encoder_path, device=device,
    )  # fmt: skip
    engine = InferenceEngine.create_engine(args)
    clip = engine.run(prompt, negative_prompt=negative_prompt)["samples"][0]
    pipeline = engine.pipeline
    write_film(output_path, clip, pipeline.world.spec.fps if isinstance(pipeline, DreamPipeline) else FPS)
    return output_path


def main(words: list[str] | None = None) -> int:
    """The published command, with `--model_type --model_path --prompt --output_path`; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return run(generate_video, words, program="python -m drivedit.inference.generate", dotted=True)


if __name__ == "__main__":
    sys.exit(main())
