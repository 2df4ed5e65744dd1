"""Policies that answer with waypoints: the judge drives along them on both sides, and refuses what is no plan."""

import importlib
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from helpers.bicycle import DT, Bicycle

from drivedit.agents.drivers.pilot import Pilot, PolicyError
from drivedit.utils.car_response import identify
from drivedit_env.waypoints import WaypointActions

EXAMPLES = Path(__file__).parents[2] / "examples"


class Straight:
    """Plans to go straight on at 8 m/s."""

    waypoint_interval = 0.5

    def __call__(self, observation: Any) -> np.ndarray:
        return np.stack([4.0 * np.arange(1, 9), np.zeros(8)], 1)


class Blind(Straight):
    """Plans nothing that can be followed."""

    def __call__(self, observation: Any) -> np.ndarray:
        return np.full((8, 2), np.nan)


def test_a_policy_drives_as_behind_the_wrapper():
    """One tracker, two ways to it: the controls are the same to the bit."""
    env, wrapped = Bicycle(), WaypointActions(Bicycle(), response=identify(Bicycle()))
    env.reset(seed=0)
    wrapped.reset(seed=0)
    pilot = Pilot("straight", env.action_space, 0, Straight(), car=lambda: (identify(Bicycle()), DT))
    assert pilot.plans
    for _ in range(40):
        seen = env.step(pilot(None, env.pose))[0]
        np.testing.assert_array_equal(seen, wrapped.step(Straight()(None))[0])
    assert env.speed == pytest.approx(8.0, abs=0.5)


def test_what_is_no_plan_is_the_policys_own_failure():
    env = Bicycle()
    env.reset(seed=0)
    pilot = Pilot("blind", env.action_space, 0, Blind(), car=lambda: (identify(Bicycle()), DT))
    with pytest.raises(PolicyError, match="'blind': waypoints are finite numbers"):
        pilot(None, env.pose)
    with pytest.raises(PolicyError, match="cannot be made: ValueError: .*box around 0"):
        Pilot("blind", env.action_space, 0, Blind(), car=lambda: (identify(gym.make("Pendulum-v1").unwrapped), DT))
    with pytest.raises(PolicyError, match="cannot be made: ValueError: .*seconds above 0"):
        still = type("Still", (Straight,), {"waypoint_interval": 0.0})()
        Pilot("still", env.action_space, 0, still, car=lambda: (identify(Bicycle()), DT))
    with pytest.raises(PolicyError, match="must answer with numbers of shape"):
        Pilot("straight", env.action_space, 0, Straight())(None)
    assert not Pilot("still", env.action_space, 0, lambda seen: [0.0, 0.0]).plans


def test_planners_are_judged(tmp_path, monkeypatch):
    """The example: on both sides every planner goes on, and the faster ones get further, in reality as in the dream."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    planners = importlib.import_module("judge_planners")
    result = planners.main(starts=2, horizon=40, out=str(tmp_path))
    assert result.failed == {}
    for side in result.contest.sides:
        slow, brisk = (result.returns[f"judge_planners:{name}"][side].value for name in ("Slow", "Brisk"))
        assert 0 < slow < brisk
