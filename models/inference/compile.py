"""The step and the decoder of a world as one call each into a C++ library, compiled on the machine that it runs on.

A world alone spends most of an ordinary step on calling some hundreds of small operators. In the library the threads
stay together for a whole step, and products are taken of weights that lie in the order in which they are read. It is
compiled once for all worlds, in some seconds, and kept (`library.py`). What is drawn at random stays outside, and so do
checks: the library is handed nothing whose type, shape, place and indices have not been looked at.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import byref, c_long, c_void_p
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from drivedit.inference.library import library
from drivedit.inference.native import COLOURS, STATE, Output, Parts, State
from drivedit.inference.tune import PackedConv, PackedResBlock, PackedUp
from drivedit.models import DiTState, DiTWorld, Sampling, StepOutput, World

logger = logging.getLogger(__name__)

Compiled = TypeVar("Compiled")

ALIGNMENT = 64  # bytes
_parts: WeakKeyDictionary[World, dict[Any, Any]] = WeakKeyDictionary()  # of worlds whose weights stay


class _Memory:
    """What calls write on: each has a piece for itself while it lasts, so that threads may call at the same time.

    Args:
        size: Bytes of a piece. It begins with zeros and comes back with zeros where they are needed.
    """

    def __init__(self, size: int) -> None:
        self._size, self._free = size + ALIGNMENT, list[np.ndarray]()

    def take(self) -> np.ndarray:
        """A piece that nobody has."""
        try:
            return self._free.pop()
        except IndexError:
            return np.zeros(self._size, np.uint8)

    def give(self, piece: np.ndarray) -> None:
        """Takes a piece back."""
        self._free.append(piece)


class CompiledStep:
    """`World.step` in one call; made by `compile_step`. Threads may share it.

    Args:
        world: The world.
        sampling_steps: Network passes for one frame.
        native: The library.

    Raises:
        ValueError: The library is not made for a width or a length of this world.
    """

    def __init__(self, world: DiTWorld, sampling_steps: int, native: ctypes.CDLL) -> None:
        self.world, self.sampling_steps, self._threads = world, sampling_steps, torch.get_num_threads()
        self._model, self._parts = _known(
            world, native, lambda parts: parts.model(world, sampling_steps), sampling_steps
        )
        self._layout, self._device = world.state_layout(), torch.device("cpu")
        spec = world.config.spec
        self._terms, self._told, self._width = tuple(spec.rewards), spec.names("telemetry"), len(spec.controls)
        self._run = native.step_bfloat16 if world.dtype == torch.bfloat16 else native.step_float
        self._memory = _Memory(native.step_memory(byref(self._model), self._threads))

    def __call__(
        self,
        state: DiTState,
        controls: Tensor,
        dt: Tensor | None = None,
        *,
        sampling: Sampling | None = None,
    ) -> tuple[DiTState, StepOutput]:
        """Dreams one frame of every world; see `World.step`.

        Raises:
            ValueError: It was made for another number of passes, a `dt` or a guidance is given, the state is of another
                world, or the controls have another shape.
        """
        sampling = sampling or Sampling()
        if sampling.passes not in (None, self.sampling_steps) or dt is not None:
            raise ValueError(
                f"this step was made for {self.sampling_steps} sampling steps and no dt, got {sampling.passes} and {dt}"
            )
        if sampling.guidance not in (None, 1):
            raise ValueError(f"a compiled step has no guidance, got {sampling.guidance}")
        state.check_layout(self._layout, self._device)
        state.check_indices()
        worlds = len(state)
        if controls.shape != (worlds, self._width):
            raise ValueError(f"controls must be [{worlds}, {self._width}], got {list(controls.shape)}")
        noise = self.world.draw(state, sampling).cpu()
        controls = controls.to(self._device, torch.float32).contiguous()
        tensors = {name: value.contiguous() for name, value in vars(state).items()}
        tensors |= {name: tensors[name].clone() for name in ("clock", "control", "motion", "pose", "arc")}
        others, layout = self.world.drive_others(state)
        tensors["others"] = others
        latents = torch.empty_like(tensors["latents"])
        telemetry = torch.empty(worlds, self._model.telemetry)
        columns, ended = torch.empty(2 + len(self._terms), worlds), torch.empty(worlds, dtype=torch.bool)
        memory = self._memory.take()
        self._run(
            byref(self._model),
            byref(State(*(tensors[name].data_ptr() for name in STATE), layout.data_ptr(), tensors["points"].shape[1])),
            byref(Output(*(value.data_ptr() for value in (latents, telemetry, columns, ended)))),
            c_void_p(noise.data_ptr()), c_void_p(controls.data_ptr()), c_long(worlds),
            min(self._threads, torch.get_num_threads()), _aligned(memory),
        )  # fmt: skip
        self._memory.give(memory)
        probability, confidence, *terms = columns.unbind()
        named = dict(zip(self._terms, terms, strict=True))
        told = dict(zip(self._told, telemetry.unbind(1), strict=True))
        return DiTState(**tensors | {"latents": latents}), StepOutput(named, ended, probability, told, confidence)


class CompiledDecoder:
    """`World.decode` in one call; made by `compile_decoder`. Threads may share it.

    Args:
        world: The world, whose decoder is packed.
        native: The library.

    Raises:
        ValueError: The decoder's pictures are no frames of this world.
    """

    def __init__(self, world: DiTWorld, native: ctypes.CDLL) -> None:
        self.world, self._threads = world, torch.get_num_threads()
        self._decoder, self._parts = _known(world, native, lambda parts: parts.decoder(world), "decoder")
        first = world.vae.decoder[0]
        self._run = native.decode_bfloat16 if first.weight.dtype == torch.bfloat16 else native.decode_float
        self._memory = _Memory(native.decoder_memory(byref(self._decoder), self._threads))

    def __call__(self, latents: Tensor) -> np.ndarray:
        """Decodes latents `[B, C, h, w]` to uint8 frames `[B, H, W, 3]`.

        Raises:
            ValueError: The latents have another shape.
        """
        if latents.shape[1:] != self.world.latent_shape():
            raise ValueError(f"latents must be [B, {self.world.latent_shape()}], got {list(latents.shape)}")
        latents = latents.detach().to("cpu", torch.float32).contiguous()
        frames = np.empty((len(latents), *self.world.config.image_size, COLOURS), np.uint8)
        if not len(latents):
            return frames
        memory = self._memory.take()
        self._run(
            byref(self._decoder), c_void_p(latents.data_ptr()), c_long(len(latents)),
            min(self._threads, torch.get_num_threads()), _aligned(memory), c_void_p(frames.ctypes.data),
        )  # fmt: skip
        self._memory.give(memory)
        return frames


def compile_step(world: World, sampling_steps: int | None = None) -> CompiledStep | None:
    """Makes the step of a world one call into the library, which is compiled if it is not there.

    What it computes differs from `World.step` by rounding only: the layers with most weights are multiplied in bytes
    where the processor can and the world is in bfloat16. A world alone and in a batch has the same bits.

    Args:
        world: The world, with its weights as they are now.
        sampling_steps: Network passes for one frame; None: the world's own number.

    Returns:
        The step, for any number of worlds; None, after a warning, where there is no compiler, the world is not on a
        CPU, or it has a width that the library is not made for.

    Raises:
        ValueError: The world has no window, so its cache fills up.
    """
    if not isinstance(world, DiTWorld):
        logger.warning("this kind of world is not compiled: %s goes on without", type(world).__name__)
        return None
    if world.config.student.window is None:
        raise ValueError("a step can be compiled for worlds with a window, this one attends to all frames")
    if world.device.type != "cpu":
        logger.warning("only on a CPU is a step compiled: the world on %s goes on without", world.device)
        return None
    return _made(lambda native: CompiledStep(world, sampling_steps or world.config.sampling_steps, native))


@contextmanager
def compiled(world: World, sampling_steps: int | None = None) -> Iterator[World]:
    """Within it `step` of the world is its compiled one, if there is a compiler; arguments as in `compile_step`."""
    step = compile_step(world, sampling_steps)
    try:
        if step is not None:
            vars(world)["step"] = step
        yield world
    finally:
        vars(world).pop("step", None)


def compile_decoder(world: World) -> CompiledDecoder | None:
    """Makes the decoder of a world one call into the library, which is compiled if it is not there.

    Args:
        world: The world, with its weights as they are now.

    Returns:
        The decoder, for any number of latents, whose pictures differ by rounding only; None where there is no compiler
        or the decoder is not packed (`drivedit.inference.tune`) or has attention.
    """
    if not isinstance(world, DiTWorld):
        return None
    packed = all(isinstance(layer, (PackedConv, PackedResBlock, PackedUp)) for layer in world.vae.decoder)
    return _made(lambda native: CompiledDecoder(world, native)) if packed else None


def _made(make: Callable[[ctypes.CDLL], Compiled]) -> Compiled | None:
    """What is made with the library; None, after a warning, where there is none or it does not fit."""
    native = library()
    try:
        return None if native is None else make(native)
    except ValueError as error:
        logger.warning("this world is not compiled and goes on without: %s", error)
        return None


def _known(world: World, native: ctypes.CDLL, make: Callable[[Parts], Any], what: Any) -> Any:
    """A part of a world and what keeps it alive; environments of a tuned world share it."""
    known = _parts.setdefault(world, {}) if world.tuned else {}
    if (native, what) not in known:
        parts = Parts(native)
        known[native, what] = make(parts), parts
    return known[native, what]


def _aligned(memory: np.ndarray) -> c_void_p:
    return c_void_p(-(-memory.ctypes.data // ALIGNMENT) * ALIGNMENT)
