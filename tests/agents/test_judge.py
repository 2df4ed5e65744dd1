"""The judge: its statistics against closed forms and scipy, and contests of four policies on tiny environments."""

import json
import re
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from scipy import stats

import drivedit_env  # noqa: F401  (registers the environments)
from drivedit.agents.__main__ import main
from drivedit.agents.drivers import policies as drivers
from drivedit.agents.drivers.pilot import Pilot, PolicyError
from drivedit.agents.judging import judge as judging
from drivedit.agents.judging import trials
from drivedit.agents.judging.agreement import (
    agreement,
    better_half,
    kendall,
    mean,
    mean_maximum_rank_violation,
    mean_score,
    pearson,
    spearman,
)
from drivedit.agents.judging.judge import compare, judge, trusted_scores, trusted_steps
from drivedit.agents.judging.report import write_report
from drivedit.agents.judging.starts import JudgeSetup, find_starts, place
from drivedit.agents.judging.trials import Drives
from drivedit.agents.load import load_agent
from drivedit.agents.planning.planner import Planner, Search
from drivedit.data.domains.carracing.lane_keeper import BAR_AT_REST, BAR_PER_SPEED, SPEED_BAR

FRAME = np.zeros((64, 64, 3), np.uint8)


class Road(gym.Env):
    """A point on a line that is paid for speed; `grip` < 1 makes a world in which actions do less."""

    observation_space = gym.spaces.Box(-100.0, 100.0, (1,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    driven = 0

    def __init__(self, grip: float = 1.0, end: float = 50.0) -> None:
        self.grip, self.end = grip, end

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = float(self.np_random.normal())
        Road.driven += 1
        return np.array([self.at], np.float32), {}

    def step(self, action):
        self.at += self.grip * float(action[1])
        return np.array([self.at], np.float32), float(action[1]) * self.grip, self.at > self.end, False, {}


class Wide(Road):
    """The same with other actions."""

    action_space = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)


gym.register("Road-v0", f"{__name__}:Road")
gym.register("SlipperyRoad-v0", f"{__name__}:Road", kwargs={"grip": 0.5})
gym.register("WideRoad-v0", f"{__name__}:Wide")


def full(observation):
    return [0.0, 1.0]


def half(observation):
    return [0.0, 0.5]


def back(observation):
    return [0.0, -0.7]


class Chance:
    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def __call__(self, observation):
        return self.random.uniform(-1, 1, 2)


def nothing(observation):
    return [0.0, float("nan")]


def too_much(observation):
    return [0.0, 1.0, 2.0]


class GivesUp:
    """Drives three steps, then breaks."""

    def __init__(self) -> None:
        self.left = 4

    def __call__(self, observation):
        self.left -= 1
        if not self.left:
            raise RuntimeError("out of petrol")
        return [0.0, 0.1]


def named(*names: str) -> list[str]:
    return [f"{__name__}:{name}" for name in names]


FOUR = named("full", "half", "back", "Chance")


# -- statistics ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", [False, True])
def test_correlations_agree_with_scipy(ties):
    rng = np.random.default_rng(0)
    real = rng.normal(size=(5, 24))
    dream = real + rng.normal(size=(5, 24))
    if ties:
        real, dream = np.round(real), np.round(dream)
    for ours, theirs in ((pearson, stats.pearsonr), (spearman, stats.spearmanr), (kendall, stats.kendalltau)):
        found = ours(real, dream)
        assert found == pytest.approx([theirs(r, d)[0] for r, d in zip(real, dream, strict=True)], abs=1e-12)


def test_without_variation_there_is_no_correlation():
    for measure in (pearson, spearman, kendall):
        assert np.isnan(measure(np.ones(5), np.arange(5.0)))


def test_rank_violation_in_closed_form():
    real = np.array([0.0, 1.0, 3.0, 10.0])
    assert mean_maximum_rank_violation(real, real) == 0.0
    assert mean_maximum_rank_violation(real, real**3 + 7) == 0.0  # only the order counts
    swapped = np.array([0.0, 3.0, 1.0, 10.0])  # the two in the middle: both are wrong by 2
    assert mean_maximum_rank_violation(real, swapped) == pytest.approx((0 + 0.2 + 0.2 + 0) / 4)
    assert mean_maximum_rank_violation(real, -real) == pytest.approx((1 + 0.9 + 0.7 + 1) / 4)
    both = mean_maximum_rank_violation(np.stack([real, real]), np.stack([real, -real]))
    assert both == pytest.approx([0.0, 0.9])
    assert mean_maximum_rank_violation(50 * real - 3, swapped) == pytest.approx(0.1)  # whatever the units
    assert np.isnan(mean_maximum_rank_violation(np.ones(4), swapped))


def test_an_interval_covers_the_truth_as_often_as_it_says():
    """Means of 40 normal starts: 95% intervals hold the truth in 240 of 300 trials or more (failing: below 1e-9)."""
    rng = np.random.default_rng(0)
    inside = 0
    for trial in range(300):
        estimate = mean_score(rng.normal(3.0, 2.0, 40), seed=trial, replicas=400)
        inside += estimate.low <= 3.0 <= estimate.high
    assert 265 <= inside <= 298


def test_agreement_of_a_line_is_sure_and_of_noise_is_not():
    rng = np.random.default_rng(1)
    skill, luck = rng.normal(size=(24, 1)), rng.normal(size=(1, 6))
    real = 10 * skill + luck
    same = agreement(pearson, real, 3 * real + 5)
    assert (same.value, same.low, same.high) == pytest.approx((1.0, 1.0, 1.0))
    noise = agreement(spearman, real, rng.normal(size=(24, 6)))
    assert noise.low < 0 < noise.high and noise.high - noise.low > 0.4
    more = agreement(spearman, real, real + 10 * rng.normal(size=(24, 6)))
    assert noise.high < more.low <= more.value <= more.high < 1.0
    with pytest.raises(ValueError, match="P >= 3"):
        agreement(pearson, real[:2], real[:2])


def test_the_better_half_and_means_without_nan():
    assert better_half(np.array([[5.0], [1.0], [3.0], [4.0]])).tolist() == [0, 3]
    assert mean(np.array([[1.0, np.nan, 3.0], [np.nan] * 3])) == pytest.approx([2.0, np.nan], nan_ok=True)


def test_steps_of_low_confidence_are_cut_off():
    rewards = np.array([[1.0, 1.0, 7.0, 0.0]])
    confidence = np.array([[0.9, 0.8, 0.1, np.nan]])
    drives = [Drives(rewards, confidence, np.array([3]), np.array(["left"]))]  # it ended after 3 of 4 steps
    assert trusted_scores(drives, trusted_steps(drives, 0.0)) == pytest.approx(rewards.sum())
    assert trusted_steps(drives, 0.5).tolist() == [[[True, True, False, True]]]
    assert trusted_scores(drives, trusted_steps(drives, 0.5)) == pytest.approx(4 * (1 + 1 + 0) / 3)
    whole = [Drives(rewards, np.array([[0.2, 0.2, 0.1, 0.1]]), np.array([4]), np.array([""]))]
    assert np.isnan(trusted_scores(whole, trusted_steps(whole, 0.5))).all()


def test_cutting_off_what_the_dream_invents_mends_the_order():
    """Dreams that pay the wrong ones when they are unsure rank wrongly until those steps are left out."""
    rng = np.random.default_rng(0)
    real, dream = {}, {}
    for i, pay in enumerate(np.linspace(0, 1, 8)):
        shape = (3, 20)
        unsure = rng.random(shape) < 0.3
        steps, ones = np.full(3, 20), np.ones(shape)
        real[str(i)] = Drives(pay * ones, np.nan * ones, steps, np.full(3, ""))
        dream[str(i)] = Drives(np.where(unsure, -10 * pay, pay), np.where(unsure, 0.1, 0.9), steps, np.full(3, ""))
    verdict = compare(JudgeSetup("a", "b", starts=3, horizon=20), {"real": real, "dream": dream})
    values = [line.figures["Spearman"].value for line in verdict.by_confidence]
    assert values[0] < -0.5 and values[-2:] == pytest.approx([1.0, 1.0])


# -- policies ------------------------------------------------------------------------------------------------------


def test_there_are_many_different_drivers():
    frames = np.full((14, 64, 64, 3), (102, 204, 102), np.uint8)
    for index, frame in enumerate(frames):  # a straight road that wanders to the right, at 0 to 78 m/s
        left = 22 + index // 2
        frame[:56, left : left + 14] = 102
        frame[56:] = 0
        bar = np.zeros(20, np.uint8)
        bar[: round((BAR_AT_REST + BAR_PER_SPEED * 6 * index) / (3 * 255))] = 255
        frame[SPEED_BAR] = bar.reshape(5, 4, 1)
    driven = {}
    names = drivers.policy_names("carracing")
    for name in names:
        agent = load_agent(name, seed=1)
        driven[name] = np.array([agent(frame) for frame in frames]).tobytes()
    assert len(names) >= 24 and len(set(driven.values())) == len(names)


def test_a_policy_is_found_by_name_or_refused():
    assert load_agent(f"{__name__}:full") is full
    first, second = (load_agent(f"{__name__}:Chance", seed)(FRAME) for seed in (1, 2))
    assert (first != second).all() and (load_agent(f"{__name__}:Chance", 1)(FRAME) == first).all()
    for wrong in ("nobody", "no_such_module:driver", f"{__name__}:nobody", f"{__name__}:FRAME"):
        with pytest.raises(ValueError, match=re.escape(wrong)):
            load_agent(wrong)


def test_a_bias_pulls_to_a_side():
    straight, right = (np.asarray(load_agent(name)(FRAME)) for name in ("lane_keeper", "pulls_right"))
    assert right[0] - straight[0] == pytest.approx(0.12, abs=1e-6)


def test_answers_are_checked_and_clipped():
    space = Road.action_space
    assert Pilot(f"{__name__}:half", space, 0)(None) == pytest.approx([0.0, 0.5])
    assert Pilot("numpy:array", space, 0)([0.0, 9.0]) == pytest.approx([0.0, 1.0])
    for name, what in (("nothing", "NaN"), ("too_much", "shape")):
        with pytest.raises(PolicyError, match=f"{name}.*{what}"):
            Pilot(f"{__name__}:{name}", space, 0)(None)
    with pytest.raises(PolicyError, match="one of Discrete"):
        Pilot(f"{__name__}:full", gym.spaces.Discrete(2), 0)(None)


# -- contests ------------------------------------------------------------------------------------------------------


def test_a_contest_on_any_two_environments(tmp_path):
    contest = JudgeSetup("SlipperyRoad-v0", "Road-v0", starts=3, horizon=60)
    verdict = judge(contest, FOUR, tmp_path, workers=1, progress=False)
    assert list(verdict.returns)[0] == FOUR[0] and list(verdict.returns)[-1] == FOUR[2]
    full_drive = verdict.returns[FOUR[0]]
    assert full_drive["real"].value < 60 and full_drive["dream"].value == pytest.approx(30.0)
    assert verdict.steps[FOUR[0]]["real"] < 60 == verdict.steps[FOUR[0]]["dream"]  # past the end of the road
    assert verdict.overall.figures["Spearman"].value == pytest.approx(1.0)
    assert verdict.overall.figures["MMRV"].value == 0.0 and verdict.by_confidence == []
    assert [line.label for line in verdict.by_horizon][::2] == ["25 steps", "50 steps", "60 steps"]
    stored = json.loads((tmp_path / "verdict.json").read_text())
    assert stored["overall"]["figures"]["Kendall"]["value"] == pytest.approx(1.0)
    assert stored["confidence"][FOUR[0]] is None


def test_an_interrupted_contest_goes_on(tmp_path, monkeypatch):
    contest = JudgeSetup("SlipperyRoad-v0", "Road-v0", starts=2, horizon=10)
    judge(contest, FOUR, tmp_path / "whole", workers=1, progress=False)
    keep, kept = judging._keep, []

    def interrupted(path: Path, drives: Drives, source: str) -> None:
        if len(kept) == 5:
            raise KeyboardInterrupt
        kept.append(path)
        keep(path, drives, source)

    monkeypatch.setattr(judging, "_keep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        judge(contest, FOUR, tmp_path / "parts", workers=1, progress=False)
    monkeypatch.setattr(judging, "_keep", keep)
    Road.driven = 0
    judge(contest, FOUR, tmp_path / "parts", workers=1, progress=False)
    whole, parts = (tmp_path / name / "verdict.json" for name in ("whole", "parts"))
    assert parts.read_text() == whole.read_text()
    assert Road.driven == 3 * 2 + 2 + 2  # three missing drives from two starts, finding the starts, the check
    with pytest.raises(ValueError, match="horizon.*another folder"):
        judge(JudgeSetup("SlipperyRoad-v0", "Road-v0", starts=2, horizon=11), FOUR, tmp_path / "parts", progress=False)


def test_what_would_spoil_a_long_run_is_named_at_once(tmp_path):
    contest = JudgeSetup("SlipperyRoad-v0", "Road-v0", starts=2, horizon=10)
    with pytest.raises(ValueError, match="(?s)nothing.*NaN.*too_much.*shape"):
        judge(contest, [*FOUR, *named("nothing", "too_much")], tmp_path, workers=1, progress=False)
    with pytest.raises(ValueError, match="cannot be made") as refused:
        judge(contest, [*FOUR, "nobody"], tmp_path, workers=1, progress=False)
    assert str(refused.value).count("cannot be made") == 1 and "dream, real" in str(refused.value)
    with pytest.raises(ValueError, match="same action_space"):
        judge(JudgeSetup("WideRoad-v0", "Road-v0"), FOUR, tmp_path, workers=1, progress=False)
    with pytest.raises(ValueError, match="at least 3"):
        judge(contest, FOUR[:2] * 2, tmp_path, workers=1, progress=False)
    with pytest.raises(ValueError, match="horizon"):
        JudgeSetup("a", "b", horizon=0)
    assert not list(tmp_path.iterdir())


def test_a_policy_that_fails_does_not_lose_the_others(tmp_path):
    contest = JudgeSetup("SlipperyRoad-v0", "Road-v0", starts=2, horizon=10)
    (broken,) = named("GivesUp")
    verdict = judge(contest, [broken, *FOUR], tmp_path, workers=1, progress=False)
    assert list(verdict.failed) == [broken] and "out of petrol" in verdict.failed[broken]
    assert set(verdict.returns) == set(FOUR)
    write_report(verdict, tmp_path / "report.html")
    assert "out of petrol" in (tmp_path / "report.html").read_text()


@pytest.fixture(scope="module")
def saved(tiny_world, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("worlds") / "tiny"
    tiny_world.save_pretrained(folder)
    return str(folder)


def test_dreams_in_a_batch_are_the_dreams_alone(saved):
    """The same starts, the same chance of dream and driver; a driver that fails leaves the others as they are."""
    contest = JudgeSetup(
        "drivedit_env:DriveDiT-v0", "drivedit_env:CarRacingTwin-v0", saved, starts=2, horizon=6, run_up=3
    )
    starts = find_starts(contest)
    assert starts[0].scene is not None and len(starts[0].scene["controls"]) == 3 and trials.batched(contest)
    names = ["lane_keeper", *named("GivesUp"), "drunk"]
    together = dict(outcome for _, outcome in trials.drive_together(contest, names, starts) if outcome)
    apart = dict(outcome for _, outcome in trials.drive_apart(contest, "dream", names, starts, 1) if outcome)
    assert set(together) == set(apart) == set(names)
    for name in ("lane_keeper", "drunk"):
        one, other = together[name], apart[name]
        assert isinstance(one, Drives) and isinstance(other, Drives)
        assert one.rewards == pytest.approx(other.rewards, abs=1e-3) and (one.steps == other.steps).all()
        assert one.confidence == pytest.approx(other.confidence, abs=1e-3) and np.isfinite(one.confidence).any()
    assert isinstance(together[names[1]], PolicyError) and "out of petrol" in str(together[names[1]])


def test_a_planner_is_judged_on_both_sides(saved, tmp_path, monkeypatch):
    dream, real = "drivedit_env:DriveDiT-v0", "drivedit_env:CarRacingTwin-v0"
    search = Search(futures=3, elites=1, rounds=1, knots=1, hold=2, act=2)
    monkeypatch.setattr(trials, "EFFORT", search)
    contest = JudgeSetup(dream, real, saved, starts=1, horizon=4, run_up=3)
    verdict = judge(contest, ["planner", "parked", "wild"], tmp_path, workers=1, progress=False)
    assert verdict.failed == {} and {"planner", "parked", "wild"} == set(verdict.returns)
    start = find_starts(contest)[0]
    env = contest.open("dream", obs_type="latent")
    place(env, start, "dream")
    planner, total = Planner.in_dream(env, search, start.number), 0.0
    for _ in range(contest.horizon):
        total += float(env.step(planner())[1])
    assert verdict.returns["planner"]["dream"].value == pytest.approx(total, abs=1e-4)
    with pytest.raises(ValueError, match="tells its scene"):
        judge(JudgeSetup(dream, dream, saved, starts=1, horizon=4), ["planner", "parked", "wild"], tmp_path / "other")


def test_the_command_judges_in_two_processes_and_writes_a_page(saved, tmp_path, capsys):
    arguments = ["judge", "--world", saved, "--policies", "lane_keeper", "parked", "wild", "pulls_left"]
    arguments += ["--starts", "2", "--horizon", "5", "--workers", "2", "--out", str(tmp_path)]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in ("lane_keeper", "wild", "Spearman", "better half", "most confident"))
    page = (tmp_path / "report.html").read_text()
    assert "data:image/png;base64," in page and "parked" in page
    assert re.findall(r"(?:src|href)\s*=\s*['\"](?!data:)", page) == []  # nothing beside the page is needed
    assert main([*arguments[:4], "nobody", *arguments[4:]]) == 1
    assert "'nobody'" in capsys.readouterr().err


def test_drives_of_other_weights_or_code_are_never_taken_for_these(tmp_path, monkeypatch):
    contest = JudgeSetup("SlipperyRoad-v0", "Road-v0", starts=2, horizon=10)
    weights = tmp_path / "carracing.safetensors"
    monkeypatch.setattr(drivers, "WEIGHTS", tmp_path)
    for name in (str(weights), "learned"):
        found = set()
        for content in (b"one", b"other", b"one"):
            weights.write_bytes(content)
            found.add(judging._sources(contest, [name])["real"][name])
        assert len(found) == 2
    monkeypatch.undo()
    out, drives = tmp_path / "out", lambda: Road.driven
    policies = FOUR[:3]
    judge(contest, policies, out, workers=1, progress=False)
    before = drives()
    judge(contest, policies, out, workers=1, progress=False)
    again = drives() - before
    (out / "drives").joinpath(judging._file(out, "real", policies[0]).name).write_bytes(b"damaged")
    judge(contest, policies, out, workers=1, progress=False)
    assert drives() - before - again == again + 2, "one policy's two drives in reality"
    before = drives()
    monkeypatch.setattr(judging, "code_fingerprint", lambda *names: "other code")
    judge(contest, policies, out, workers=1, progress=False)
    assert drives() - before == again + 2 * 3 * 2, "every drive in reality and in the dream, which is such a road"
