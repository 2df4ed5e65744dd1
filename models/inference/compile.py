"""Compiles the step of a world ahead of time into one C++ library per number of worlds.

A world alone spends most of a step on calling some hundreds of small operators; compiled they are a few loops between
the matrix products. What is drawn at random stays outside, and so does the decoder, which gains nothing. A library
holds the weights, and is kept in `DRIVEDIT_CACHE` (else `~/.cache/drivedit`), so that only the first start takes long.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import tempfile
import warnings
from contextlib import redirect_stderr
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from drivedit import models, utils
from drivedit.models import Scene, World, WorldState
from drivedit.models.world import StepOutput

logger = logging.getLogger(__name__)

CHANGED = ("latents", "motion", "pose", "arc")  # the graph gives these anew; keys, values and clock it writes in place
CHOICES = {"freezing": True}  # weights are constants
TRIALS = {"max_autotune": True, "max_autotune_gemm_backends": "CPP,ATEN"}  # products of one row, twice as fast
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


def compile_step(world: World, rows: int, sampling_steps: int | None = None) -> CompiledStep | None:
    """Compiles the step of a world, which takes about half a minute, or finds the library of an earlier time.

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
    if world.device.type != "cpu":
        logger.warning("only on a CPU is a step compiled: the world on %s goes on without", world.device)
        return None
    if world.config.student.window is None:
        raise ValueError("a step can be compiled for worlds with a window, this one attends to all frames")
    steps = sampling_steps or world.config.sampling_steps
    library = _library(world, rows, steps)
    if not library.is_file() and not _compile(world, rows, steps, library):
        return None
    return CompiledStep(world, library)


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


def _by_layer(tensors: dict[str, Tensor]) -> list[Tensor]:
    """The tensors of a state, each layer's ring by itself: else a graph copies all of them at each write."""
    rest = [value for name, value in tensors.items() if name not in ("k", "v")]
    return [*tensors["k"].unbind(), *tensors["v"].unbind(), *rest]


def _library(world: World, rows: int, steps: int) -> Path:
    """Where the compiled step lies: its name tells weights, code, torch, processor and threads."""
    place = Path(os.environ.get("DRIVEDIT_CACHE", "~/.cache/drivedit")).expanduser()
    told = [world.fingerprint or world.digest(), world.config, world.dtype, rows, steps, torch.__version__]
    told += [torch.backends.cpu.get_cpu_capability(), torch.get_num_threads(), Path(__file__).read_text()]
    for package in (models, utils):
        told += [file.read_text() for file in sorted(Path(str(package.__file__)).parent.glob("*.py"))]
    return place / f"step-{hashlib.sha256(repr(told).encode()).hexdigest()[:24]}.pt2"


@torch.no_grad()
def _compile(world: World, rows: int, steps: int, library: Path) -> bool:
    """Writes the library in one move; False, after a warning, if there is no compiler."""
    from torch._inductor.cpp_builder import get_cpp_compiler  # takes two seconds
    from torch._inductor.exc import CppCompileError, InductorError, InvalidCxxCompiler

    height, width = world.config.image_size
    blank = Scene(np.zeros((2, height, width, 3), np.uint8), np.zeros((1, 2), np.float32))
    state = world.start([blank], [0]).select([0] * rows)
    example = (world.draw(state), torch.zeros(rows, 2), *(value.clone() for value in _by_layer(state.tensors())))
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as work:
        try:
            get_cpp_compiler()
            graph = torch.export.export(_Step(world, steps), example, strict=False)
            with warnings.catch_warnings(action="ignore"), redirect_stderr(io.StringIO()):  # it tells every trial
                made: Any = torch._inductor.aoti_compile_and_package(
                    graph, package_path=f"{work}/step.pt2", inductor_configs=CHOICES | (TRIALS if rows == 1 else {})
                )
        except (CppCompileError, InductorError, InvalidCxxCompiler) as error:
            logger.warning("no step was compiled, the world goes on without: %s", str(error).split("\n")[0])
            return False
        os.replace(made, library)
    return True


@lru_cache(maxsize=16)
def _load(library: str) -> Any:
    """The library, ready to run; environments share it."""
    native: Any = torch._C  # what torch's own loader calls, without importing its compiler
    return native._aoti.AOTIModelPackageLoader(library, "model", False, 1, -1)
