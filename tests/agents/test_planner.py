"""The planner finds known optima, keeps away from what the world does not know, and leaves the world as it was."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import drivedit_env  # noqa: F401  (registers the environments)
from drivedit.agents.__main__ import main
from drivedit.agents.planning.planner import Planner, Search

BOX = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)


class Points:
    """N points in the plane that move by a tenth of their action; the world is sure of itself left of `unsure`."""

    def __init__(self, n: int, at: np.ndarray, goal: np.ndarray, unsure: float = np.inf, deadly: float = np.inf):
        self.at, self.goal, self.unsure, self.deadly = np.tile(at, (n, 1)), goal, unsure, deadly

    def get_state(self) -> np.ndarray:
        return self.at.copy()

    def set_state(self, state: np.ndarray) -> None:
        self.at = state.copy()

    def step(self, actions: np.ndarray) -> tuple[Any, ...]:
        self.at = self.at + 0.1 * actions
        rewards = -np.square(self.at - self.goal).sum(1)
        over = self.at[:, 0] > self.deadly
        confidence = np.where(self.at[:, 0] > self.unsure, 0.0, 1.0)
        return self.at, rewards, over, np.zeros_like(over), {"confidence": confidence}

    def close(self) -> None:
        pass


class Walk:
    """One point and its planner."""

    def __init__(self, search: Search, goal: tuple[float, float], seed: int = 0, **world: float) -> None:
        self.at, self.goal = np.zeros(2), np.array(goal)
        self.planner = Planner(lambda n: Points(n, self.at, self.goal, **world), BOX, search, seed)

    def go(self, steps: int) -> np.ndarray:
        path = []
        for _ in range(steps):
            self.at = self.at + 0.1 * self.planner(None)
            path.append(self.at)
        return np.array(path)


def test_it_reaches_a_goal_as_fast_as_can_be_and_stays_there():
    walk = Walk(Search(futures=64, rounds=4, act=1, hold=1, knots=6), (0.7, -0.4))
    path = walk.go(20)
    assert path[6] == pytest.approx([0.7, -0.4], abs=0.12)  # 7 full steps are the least
    assert np.abs(path[10:] - walk.goal).max() < 0.1


def test_a_plan_is_worth_what_an_exhaustive_search_finds():
    """One knot of one step: the best action for a goal within reach is the way to it, worth 0."""
    walk = Walk(Search(futures=256, rounds=6, elites=16, knots=1, hold=1, act=1, least_spread=0.01), (0.05, 0.03))
    action = walk.planner()
    assert action == pytest.approx([0.5, 0.3], abs=0.05) and -1e-4 < walk.planner.worth <= 0.0
    far = Walk(Search(futures=64, rounds=6, knots=1, hold=3, act=3), (9.0, -9.0))
    assert far.planner() == pytest.approx([1.0, -1.0], abs=0.02)


def test_more_rounds_never_promise_less():
    """The best plan of a round is tried again in the next one."""
    worths = []
    for rounds in (1, 2, 4, 8):
        walk = Walk(Search(futures=16, rounds=rounds, elites=4), (0.5, 0.5), seed=3)
        walk.planner()
        worths.append(walk.planner.worth)
    assert worths == sorted(worths) and worths[-1] > worths[0]


def test_doubt_keeps_it_where_the_world_knows():
    bold = Walk(Search(futures=64, rounds=3, hold=2, act=2, doubt=0.0), (1.0, 0.0), unsure=0.5).go(24)
    shy = Walk(Search(futures=64, rounds=3, hold=2, act=2, doubt=50.0), (1.0, 0.0), unsure=0.5).go(24)
    assert bold[-1, 0] > 0.8 and 0.3 < shy[:, 0].max() <= 0.5 + 1e-6


def test_rewards_after_an_ending_do_not_count():
    """Behind the deadly line nothing costs any more, so a far goal makes a quick end the best of all plans."""
    search = Search(futures=64, rounds=3, hold=1, act=1, knots=6)
    assert Walk(search, (-9.0, 0.0), deadly=0.03).go(1)[0, 0] > 0.03
    assert Walk(search, (-9.0, 0.0)).go(1)[0, 0] < -0.03


def test_it_holds_replans_and_repeats_itself():
    def actions(seed: int) -> np.ndarray:
        return np.array([walk.planner() for walk in [Walk(Search(act=6, hold=3), (0.3, 0.2), seed)] for _ in range(12)])

    first = actions(1)
    assert (first[0] == first[2]).all() and (first[0] != first[3]).any()
    assert (actions(1) == first).all() and (actions(2) != first).any()
    walk = Walk(Search(act=6), (0.3, 0.2), 1)
    walk.go(13)
    assert walk.planner.plans == 3 and walk.planner.seconds > 0
    walk.planner.reset()
    assert np.isnan(walk.planner.worth)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"futures": 0}, "futures"), ({"elites": 99}, "elites"), ({"act": 99}, "act"), ({"spread": 0.01}, "spread")],
)
def test_wrong_settings_are_named(wrong, named):
    with pytest.raises(ValueError, match=named):
        Search(**wrong)


def test_wrong_actions_are_named():
    with pytest.raises(ValueError, match="bounded box"):
        Planner(lambda n: None, gym.spaces.Discrete(3))  # type: ignore[arg-type]


def test_planning_in_the_dream_promises_what_comes_and_does_not_disturb_it(tiny_world):
    env = gym.make("DriveDiT-v0", world=tiny_world, obs_type="latent")
    env.reset(seed=1)
    inside: Any = env.unwrapped
    before = inside.get_state().to_bytes()
    planner = Planner.in_dream(env, Search(futures=6, elites=2, knots=2, hold=2, act=4, doubt=0.0), seed=0)
    action = planner()
    assert inside.get_state().to_bytes() == before
    earned = 0.0
    for _ in range(4):
        _, reward, over, _, _ = env.step(action)
        earned += float(reward)
        assert not over
        action = planner() if planner._done < 4 else action
    assert earned == pytest.approx(planner.worth, abs=1e-3)


def test_planning_in_reality_opens_the_dream_there(tiny_world):
    real = gym.make("drivedit_env:CarRacingTwin-v0")
    dream = gym.make("DriveDiT-v0", world=tiny_world, obs_type="latent")
    planner = Planner.in_reality(real, dream, Search(futures=4, elites=2, rounds=1, knots=2, hold=2, act=2))
    real.reset(seed=1_000_000)
    actions = []
    for _ in range(4):
        actions.append(planner())
        real.step(actions[-1])
    assert (actions[0] == 0).all() and planner.plans == 2 and real.action_space.contains(actions[-1])
    inside: Any = dream.unwrapped
    twin: Any = real.unwrapped
    scene = twin.scene()
    state = inside.get_state().world
    assert np.hypot(*(np.asarray(state.pose[0, :2]) - scene["poses"][-2, :2])) < 1.0  # where the last plan was made


def test_the_command_plans(tiny_world, tmp_path, capsys):
    tiny_world.save_pretrained(tmp_path / "tiny")
    options = ["--world", str(tmp_path / "tiny"), "--steps", "3", "--futures", "6", "--act", "2"]
    assert main(["plan", *options]) == 0
    told = capsys.readouterr().out
    assert "return" in told and "(2 plans, beside env.step)" in told
