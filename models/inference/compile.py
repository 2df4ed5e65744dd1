"""Compiles the step and the decoder of a world ahead of time into C++ libraries, one each per number of worlds.

A world alone spends most of a step on calling some hundreds of small operators; compiled they are a few loops between
the matrix products. What is drawn at random stays outside. A library holds the weights, and is kept in
`DRIVEDIT_CACHE` (else `~/.cache/drivedit`), so that only the first start takes long.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from drivedit import models, utils
from drivedit.inference.tune import PackedConv
from drivedit.models import Scene, World, WorldState
from drivedit.models.world import StepOutput

logger = logging.getLogger(__name__)

CHANGED = ("latents", "motion", "pose", "arc")  # the graph gives these anew; keys, values and clock it writes in place
READ = ("latent", "ended", "ended_probability", "telemetry", "confidence")


class CompiledStep:
    """`World.step` for a fixed number of worlds and of sampling steps; made by `compile_step`.

    Args:
        world: The world.
        library: The file of the compiled step.
    """

    def __init__(self, world: World, library: Path) -> None:
        self.world, self._loader = world, _load(str(library))
        self._terms = ("progress", *world.config.constant_reward, *world.config.end_reward)

    def __call__(self, state: WorldState, controls: Tensor) -> tuple[WorldState, StepOutput]:
        """Dreams one frame of every world; see `World.step`."""
        x = self.world.draw(state)
        tensors = {name: value.contiguous() for name, value in state.tensors().items()}
        values = iter(self._loader.run([x, controls.contiguous(), *_by_layer(tensors)]))
        tensors |= {name: next(values) for name in CHANGED}
        read = {name: next(values) for name in READ}
        terms = dict(zip(self._terms, values, strict=True))
        return WorldState(**{**tensors, "control": controls.clone()}), StepOutput(reward_terms=terms, **read)


class CompiledDecoder:
    """`World.decode` with a library for a fixed number of latents; made by `compile_decoder`.

    Args:
        world: The world.
        rows: Number of latents; others go through `World.decode`, which gives the same bits.
        library: The file of the compiled decoder.
    """

    def __init__(self, world: World, rows: int, library: Path) -> None:
        self.world, self.rows, self._loader = world, rows, _load(str(library))

    def __call__(self, latents: Tensor) -> np.ndarray:
        """Decodes latents `[B, C, h, w]` to uint8 frames `[B, H, W, 3]`."""
        if len(latents) != self.rows:
            return self.world.decode(latents)
        return self._loader.run([latents.contiguous()])[0].numpy()


def compile_step(world: World, rows: int, sampling_steps: int | None = None) -> CompiledStep | None:
    """Compiles the step of a world, which takes half a minute (one world: a minute), or finds an earlier library.

    What it computes differs from `World.step` by rounding only.

    Args:
        world: The world, with its weights as they are now.
        rows: Worlds that are stepped together.
        sampling_steps: Network passes for one frame; None: the world's own number.

    Returns:
        The step; None, after a warning, where there is no compiler or the world is not on a CPU.

    Raises:
        ValueError: The world has no window, so its cache fills up.
    """
    if world.config.student.window is None:
        raise ValueError("a step can be compiled for worlds with a window, this one attends to all frames")
    steps = sampling_steps or world.config.sampling_steps

    def example() -> tuple[Tensor, ...]:
        height, width = world.config.image_size
        blank = Scene(np.zeros((2, height, width, 3), np.uint8), np.zeros((1, 2), np.float32))
        state = world.start([blank], [0]).select([0] * rows)
        return world.draw(state), torch.zeros(rows, 2), *(value.clone() for value in _by_layer(state.tensors()))

    library = _compile(world, f"step-{rows}-{steps}", _Step(world, steps), example, trials=rows == 1)
    return None if library is None else CompiledStep(world, library)


def compile_decoder(world: World, rows: int) -> CompiledDecoder | None:
    """Compiles the decoder of a world, which takes some ten seconds, or finds an earlier library.

    Args:
        world: The world, with its weights as they are now.
        rows: Latents that are decoded together.

    Returns:
        The decoder; None where there is no compiler, or the decoder is not packed (`drivedit.inference.tune`).
    """
    if not isinstance(world.vae.decoder[0], PackedConv):
        return None
    library = _compile(
        world, f"decoder-{rows}", _Decoder(world), lambda: (torch.zeros(rows, *world.latent_shape()),)
    )  # fmt: skip
    return None if library is None else CompiledDecoder(world, rows, library)


class _Step(nn.Module):
    """The step from tensors to tensors."""

    def __init__(self, world: World, steps: int) -> None:
        super().__init__()
        self.world, self.steps = world, steps

    def forward(self, x: Tensor, controls: Tensor, *tensors: Tensor) -> list[Tensor]:
        layers = len(self.world.dynamics.blocks)
        rings: Any = tensors[:layers], tensors[layers : 2 * layers]
        state = WorldState(*rings, *tensors[2 * layers :])
        state, out = self.world.dream(state, controls, x, self.steps)
        changed = [getattr(state, name).contiguous() for name in CHANGED]
        return [*changed, *(getattr(out, name) for name in READ), *out.reward_terms.values()]


class _Decoder(nn.Module):
    """The decoder from tensor to tensor."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    def forward(self, latents: Tensor) -> Tensor:
        return self.world.picture(latents).contiguous()


def _by_layer(tensors: dict[str, Tensor]) -> list[Tensor]:
    """The tensors of a state, each layer's ring by itself: else a graph copies all of them at each write."""
    rest = [value for name, value in tensors.items() if name not in ("k", "v")]
    return [*tensors["k"].unbind(), *tensors["v"].unbind(), *rest]


def _library(world: World, name: str) -> Path:
    """Where a compiled part lies: the name tells weights, code, torch, processor and threads."""
    place = Path(os.environ.get("DRIVEDIT_CACHE", "~/.cache/drivedit")).expanduser()
    told = [world.fingerprint or world.digest(), world.config, world.dtype, name, torch.__version__]
    told += [torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()]
    for code in (models.__file__, utils.__file__, __file__):
        told += [file.read_text() for file in sorted(Path(str(code)).parent.glob("*.py"))]
    return place / f"{name}-{hashlib.sha256(repr(told).encode()).hexdigest()[:24]}.pt2"


@torch.no_grad()
def _compile(
    world: World, name: str, part: nn.Module, example: Callable[[], tuple[Tensor, ...]], trials: bool = False
) -> Path | None:
    """The library of a part of a world, written in one move unless it is there; None, after a warning, if it cannot be.

    In `trials` the compiler measures its own products too: where there is a single row they are many times faster.
    """
    if world.device.type != "cpu":
        logger.warning("only on a CPU is a step compiled: the world on %s goes on without", world.device)
        return None
    library = _library(world, name)
    if library.is_file():
        return library
    from torch._inductor.cpp_builder import get_cpp_compiler  # takes two seconds
    from torch._inductor.exc import CppCompileError, InductorError, InvalidCxxCompiler

    choices: dict[str, Any] = {"freezing": True}
    if trials:
        choices |= {"max_autotune": True, "max_autotune_gemm_backends": "CPP,ATEN"}
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as work:
        try:
            get_cpp_compiler()
            graph = torch.export.export(part, example(), strict=False)
            with warnings.catch_warnings(action="ignore"), redirect_stderr(io.StringIO()):  # it tells every trial
                made: Any = torch._inductor.aoti_compile_and_package(
                    graph, package_path=f"{work}/part.pt2", inductor_configs=choices
                )
        except (CppCompileError, InductorError, InvalidCxxCompiler) as error:
            logger.warning("no step was compiled, the world goes on without: %s", str(error).split("\n")[0])
            return None
        os.replace(made, library)
    return library


@lru_cache(maxsize=16)
def _load(library: str) -> Any:
    """The library, ready to run; environments share it."""
    native: Any = torch._C  # what torch's own loader calls, without importing its compiler
    return native._aoti.AOTIModelPackageLoader(library, "model", False, 1, -1)
