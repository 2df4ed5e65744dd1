"""A person at the wheel without a window: controls that move smoothly, going back, branching, agents, the simulator."""

import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pygame
import pytest

from drivedit.agents.drivers.policies import weights_of
from drivedit.config import DEFAULT_WORLD
from drivedit.models import DiTWorld
from drivedit_env.env import DriveDiTEnv
from drivedit_env.viewer.controls import Held, Pace, Wheel
from drivedit_env.viewer.keys import COMMANDS, DRIVING, Fingers
from drivedit_env.viewer.session import Session

GAS = np.array([0.0, 0.4], np.float32)


class Straight:
    """An agent with a memory: it steers a little more with every frame."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.count = 0

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        self.count += 1
        return np.array([0.01 * self.count, 0.3], np.float32)


@pytest.fixture
def session(tiny_world: DiTWorld, tmp_path: Path) -> Session:
    return Session(DriveDiTEnv(tiny_world), scene=0, agent=f"{__name__}:Straight", folder=tmp_path / "drives")


# -- fingers -----------------------------------------------------------------------------------------------------------


def test_the_wheel_turns_smoothly_and_comes_back():
    wheel, dt = Wheel(), 0.06
    turned = [wheel.move(Held(right=True), dt)[0] for _ in range(30)]
    assert all(0 < b - a < 0.12 for a, b in zip(turned, turned[1:], strict=False) if b < 1)
    assert turned[-1] == 1.0 and turned[2] < 0.3
    assert wheel.move(Held(left=True), dt)[0] < turned[-1], "the other key turns it back at once"
    back = [wheel.move(Held(), dt)[0] for _ in range(30)]
    assert back[-1] == 0.0 and all(a >= b for a, b in zip(back, back[1:], strict=False))
    assert wheel.move(Held(left=True, right=True), dt)[0] == 0.0


def test_a_fast_car_is_steered_gently():
    slow, fast = Wheel(), Wheel()
    for _ in range(60):
        slow.move(Held(left=True), 0.06, 0.0)
        fast.move(Held(left=True), 0.06, 30.0)
    assert slow.steering == -1.0 and fast.steering == pytest.approx(-0.25)


def test_pedals_ramp_and_the_brake_is_quick():
    wheel, dt = Wheel(), 0.05
    gas = [wheel.move(Held(gas=True), dt)[1] for _ in range(12)]
    assert gas[0] == pytest.approx(0.1) and gas[-1] == 1.0
    assert wheel.move(Held(brake=True), dt)[1] == pytest.approx(-0.2), "braking does not wait for the gas to go"
    for _ in range(10):
        wheel.move(Held(brake=True), dt)
    assert wheel.throttle == -1.0
    assert wheel.move(Held(), dt)[1] == pytest.approx(-0.8)


def test_a_gamepad_is_followed_at_once():
    wheel = Wheel()
    assert wheel.move(Held(stick=-1.0, pedals=0.7), 0.06, 40.0) == pytest.approx([-1.0, 0.7])
    half = wheel.move(Held(stick=0.56), 0.06)
    assert half[0] == pytest.approx(0.25), "gentle around the centre: half of the way beyond it, squared"
    assert Wheel().move(Held(stick=0.1), 0.06)[0] == 0.0


def test_a_stick_beside_its_centre_means_nothing():
    assert not Held().active() and not Held(stick=0.2, pedals=-0.1).active()
    assert Held(brake=True).active() and Held(stick=-0.8).active() and Held(pedals=0.9).active()


def test_fingers_are_read_from_events():
    pygame.display.init()
    fingers, event = Fingers(), pygame.event.Event
    for key in (pygame.K_LEFT, pygame.K_w, pygame.K_UP, pygame.K_x):
        fingers.see(event(pygame.KEYDOWN, key=key))
    assert fingers.held() == Held(left=True, gas=True)
    fingers.see(event(pygame.KEYUP, key=pygame.K_w))
    assert fingers.held().gas, "the other key for it is still down"

    class Pad:
        id = 7

        def get_axis(self, axis: int) -> int:
            return {pygame.CONTROLLER_AXIS_LEFTX: -32767, pygame.CONTROLLER_AXIS_TRIGGERRIGHT: 16384}.get(axis, 0)

    fingers._pads[7] = Pad()
    held = fingers.held()
    assert held.stick == -1.0 and held.pedals == pytest.approx(0.5, abs=1e-4)
    fingers.see(event(pygame.CONTROLLERDEVICEREMOVED, instance_id=7))
    fingers.see(event(pygame.WINDOWFOCUSLOST))
    assert fingers.held() == Held(), "keys let go in another window are not held for ever"
    fingers.close()


def test_no_key_has_two_meanings():
    keys = [key for command in COMMANDS for key in command.keys] + list(DRIVING)
    buttons = [button for command in COMMANDS for button in command.buttons]
    assert len(set(keys)) == len(keys) and len(set(buttons)) == len(buttons)


def test_the_pace_is_even_and_what_is_late_is_given_up():
    pace, begun, now = Pace(0.06), [], 0.0
    while now < 3.0:  # looked at every 7 ms: steps still come every 60 ms on average
        assert pace.due(now) == (pace.wait(now) == 0.0)
        if pace.due(now):
            pace.begin(now)
            begun.append(now)
        now += 0.007
    assert len(begun) == pytest.approx(3.0 / 0.06, abs=1)
    assert pace.rate(now) == pytest.approx(1 / 0.06, rel=0.02) and not pace.behind(now)
    slow, now = Pace(0.06), 0.0
    for _ in range(30):
        assert slow.due(now)
        slow.begin(now)
        now += 0.1
    assert slow.rate(now) == pytest.approx(10.0, rel=0.02) and slow.behind(now)
    slow.begin(now + 5.0)
    assert not slow.due(now + 5.05), "nothing is made up for"
    slow.rest()
    assert slow.due(now) and not slow.behind(now) and slow.rate(now) == 0.0


# -- the drive ---------------------------------------------------------------------------------------------------------


def test_going_back_and_driving_on_is_the_same_drive(session: Session):
    driven = [session.step(GAS) for _ in range(8)]
    for _ in range(5):
        assert session.rewind()
    assert session.now is driven[2]
    again = [session.step(GAS) for _ in range(5)]
    for first, second in zip(driven[3:], again, strict=True):
        assert np.array_equal(first.frame, second.frame) and first.reward == second.reward
        assert first.returned == second.returned and first.steps == second.steps
    for _ in range(8):
        session.rewind()
    assert not session.rewind() and session.now.steps == 0


def test_memory_is_bounded(tiny_world: DiTWorld):
    env = DriveDiTEnv(tiny_world)
    env.reset(seed=0)
    size = sum(v.numel() * v.element_size() for v in env.get_state().world.tensors().values())
    session = Session(env, scene=0, memory=10.5 * size)
    driven = [session.step(GAS) for _ in range(30)]
    assert session.seconds_back == pytest.approx(9 / session.fps)
    for _ in range(9):
        assert session.rewind()
    assert not session.rewind() and session.now is driven[20]


def test_a_bookmark_is_another_future_of_the_same_moment(session: Session):
    for _ in range(3):
        session.step(GAS)
    session.bookmark()
    marked = session.now
    first = [session.step(GAS) for _ in range(3)]
    session.go_to(1)
    assert session.now is marked
    left = [session.step(np.array([-0.9, -0.4], np.float32)) for _ in range(3)]
    session.go_to(1)
    again = [session.step(GAS) for _ in range(3)]
    assert [m.info for m in first] == [m.info for m in again] != [m.info for m in left]
    assert np.array_equal([m.frame for m in first], [m.frame for m in again])
    for _ in range(4):
        session.rewind()
    assert session.now is left[-1], "going back from there leads to where one came from"
    session.go_to(2)
    assert "no mark 2" in session.note[1]
    for _ in range(12):
        session.bookmark()
    assert len(session.bookmarks) == 9


def test_restart_next_scene_and_passes(session: Session):
    start = session.now.frame
    first = session.step(GAS).frame
    session.restart()
    assert np.array_equal(session.now.frame, start) and np.array_equal(session.step(GAS).frame, first)
    session.restart()
    session.change_passes(1)
    assert "at its best with 1" in session.note[1], "a world that was made for one pass dreams worse with two"
    assert session.passes == 2 and not np.array_equal(session.step(GAS).frame, first)
    session.change_passes(-5)
    assert session.passes == 1 and session.note[1] == "1 network pass per frame."
    scenes = []
    for _ in range(3):
        session.next_scene()
        scenes.append(session.now.info["scene"])
    assert scenes == [1, 2, 0]


def test_the_agent_drives_as_in_the_environment(session: Session, tiny_world: DiTWorld):
    session.hand_over()
    assert session.driver == "Straight"
    driven = [session.step(GAS) for _ in range(4)]
    assert [m.action[0] for m in driven] == pytest.approx([0.01, 0.02, 0.03, 0.04])
    env = DriveDiTEnv(tiny_world)
    env.reset(seed=0, options={"scene": 0})
    assert all(np.array_equal(env.step(m.action)[0], m.frame) for m in driven)
    session.rewind()
    assert session.step(GAS).action[0] == pytest.approx(0.01), "what it remembers does not come back: it starts anew"
    session.hand_over()
    assert session.step(GAS).action == pytest.approx(GAS)


@pytest.mark.parametrize("name", ["nobody", "no.such.module:x", "math:no_such_name", ":x"])
def test_an_unknown_agent_is_named(name: str, session: Session):
    session.agent_name, session._agent = name, None
    with pytest.raises(ValueError, match="agent"):
        session.hand_over()
    assert not session.agent_drives


@pytest.mark.parametrize("name", ["drunk", "learned.safetensors", "numpy:zeros_like"])
def test_agents_are_named_as_in_every_other_command(name: str, session: Session):
    session.agent_name, session._agent = str(weights_of(DEFAULT_WORLD)) if name.endswith("safetensors") else name, None
    session.hand_over()
    assert session.agent_drives and session.driver == {"numpy:zeros_like": "zeros_like"}.get(
        name, Path(session.agent_name).name
    )


def test_dream_and_simulator_drive_side_by_side(session: Session):
    pytest.importorskip("Box2D")
    session.toggle_twin()
    assert session.now.real is not None
    assert np.array_equal(session.env.world.scenes[0].frames.shape[1:], session.now.real.shape)
    driven = [session.step(GAS) for _ in range(6)]
    twin: Any = gym.make("drivedit_env:CarRacingTwin-v0").unwrapped
    assert driven[0].reality is not None and driven[5].reality is not None
    twin.set_state(driven[0].reality)
    for moment in driven[1:]:
        assert moment.real is not None and np.array_equal(twin.step(GAS)[0], moment.real)
    for _ in range(4):
        session.rewind()
    again = session.step(GAS)
    assert again.real is not None and driven[2].real is not None
    assert np.array_equal(again.real, driven[2].real) and np.array_equal(again.frame, driven[2].frame)
    track = driven[0].reality["seed"]
    session.next_scene()
    assert session.now.reality is not None and session.now.reality["seed"] == session.track == track + 1
    session.toggle_twin()
    assert session.now.real is None and not session.with_twin and session.track is None


def test_without_the_simulator_one_line_says_so(session: Session, monkeypatch: pytest.MonkeyPatch):
    for name in ("drivedit.data.domains.carracing.twin", "drivedit.data.domains.carracing.simulator"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "Box2D", None)
    with pytest.raises(ImportError, match=r"pip install .* '\.\[data\]'"):
        session.toggle_twin()
    assert not session.with_twin
    session.step(GAS)
