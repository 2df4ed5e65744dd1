"""Worlds as the C++ library reads them.

The structures here are those of `cpp/*.h` and `cpp/decoder.cpp`, field by field; their sizes are compared.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, byref, c_float, c_long, c_void_p, sizeof
from itertools import product
from typing import Any

import torch
from torch import Tensor

from drivedit.config import WorldSpec
from drivedit.inference.tune import FoldedFrame, PackedConv, PackedResBlock, PackedUp
from drivedit.models import DiTStudent, DiTWorld
from drivedit.models.conditions.layout import TOLD
from drivedit.models.flow.path import noise_levels
from drivedit.models.layers.blocks import Block, fourier_features, squared_relu

UNIT = 32  # inputs of the dynamics' layers are filled up to a multiple of it
FIRST, INNER, OUTER, UP, FRAME = range(5)  # kinds of the decoder's layers
WIDEST = 2**14  # numbers in a row of a network's layers: rows lie on the stacks of threads
COLOURS = 3
MOST_CONTROLS = 64
ACTIVATIONS = (squared_relu, torch.Tensor.square_)  # of a block, and of one that is packed


def _fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


class Linear(Structure):
    """A layer with packed weights."""

    _fields_ = [*_fields(c_void_p, "weight bias unit surplus"), *_fields(c_long, "inputs outputs")]


class Coder(Structure):
    """How a world is told its place: the arrays of `RouteCoder`."""

    _fields_ = [
        *_fields(c_void_p, "offsets arcs cells"),
        *_fields(c_long, "offset_count arc_count cell_count"),
        *_fields(c_float, "scale half_width bounds_reach"),
    ]


class Model(Structure):
    """The networks and the settings of a world."""

    _fields_ = [
        *_fields(c_long, "layers width heads tokens depth history capacity"),
        *_fields(c_long, "controls actions channels rows columns patch telemetry rewards passes terms layout"),
        ("coder", Coder),
        *_fields(Linear, "embed control1 control2 route1 route2 map1 map2 modulation squeeze read1 read2 head"),
        ("blocks", POINTER(Linear)),
        *_fields(c_void_p, "position sigma levels turns motion_scale telemetry_scale unit each_step at_end source"),
        *_fields(c_float, "end_threshold least_error most_error"),
    ]


STATE = tuple("k v clock latents control motion pose arc points count spacing closed bounds told".split())


class State(Structure):
    """Where the tensors of a `DiTState` lie."""

    _fields_ = [*_fields(c_void_p, " ".join(STATE)), ("layout", c_void_p), ("route_width", c_long)]


class Output(Structure):
    """Where the results of a step go."""

    _fields_ = _fields(c_void_p, "latents telemetry columns ended")


class Layer(Structure):
    """A layer of the decoder."""

    _fields_ = [*_fields(c_long, "kind rows columns into out"), ("weights", Linear)]


class Decoder(Structure):
    """The decoder of a world."""

    _fields_ = [
        ("layers", POINTER(Layer)),
        *_fields(c_long, "count channels colours"),
        *_fields(c_void_p, "mean deviation"),
    ]


STRUCTURES: tuple[type[Structure], ...] = (Linear, Coder, Model, State, Output, Layer, Decoder)


class Parts:
    """Makes parts of a world as the library reads them; keeps alive what they point to, but not the world.

    Args:
        native: The library.
    """

    def __init__(self, native: ctypes.CDLL) -> None:
        sizes = (c_long * len(STRUCTURES))()
        native.step_sizes(sizes)
        native.decoder_sizes(byref(sizes, sizeof(c_long) * STRUCTURES.index(Layer)))
        assert list(sizes) == [sizeof(kind) for kind in STRUCTURES], "the structures here and in cpp differ"
        self.lanes, self.heavy_bytes = native.lanes(), bool(native.heavy_bytes())
        self._kept: list[Any] = []

    def model(self, world: DiTWorld, steps: int) -> Model:
        """The dynamics, the heads and the settings, for a number of sampling steps.

        Raises:
            ValueError: The library is not made for a width or a length of this world.
        """
        _check_model(world)
        config, student = world.config, world.config.student
        network, coder, heads = world.dynamics, world.coder, world.heads
        layers: Any = network.blocks
        blocks = []
        for block in layers:
            blocks += [self.heavy(block.qkv), self.linear(block.out), self.heavy(block.up), self.heavy(block.down)]
        named: dict[str, Any] = {
            "embed": network.embed, "head": network.head,
            "squeeze": heads.squeeze, "read1": heads.mlp[0], "read2": heads.mlp[2],
        }  # fmt: skip
        for name, mlp in (("control", network.of_control), ("route", network.of_route), ("map", network.of_map)):
            if mlp is not None:
                named |= {f"{name}1": mlp[0], f"{name}2": mlp[2]}
        levels = noise_levels(steps)
        levels = torch.stack([levels[:-1], levels[1:]], 1)
        if config.clean_cache:
            levels = torch.cat([levels, torch.zeros(1, 2)])
        sigma = network.of_sigma(fourier_features(levels[:, 0]).to(world.dtype)).float()
        half = student.d_model // student.n_heads // 2
        turns = student.use_rope * student.rope_base ** -(torch.arange(half, dtype=torch.float64) / half)
        terms = list(config.spec.rewards.values())
        unit, each_step, at_end = (
            torch.tensor([term.value if term.kind in kinds else 0.0 for term in terms])
            for kinds in (("learned", "telemetry"), ("constant",), ("on_end",))
        )
        channels, rows, columns = world.latent_shape()
        routed, mapped = network.of_route is not None, network.of_map is not None
        least, most = world.error_range.tolist()
        return Model(
            layers=len(layers), width=student.d_model, heads=student.n_heads, tokens=student.tokens_per_frame,
            depth=student.latent_dim, history=student.history, capacity=network.capacity,
            controls=network.control_dim, actions=len(config.spec.controls), channels=channels, rows=rows,
            columns=columns, patch=config.patch,
            telemetry=len(config.spec.telemetry), rewards=heads.rewards, passes=len(levels), terms=len(terms),
            layout=_layout(world),
            coder=Coder(
                self.keep(coder.offsets), self.keep(coder.arcs), self.keep(coder.cells.T),
                len(coder.offsets) if routed else 0, len(coder.arcs), len(coder.cells) if mapped else 0, coder.scale,
                 coder.half_width, coder.bounds_reach or 0.0,
            ),
            blocks=self.array(Linear, blocks), position=self.keep(_filled(network.position.float(), 1, UNIT)),
            sigma=self.keep(_filled(sigma, 1, UNIT)), levels=self.keep(levels), turns=self.keep(turns),
            motion_scale=self.keep(world.motion_scale), telemetry_scale=self.keep(world.telemetry_scale),
            unit=self.keep(unit), each_step=self.keep(each_step), at_end=self.keep(at_end),
            source=self.keep(_sources(config.spec)), end_threshold=config.end_threshold,
            least_error=least, most_error=most, modulation=self.heavy(network.modulation),
            **{name: self.linear(part) for name, part in named.items()},
        )  # fmt: skip

    def decoder(self, world: DiTWorld) -> Decoder:
        """The decoder, which must be packed.

        Raises:
            ValueError: Its pictures are no frames of this world.
        """
        layers = []
        channels, rows, columns = world.latent_shape()

        def add(kind: int, weights: Linear, channels: int, out: int) -> None:
            layers.append(Layer(kind, rows, columns, channels, out, weights))

        for part in world.vae.decoder:
            if isinstance(part, PackedConv):
                add(FIRST, *self.convolution(part))
            elif isinstance(part, PackedResBlock):
                add(INNER, *self.convolution(part.conv1))
                add(OUTER, *self.convolution(part.conv2))
            elif isinstance(part, PackedUp):
                weight, bias = (
                    _filled(value.unflatten(0, (4, -1)), 1, self.lanes).flatten(0, 1)
                    for value in (part.linear.weight, part.linear.bias)
                )
                weights = self.packed(weight, bias, self.lanes)
                add(UP, weights, weights.inputs, weights.outputs // 4)
                rows, columns = 2 * rows, 2 * columns
        _compare({"colours": (world.config.vae.in_channels, COLOURS)})
        frame: Any = world.vae.to_frame
        add(FRAME, *self.squares(frame.frame.conv if isinstance(frame, FoldedFrame) else frame.conv))
        mean, deviation = self.keep(world.latent_mean), self.keep(world.latent_std)
        return Decoder(self.array(Layer, layers), len(layers), channels, world.config.vae.in_channels, mean, deviation)

    def linear(self, layer: Any) -> Linear:
        """A linear layer of the dynamics."""
        return self.packed(layer.weight, layer.bias, UNIT)

    def heavy(self, layer: Any) -> Linear:
        """A linear layer with many weights: in bytes, of one unit for each output, where the library wants them so."""
        if not self.heavy_bytes or layer.weight.dtype != torch.bfloat16:
            return self.linear(layer)
        weight = layer.weight.float()
        unit = weight.abs().amax(1) / 127
        whole = (weight / unit.clamp(min=torch.finfo().tiny)[:, None]).round().to(torch.int8)
        linear = self.packed(whole, layer.bias, UNIT)
        linear.unit = self.keep(_filled(unit, 0, self.lanes))
        linear.surplus = self.keep(_filled(128 * whole.sum(1, dtype=torch.int32), 0, self.lanes))
        return linear

    def convolution(self, conv: Any) -> tuple[Linear, int, int]:
        """A 3x3 convolution as a layer of nine pixels; and the channels of what it reads and writes."""
        weight = _filled(conv.weight, 1, self.lanes).permute(0, 2, 3, 1)
        weights = self.packed(weight.flatten(1), conv.bias, self.lanes)
        return weights, weight.shape[-1], weights.outputs

    def squares(self, conv: Any) -> tuple[Linear, int, int]:
        """A 3x3 convolution to squares of 2x2 pixels, as a layer of the sixteen pixels that they see."""
        weight = _filled(conv.weight, 1, self.lanes).permute(0, 2, 3, 1)
        colours, *_, channels = weight.shape
        seen = weight.new_zeros(2, 2, colours, 4, 4, channels)
        for y, x in product(range(2), range(2)):
            seen[y, x, :, y : y + 3, x : x + 3] = weight
        return self.packed(seen.flatten(3).flatten(0, 2), conv.bias.repeat(4), self.lanes), channels, 4 * colours

    def packed(self, weight: Tensor, bias: Tensor, unit: int) -> Linear:
        """Weights `[out, in]`: outputs in panels, in each of which the inputs follow, in pairs or fours of 32 bits."""
        weight = _filled(_filled(weight, 0, self.lanes), 1, unit)
        outputs, inputs = weight.shape
        pair = 4 // weight.itemsize
        panels = weight.reshape(outputs // self.lanes, self.lanes, inputs // pair, pair).transpose(1, 2)
        shift = self.keep(_filled(bias.float(), 0, self.lanes))
        return Linear(weight=self.keep(panels), bias=shift, inputs=inputs, outputs=outputs)

    def array(self, kind: type[Structure], values: list[Any]) -> Any:
        """An array of structures; it is kept."""
        self._kept.append((kind * len(values))(*values))
        return self._kept[-1]

    def keep(self, value: Tensor) -> int:
        """Where a tensor lies; it is kept."""
        self._kept.append(value.detach().contiguous())
        return self._kept[-1].data_ptr()


def _check_model(world: DiTWorld) -> None:
    """Compares what the library takes for granted of the dynamics and the heads, or ValueError."""
    config, student, network = world.config, world.config.student, world.dynamics
    channels, rows, columns = world.latent_shape()
    patch, reach, map_dim = config.patch, config.bounds_reach, student.map_dim
    seen = len(world.coder.cells) // student.tokens_per_frame if student.route_dim else 0
    code = 4 * len(config.route_offsets) + 1 + 4 * (reach is not None) + (config.others > 0)
    code += map_dim * student.tokens_per_frame
    _compare({
        "student.latent_dim": (student.latent_dim, channels * patch**2),
        "student.tokens_per_frame": (student.tokens_per_frame * patch**2, rows * columns),
        "rest of the latent's sides by patch": ((rows % patch, columns % patch), (0, 0)),
        "units of motion": (len(config.motion_scale), 3),
        "student.map_dim": (map_dim, seen + _layout(world) if map_dim else 0),
        "student.route_dim": (student.route_dim, code if student.route_dim else 0),
        "bounds_reach above 0": (reach is None or reach > 0, True),
        "route_offsets": (bool(config.route_offsets) or not student.route_dim, True),
        "student.control_dim": (network.control_dim, min(network.control_dim, config.driven)),
        "read telemetry": (world.heads.telemetry, max(len(config.spec.telemetry), 1)),
        "read rewards": (world.heads.rewards, max(len(config.spec.learned()), 1)),
        "network of the dynamics": (type(network).__name__, DiTStudent.__name__),
        "blocks with a squared ReLU": (all(map(_is_known, getattr(network, "blocks", ()))), True),
        "number of controls": (len(config.spec.controls), min(len(config.spec.controls), MOST_CONTROLS)),
    })  # fmt: skip
    widest = max(student.d_model, student.latent_dim, student.tokens_per_frame)
    if widest > WIDEST:
        raise ValueError(f"rows and frames of a compiled world are of at most {WIDEST} numbers, got {widest}")


def _layout(world: DiTWorld) -> int:
    """Numbers that each token is told of others."""
    return TOLD * world.config.map_cells**2 if world.config.others and world.config.student.map_dim else 0


def _is_known(block: Any) -> bool:
    """Whether the library computes what a block of the dynamics does."""
    return type(block) is Block and block.activate in ACTIVATIONS


def _sources(spec: WorldSpec) -> Tensor:
    """For each reward term the number that it is made of: a telemetry value, after them a learned term, or -1."""
    telemetry, learned = spec.names("telemetry"), spec.learned()
    found = []
    for name, term in spec.rewards.items():
        places = {"telemetry": telemetry, "learned": learned}.get(term.kind, [])
        found.append(places.index(name) + (len(telemetry) if term.kind == "learned" else 0) if places else -1)
    return torch.tensor(found, dtype=torch.int64)


def _compare(pairs: dict[str, tuple[Any, Any]]) -> None:
    for name, (got, wanted) in pairs.items():
        if got != wanted:
            raise ValueError(f"{name} of a compiled world must be {wanted}, got {got}")


def _filled(value: Tensor, axis: int, unit: int) -> Tensor:
    """The tensor with zeros at the end of an axis, up to a multiple of `unit`."""
    missing = list(value.shape)
    missing[axis] = -value.shape[axis] % unit
    return torch.cat([value.detach(), value.new_zeros(missing)], axis)
