"""Agents in a second domain: whose policies are whose, how starts are drawn and driven to, what is on the road."""

from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import EntryPoint
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import drivedit_env
from drivedit.agents.__main__ import main
from drivedit.agents.domains import domain_behind
from drivedit.agents.drive import drive
from drivedit.agents.drivers import policies
from drivedit.agents.judging.scores import score
from drivedit.agents.judging.starts import JudgeSetup, find_starts
from drivedit.agents.learning.sb3 import open_vector
from drivedit.agents.learning.wrappers import OffRoad
from drivedit.agents.load import load_agent
from drivedit.config import DEFAULT_WORLD, DomainConfig, Quantity, domain, find_domain
from drivedit.models import DiTWorld
from drivedit_env.domains import gentle_controls
from drivedit_env.env import DriveDiTEnv
from drivedit_env.viewer.session import Session


class Lane(gym.Env):
    """A road that starts where it is told to, and ends after 6 steps; its scene is what was done."""

    observation_space, action_space = gym.spaces.Box(0, 9, (1,)), gym.spaces.Box(-1, 1, (2,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.begun, self.done = options, []
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> Any:
        self.done.append(action)
        return np.zeros(1, np.float32), 1.0, len(self.done) == 6, False, {"telemetry": {"tarmac": float(action[0])}}

    def scene(self) -> dict[str, Any]:
        return {"begun": self.begun, "controls": list(self.done)}


def hold(value: float) -> Any:
    """Makes a policy that steers alike, whatever its seed."""
    return lambda seed: lambda seen: np.full(2, value, np.float32)


THEIRS = {"parked": hold(0.25), "steady": hold(0.5)}
SPEC = replace(find_domain(DEFAULT_WORLD).spec, domain="lanes", telemetry=[Quantity("tarmac", 0.0, 1.0)])
OTHER = DomainConfig(
    spec=SPEC,
    env_id="Lane-v0",
    simulator=f"{__name__}:Lane",
    drivers=f"{__name__}:hold",
    judging_starts={"mile": (3.0, 5.0)},
    policies=f"{__name__}:THEIRS",
    on_road="tarmac",
    run_up="steady",
    public={"LaneRace-v0": f"{__name__}:Lane"},
    solved=5.5,
)


@pytest.fixture(autouse=True)
def other_domain(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Announces the second domain, as an installed package would."""
    point = EntryPoint("lanes", f"{__name__}:OTHER", domain.GROUP)
    monkeypatch.setattr(domain, "entry_points", lambda group: [point])
    domain.all_domains.cache_clear()
    drivedit_env.register_environments()
    yield
    for name in ("Lane-v0", "LaneRace-v0"):
        gym.registry.pop(name)
    monkeypatch.undo()
    domain.all_domains.cache_clear()


def test_a_name_alone_does_where_one_domain_has_it():
    names = policies.policy_names()
    assert {"steady", "lanes/parked", "carracing/parked", "lane_keeper", "learned"} <= set(names)
    assert "parked" not in names and len(names) == len(set(names))
    assert policies.policy_names("lanes") == ["lanes/parked", "steady"]
    seen = np.zeros((64, 64, 3), np.uint8)
    assert load_agent("lanes/parked")(seen)[0] == 0.25 and load_agent("carracing/parked")(seen)[0] == 0.0
    assert load_agent("steady")(seen)[0] == load_agent("lanes/steady")(seen)[0] == 0.5
    with pytest.raises(ValueError, match="carracing/parked, lanes/parked"):
        load_agent("parked")
    for unknown in ("lanes/lane_keeper", "lanes/learned", "moon/parked"):
        with pytest.raises(ValueError, match="module:callable"):
            load_agent(unknown)


def test_an_agent_that_learned_belongs_to_a_domain(tmp_path, monkeypatch):
    monkeypatch.setattr(policies, "WEIGHTS", tmp_path)
    assert policies.find_policy("learned") is None
    for name in ("carracing", "lanes"):
        policies.weights_of(name).write_bytes(b"weights")
    assert policies.find_policy("learned") == policies.find_policy("carracing/learned") == ("carracing", "learned")
    assert policies.policy_names("lanes")[-1] == "lanes/learned" and "learned" in policies.policy_names()


def test_starts_are_drawn_and_driven_to_as_the_domain_says():
    starts = find_starts(JudgeSetup("Lane-v0", "Lane-v0", starts=3, run_up=2))
    miles = [start.options["mile"] for start in starts]
    assert all(3.0 <= mile <= 5.0 for mile in miles) and len(set(miles)) == 3
    assert all(start.scene is not None and start.scene["begun"] == start.options for start in starts)
    assert all(action.tolist() == [0.5, 0.5] for start in starts for action in start.actions)
    (start,) = find_starts(JudgeSetup("Lane-v0", "LaneRace-v0", starts=1, run_up=2))
    assert start.options == {} and len(start.actions) == 2, "the public environment starts as it does"
    with pytest.raises(ValueError, match="only 0 of the seeds .* do not end within the run-up of 6 steps"):
        find_starts(JudgeSetup("Lane-v0", "Lane-v0", starts=1, run_up=6))


def test_an_environment_of_no_domain_is_not_driven_up_to_a_start():
    gym.register("Stray-v0", entry_point=f"{__name__}:Lane")
    try:
        (start,) = find_starts(JudgeSetup("Stray-v0", "Stray-v0", starts=1))
        env = gym.make("Stray-v0", disable_env_checker=True)
        assert domain_behind(env) is None
        told = score(env, load_agent("steady"), 1, 0, progress=False)
    finally:
        gym.registry.pop("Stray-v0")
    assert start.options == {} and start.actions == [] and start.scene == {"begun": None, "controls": []}
    assert "solved" not in told.summary() and "share of" not in str(told)


def test_scores_and_the_share_on_the_road_are_the_domains():
    env = gym.make("LaneRace-v0", disable_env_checker=True)
    assert domain_behind(env) is OTHER
    told = score(env, load_agent("steady"), 2, 0, progress=False)
    assert told.summary()["solved"] == 1.0 and "share of 6 or more" in str(told)
    assert drive(env, load_agent("steady"), 4, progress=False).on_road == 0.5
    assert np.isnan(drive(env, load_agent("steady"), 4, progress=False, on_road="speed").on_road)
    envs = OffRoad(open_vector("Lane-v0", 2), steps=1)
    envs.reset(seed=0)
    assert envs.step(np.array([[0.0, 0.0], [1.0, 0.0]], np.float32))[2].tolist() == [True, False]


def test_the_judge_asks_the_policies_of_the_real_ones_domain(tmp_path, capsys):
    assert main(["judge", "--dream", "Lane-v0", "--real", "Lane-v0", "--out", str(tmp_path)]) == 1
    assert "at least 3 different policies, got 2" in capsys.readouterr().err
    gym.register("Stray-v0", entry_point=f"{__name__}:Lane")
    try:
        assert main(["judge", "--dream", "Stray-v0", "--real", "Stray-v0", "--out", str(tmp_path)]) == 1
    finally:
        gym.registry.pop("Stray-v0")
    told = capsys.readouterr().err.splitlines()
    assert told == ["error: Stray-v0 is of no domain that has policies: name those to judge, --policies NAME NAME NAME"]


def test_a_dream_is_of_its_worlds_domain(tiny_world: DiTWorld, tmp_path):
    """Who takes the wheel, and which simulator is opened beside it; a world of no domain has neither."""
    env = DriveDiTEnv(tiny_world)
    assert domain_behind(env) is find_domain("carracing")
    spec, config = tiny_world.spec, tiny_world.config
    try:
        tiny_world.config = replace(config, spec=replace(spec, domain="lanes"))
        assert domain_behind(env) is OTHER and gentle_controls(tiny_world).tolist() == [[-0.1, -0.1], [0.1, 0.1]]
        session = Session(env, scene=0, folder=tmp_path)
        session.hand_over()
        assert session.driver == "steady" and session.step(np.zeros(2, np.float32)).action[0] == 0.5
        tiny_world.config = replace(config, spec=replace(spec, domain="nowhere"))
        stray = Session(env, scene=0, folder=tmp_path)
        for call in (stray.hand_over, stray.toggle_twin):
            with pytest.raises(ValueError, match="agent|simulator"):
                call()
        assert not stray.agent_drives and not stray.with_twin
    finally:
        tiny_world.config = config
