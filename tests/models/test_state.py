"""A state that comes from outside is one of this world, to the bit, or it is refused by the name of what is wrong."""

import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.worlds import BOXES, make_world

from drivedit.inference import compile_step
from drivedit.inference.layouts import Log
from drivedit.models import DiTState, DiTWorld
from drivedit.models.state import seal, unseal
from drivedit_env.state import EnvState, restored


@pytest.fixture(scope="module")
def world() -> DiTWorld:
    return make_world()


@pytest.fixture
def state(world) -> DiTState:
    """Two worlds, one without a route."""
    return world.start(world.scenes, [1, 2])


def stored(state: DiTState) -> EnvState:
    stream = dict(np.random.default_rng(0).bit_generator.state)
    return EnvState(
        state, "me", [stream] * len(state), [0, -1], [False, True], [3, 4], [0.1, 0.2],
        [None, Log((BOXES[:1].astype(np.float32),))],
    )  # fmt: skip


def damaged(data: bytes, rng: random.Random, count: int) -> Iterator[bytes]:
    """Copies of the bytes with one bit flipped, half of them near the beginning; cut off and grown at both ends."""
    for turn in range(count):
        place = rng.randrange(2000 if turn % 2 else len(data))
        yield data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
    for size in (0, 1, 8, 15, 16, 17, 24, len(data) // 2, len(data) - 1):
        yield data[:size]
        yield data[len(data) - size :]
    yield from (data + b"\0", b"\0" + data, data + data)


def test_every_damaged_bit_is_seen(state):
    rng, whole = random.Random(0), stored(state)
    data = whole.to_bytes()
    again = EnvState.from_bytes(data, DiTState, "me")
    assert again.random == whole.random and again.ended == whole.ended and again.to_bytes() == data
    kept = again.others[1]
    assert isinstance(kept, Log) and np.array_equal(kept.moments[0], BOXES[:1].astype(np.float32))
    for bad in damaged(data, rng, 200):
        with pytest.raises(ValueError, match="no state of this environment"):
            EnvState.from_bytes(bad, DiTState, "me")
    for bad in damaged(state.to_bytes("me"), rng, 200):
        with pytest.raises(ValueError, match="no state of a world"):
            DiTState.from_bytes(bad, "me")


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2}, {"version": None}, {"random": [{}] * 2}, {"random": [None] * 2}, {"random": {}}, {"scene": [0]},
        {"ended": [0, 1]}, {"elapsed": [1.5, 2]}, {"scene": "ab"}, {"random": [{"bit_generator": "PCG64"}] * 2},
        {"others": [0]}, {"others": [1, 0]}, {"others": [None, True]}, {"others": [{}, None]}, {"logs": [[[3]]]},
        {"others": [{"function": ["a", 0]}, None]}, {"logs": 3}, {"logs": [[[[0] * 8]]]},
        {"dt": [0.1]}, {"dt": [0.1, None]},
    ],
    ids=str,
)  # fmt: skip
def test_forged_heads_are_refused(state, change):
    data = stored(state).to_bytes()
    size = int.from_bytes(data[:8], "little")
    head = seal(json.dumps(json.loads(unseal(data[8 : 8 + size])) | change).encode())
    with pytest.raises(ValueError, match="no state of this environment"):
        EnvState.from_bytes(len(head).to_bytes(8, "little") + head + data[8 + size :], DiTState, "me")


@pytest.mark.parametrize("payload", [b"[]", b"3", b'{"__metadata__": {"drivedit": "[]"}}', b"[" * 100_000, b"{}", b""])
def test_forged_bodies_are_refused(payload):
    with pytest.raises(ValueError, match="no state of a world"):
        DiTState.from_bytes(seal(len(payload).to_bytes(8, "little") + payload), "me")


@pytest.mark.parametrize("stream", [None, {}, {"bit_generator": "PCG64", "state": {"state": 2**200, "inc": -1}}])
def test_streams_that_are_none_of_numpys_are_refused(stream: Any):
    with pytest.raises(ValueError, match="no state of numpy's PCG64"):
        restored(stream)


def test_states_of_the_world_pass(world, state):
    world.check_state(state)
    for _ in range(5):
        state, _ = world.step(state, torch.ones(2, 2))
        world.check_state(state)
    world.check_state(DiTState.from_bytes(state.to_bytes("me"), "me"))


def _with(name: str, row: int, value: Any):
    """Writes a value into one row of a field."""

    def change(state: DiTState) -> DiTState:
        state.tensors()[name].movedim(1 if name in "kv" else 0, 0)[row] = value
        return state

    return change


@pytest.mark.parametrize("name", ["motion", "latents", "pose", "points", "arc", "k", "v"])
def test_what_follows_from_an_accepted_state_is_accepted(name):
    """However large its numbers are: the shipped world makes keys and values of them that are larger still."""
    shipped = DiTWorld.from_pretrained("carracing", device="cpu")
    state = shipped.start(shipped.scenes[:2], [1, 2])
    state = _with(name, 0, 1e6 if name == "motion" else 1e9)(state)
    for _ in range(3):
        shipped.check_state(DiTState.from_bytes(state.to_bytes("me"), "me"))
        state, _ = shipped.step(state, torch.ones(2, 2))
    shipped.check_state(state)


FORGERIES = {
    "clock": [_with("clock", 1, -(10**7)), _with("clock", 0, 2**60), lambda s: replace(s, clock=s.clock.int())],
    "count": [_with("count", 0, 2**40), _with("count", 1, -1), _with("count", 0, 1), _with("count", 0, 769)],
    "latents": [lambda s: replace(s, latents=s.latents[:, :1]), _with("latents", 1, torch.nan)],
    "v": [lambda s: replace(s, v=s.v[:, :, :, :2]), lambda s: replace(s, v=s.v[:, :1]), _with("v", 1, torch.inf)],
    "k": [lambda s: replace(s, k=s.k.double()), lambda s: replace(s, k=s.k[:1]), _with("k", 0, 1e30)],
    "seeds": [lambda s: replace(s, seeds=s.seeds.float()), lambda s: replace(s, seeds=s.seeds[:1])],
    "control": [_with("control", 0, 1.5), _with("control", 1, torch.nan)],
    "motion": [_with("motion", 0, torch.nan), lambda s: replace(s, motion=None)],
    "pose": [_with("pose", 1, torch.inf), _with("pose", 1, 1e20)],
    "arc": [_with("arc", 1, torch.nan), lambda s: replace(s, arc=s.arc[:, None])],
    "points": [_with("points", 0, 1e38), lambda s: replace(s, points=s.points[:, :1])],
    "spacing": [_with("spacing", 0, 0.0), _with("spacing", 1, -2.0), _with("spacing", 1, torch.nan)],
    "closed": [lambda s: replace(s, closed=torch.tensor([1, 2], dtype=torch.uint8).view(torch.bool))],
    "bounds": [_with("bounds", 0, torch.nan), _with("bounds", 0, torch.tensor([1.0, 0.0, 0.0, 1.0]))],
}


@pytest.mark.parametrize("name", FORGERIES)
def test_states_that_cannot_be_are_refused_by_name(world, state, name):
    for forge in FORGERIES[name]:
        with pytest.raises(ValueError, match=f"the state's {name} must be .*, got "):
            world.check_state(forge(state.clone()))


def test_a_state_without_worlds_is_refused(world, state):
    for empty in (state.select(torch.arange(0)), replace(state, clock=None), replace(state, clock=torch.tensor(3))):
        with pytest.raises(ValueError, match="at least one world"):
            world.check_state(empty)


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_no_state_makes_a_compiled_step_read_or_write_elsewhere(world, state):
    step, controls, refused = compile_step(world), torch.zeros(2, 2), set()
    assert step is not None
    for name, forge in [(name, forge) for name, forgeries in FORGERIES.items() for forge in forgeries]:
        forged = forge(state.clone())
        try:
            step(forged, controls)
        except ValueError as error:
            assert f"the state's {name} must be" in str(error)
            refused.add(name)
    assert refused >= {"clock", "count", "latents", "v", "k", "seeds", "motion", "arc", "points"}
