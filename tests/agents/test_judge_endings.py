"""The judge of endings: how often drives end, whether reality repeats itself, and dreams that are told nothing."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest

import drivedit_env  # noqa: F401  (registers the environments)
from drivedit.agents.judging import judge as judging
from drivedit.agents.judging import starts
from drivedit.agents.judging.agreement import halves, pearson, spearman, starts_needed
from drivedit.agents.judging.judge import compare, judge
from drivedit.agents.judging.report import as_text, write_report
from drivedit.agents.judging.starts import FREE, GIVEN, REAL, JudgeSetup, Start, find_starts, place
from drivedit.agents.judging.trials import ENDED, Drives, _ending, check
from drivedit.config import PainterConfig, RangeWorldConfig
from drivedit.config.domains.street import DOMAIN
from drivedit.config.domains.street import SPEC as STREET
from drivedit.models import RangeWorld


class Cliff(gym.Env):
    """A line that is worth walking, and ends at a place that every start draws anew."""

    observation_space = gym.spaces.Box(-100.0, 100.0, (1,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.end = 0.0, float(self.np_random.uniform(5.0, 15.0))
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.at += float(action[0])
        over = self.at > self.end
        return np.array([self.at], np.float32), float(action[0]), over, False, {"reward_terms": {"fell": -1.0 * over}}


gym.register("Cliff-v0", f"{__name__}:Cliff")
PACES = (0.1, 0.4, 0.6, 1.0)


def pace(value: float):
    return lambda observation: [value]


still, slow, quick, hasty = map(pace, PACES)
WALKERS = [f"{__name__}:{name}" for name in ("still", "slow", "quick", "hasty")]


def test_halves_of_reality_agree_as_their_noise_allows():
    """Skill of deviation 1 and luck of deviation 2: halves of 8 starts correlate by 1 / (1 + 4 / 8), within .03."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(4000, 1)) + 2 * rng.normal(size=(4000, 16))
    found = halves(pearson, scores, replicas=20)
    assert found.value == pytest.approx(1 / 1.5, abs=0.03) and found.low < found.value < found.high
    assert starts_needed(1 / 1.5, 16, 0.9) == 36  # 1 / (1 + 4 / 36) is .9
    skill = np.arange(6.0)[:, None].repeat(5, 1)
    assert halves(spearman, skill).value == pytest.approx(1.0) and starts_needed(1.0, 16, 0.9) == 1
    luck = halves(spearman, rng.normal(size=(6, 8)))
    assert luck.low < 0 < luck.high
    assert starts_needed(-0.1, 8, 0.9) is None and starts_needed(float("nan"), 8, 0.9) is None
    with pytest.raises(ValueError, match="S >= 2"):
        halves(pearson, skill[:, :1])


def test_an_ending_is_told_where_one_alone_is_paid_for():
    names = ["collision", "off_road"]
    assert _ending({"collision": 0.0, "off_road": -20.0}, names) == "off_road"
    assert _ending({"collision": -15.0, "off_road": -5.0}, names) == ENDED  # a dream that does not know by which
    assert _ending({"progress": 1.0}, names) == ENDED == _ending({}, [])
    rows = {"collision": np.array([0.0, -20.0]), "off_road": np.array([-20.0, 0.0])}
    assert [_ending(rows, names, row) for row in (0, 1)] == ["off_road", "collision"]


def test_a_drive_has_ended_from_its_last_step_on():
    drives = Drives(np.ones((3, 9)), np.ones((3, 9)), np.array([9, 4, 9]), np.array(["left", "left", ""]))
    assert [drives.ended(steps).tolist() for steps in (3, 4, 9)] == [[False] * 3, [False, True, False],
                                                                    [True, True, False]]  # fmt: skip


def test_who_hurries_falls_and_reality_says_how_often_it_repeats_itself(tmp_path):
    contest = JudgeSetup("Cliff-v0", "Cliff-v0", starts=12, horizon=20, free=True)
    verdict = judge(contest, WALKERS, tmp_path, workers=1, progress=False)
    assert [verdict.rates[name][REAL].value for name in (WALKERS[0], WALKERS[-1])] == [0.0, 1.0]
    rates = [verdict.rates[name][REAL].value for name in WALKERS]
    assert rates == sorted(rates) and verdict.endings[WALKERS[-1]] == {ENDED: 12} and verdict.endings[WALKERS[0]] == {}
    given, free, itself = verdict.by_ending
    assert (given.label, free.label) == ("20 steps", "20 steps, told nothing") and "half of the starts" in itself.label
    assert given.figures["Spearman"].value == free.figures["Spearman"].value == pytest.approx(1.0)
    needed = verdict.needed[20]
    assert needed is not None and needed <= 12
    told = as_text(verdict)
    assert f"20 steps: some {needed} starts are needed" in told and "free ended" in told
    write_report(verdict, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "dream, told nothing" in page and "ended 12" in page


def test_where_nothing_ends_nothing_is_said_of_it():
    kept = {name: Drives(np.full((2, 3), pay), np.full((2, 3), np.nan), np.full(2, 3), np.full(2, ""))
            for name, pay in zip("abc", (1.0, 2.0, 3.0), strict=True)}  # fmt: skip
    verdict = compare(JudgeSetup("a", "b", starts=2, horizon=3), {REAL: kept, GIVEN: kept})
    assert verdict.by_ending == [] and verdict.needed == {} and "ended" not in as_text(verdict)


def test_a_free_dream_is_told_what_was_seen_and_done():
    scene = {"frames": 1, "controls": 2, "times": 3, "route": 4, "closed": True, "poses": 5, "agents": 6, "bounds": 7}
    start = Start(0, 0, {}, [], scene)
    assert start.scene_of(GIVEN) == scene
    assert {*(start.scene_of(FREE) or {})} == {"frames", "controls", "times", "poses"}
    assert Start(0, 0, {}).scene_of(FREE) is None


def test_dreams_told_nothing_are_dreams_without_a_route(tiny_world, tmp_path):
    tiny_world.save_pretrained(tmp_path / "tiny")
    contest = JudgeSetup(world=str(tmp_path / "tiny"), starts=1, horizon=3, run_up=3, free=True).resolved()
    assert contest.real == "drivedit_env:CarRacingTwin-v0"
    start, env = find_starts(contest)[0], contest.open(FREE)
    given = []
    for side in (GIVEN, FREE):
        place(env, start, side)
        given.append(bool(env.step(np.zeros(2, np.float32))[4]["given"]["route"]))
    assert given == [True, False]


def test_reality_shows_what_the_dream_shows(tmp_path):
    world = RangeWorld(RangeWorldConfig(spec=STREET.only(["range"]), model_channels=1, painter=PainterConfig(width=4)))
    world.save_pretrained(tmp_path / "lidar")
    contest = JudgeSetup(world=str(tmp_path / "lidar"), starts=1, horizon=2, run_up=2).resolved()
    assert contest.obs_type == "range" and contest.real == "drivedit_env:StreetTwin-v0"
    start = find_starts(contest)[0]
    assert start.scene is not None and start.scene["observations"]["range"].shape[1:] == (32, 256, 2)
    check(contest, ["street/cautious", "street/blind"], start)
    with pytest.raises(ValueError, match=r"can show, \['camera', 'range'\], got 'smell'"):
        replace(contest, obs_type="smell").resolved()
    with pytest.raises(ValueError, match=r"StreetTwin|can show, \[\], got 'range'"):
        replace(contest, real="drivedit_env:CarRacingTwin-v0").resolved()


def test_reality_is_not_driven_again_for_another_dream():
    policies = ["carracing/parked", WALKERS[0]]
    twin = "drivedit_env:CarRacingTwin-v0"
    first, other = (judging._sources(JudgeSetup(real=twin, sampling_steps=passes), policies) for passes in (1, 2))
    assert first[REAL][policies[0]] == other[REAL][policies[0]]  # it sees the picture alone
    assert first[REAL][policies[1]] != other[REAL][policies[1]]  # it may do anything
    assert first[GIVEN][policies[0]] != other[GIVEN][policies[0]]


def test_the_street_is_judged_among_others_where_the_run_up_is_survived(monkeypatch):
    run_up, seeds = starts._run_up, []

    def first_one_ends(env, pilot, observation, steps):
        seeds.append(env.unwrapped._seed)
        return run_up(env, pilot, observation, steps)[: steps if len(seeds) > 1 else 1]

    monkeypatch.setattr(starts, "_run_up", first_one_ends)
    (start,) = find_starts(JudgeSetup("Cliff-v0", f"drivedit_env:{DOMAIN.env_id}", starts=1, run_up=2))
    assert seeds == [1_000_000, 1_000_001] and (start.number, start.seed, len(start.actions)) == (1, 1_000_001, 2)
    assert start.options["attributes"] == {"traffic": "dense"} and set(DOMAIN.judging_starts) < set(start.options)
