"""The lane keeper sees the road, keeps it, and comes back to it; drives are filmed; the examples run."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import cv2
import gymnasium as gym
import numpy as np
import pytest

import drivedit_env  # noqa: F401  (registers the environments)
from drivedit.agents.__main__ import main
from drivedit.agents.drive import Drive, drive
from drivedit.agents.judging.scores import score
from drivedit.agents.load import load_agent
from drivedit.data.domains.carracing.lane_keeper import (
    UNREACHED,
    LaneKeeper,
    Skill,
    middle_of_road,
    read_speed,
    road_pixels,
    speed_for_bends,
    spread_over_road,
)
from drivedit.utils.commands import run
from drivedit.utils.video import VideoWriter

ROOT = Path(__file__).resolve().parents[2]
GRASS, ROAD = (102, 204, 102), (102, 102, 102)


def picture(left: float, right: float, slant: float = 0.0) -> np.ndarray:
    """A straight road between two columns at the car, leaning by `slant` columns per row."""
    frame = np.full((64, 64, 3), GRASS, np.uint8)
    rows, columns = np.mgrid[:56, :64]
    shift = slant * (48 - rows)
    frame[:56][(columns >= left + shift) & (columns < right + shift)] = ROAD
    frame[56:] = 0
    return frame


def videos_frames(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def saved(tiny_world, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("worlds") / "tiny"
    tiny_world.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("left", "right", "slant", "sign"),
    [(25, 39, 0.0, 0), (29, 43, 0.0, 1), (21, 35, 0.0, -1), (25, 39, 0.6, 1), (25, 39, -0.6, -1)],
)
def test_it_steers_to_the_middle_of_the_road(left, right, slant, sign):
    steering, _ = LaneKeeper()(picture(left, right, slant))
    assert np.sign(steering) == sign if sign else abs(steering) < 0.1


def test_it_turns_slowly_to_where_the_road_was():
    agent = LaneKeeper()
    nothing = picture(0, 0)
    for left, sign in ((45, 1), (5, -1)):
        agent(picture(left, left + 14))
        steering, throttle = agent(nothing)
        assert np.sign(steering) == sign and throttle <= 0.2


def test_a_hairpin_is_seen_along_the_road():
    """Two lanes that meet at the top: the lane beside the car is far away along the road."""
    frame = picture(25, 39)
    frame[:40, 5:19] = ROAD
    frame[:14, 5:39] = ROAD
    wave, away = spread_over_road(road_pixels(frame))
    assert away == 0.0
    beside, ahead = wave[29, 12], wave[29, 31]
    assert ahead < 12 and 40 < beside < UNREACHED
    straight, _ = spread_over_road(road_pixels(picture(25, 39)))
    assert speed_for_bends(wave, 60.0, 0.0) < 0.8 * speed_for_bends(straight, 60.0, 0.0)
    right, forward = middle_of_road(straight, 20.0, 0.0)  # type: ignore[misc]
    assert right == pytest.approx(0.0, abs=0.6) and forward == pytest.approx(20.0, abs=3.0)


def test_skill_changes_the_driving_and_is_checked():
    frames = [picture(25 + k, 39 + k) for k in range(6)]
    good = [LaneKeeper()(f)[0] for f in frames]
    late = LaneKeeper(Skill(delay=2))
    delayed = [late(f)[0] for f in frames]
    assert delayed[:2] == [0.0, 0.0] and delayed[2:] == good[:4]
    noisy, again = LaneKeeper(Skill(noise=0.1), seed=1), LaneKeeper(Skill(noise=0.1), seed=1)
    first = [noisy(f)[0] for f in frames]
    noisy.reset()
    assert first == [noisy(f)[0] for f in frames] == [again(f)[0] for f in frames] != good
    wrong: dict[str, Any]
    for wrong in ({"gain": 0.0}, {"target_speed": -1.0}, {"delay": -1}, {"noise": -0.1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Skill(**wrong)
    with pytest.raises(ValueError, match="uint8"):
        LaneKeeper()(np.zeros((64, 64, 3), np.float32))  # type: ignore[arg-type]


def test_it_keeps_the_road_in_the_simulator():
    env = gym.make("CarRacingTwin-v0")
    agent, on_road, speeds, read = LaneKeeper(), [], [], []
    for seed in (11, 12):
        frame, _ = env.reset(seed=seed)
        agent.reset()
        for _ in range(150):
            frame, _, _, _, info = env.step(agent(frame))
            on_road.append(info["telemetry"]["wheels_on_road"])
            speeds.append(info["telemetry"]["speed"])
            read.append(read_speed(frame))
    assert np.mean(on_road) > 0.98
    assert np.mean(speeds[100:150]) > 25.0
    assert np.abs(np.subtract(read, speeds)).mean() < 2.0


def test_it_finds_back_to_the_road():
    env = gym.make("CarRacingTwin-v0")
    start = {"track_position": 0.4, "lateral_offset": 18.0, "heading_error": 0.7, "speed": 20.0}
    frame, info = env.reset(seed=21, options=start)
    assert info["telemetry"]["wheels_on_road"] == 0.0
    agent, on_road = LaneKeeper(), []
    for _ in range(150):
        frame, _, _, _, info = env.step(agent(frame))
        on_road.append(info["telemetry"]["wheels_on_road"])
    assert np.mean(on_road[-50:]) == 1.0


def test_a_video_holds_what_was_written(tmp_path):
    frames = [np.full((64, 96, 3), level, np.uint8) for level in (20, 120, 220)]
    with VideoWriter(tmp_path / "new" / "clip.mp4", 1 / 0.06) as video:
        for frame in frames:
            video.write(frame)
    read = videos_frames(tmp_path / "new" / "clip.mp4")
    assert len(read) == 3 and [r.mean() for r in read] == pytest.approx([20, 120, 220], abs=4)
    assert os.listdir(tmp_path / "new") == ["clip.mp4"]


def test_a_moving_picture_for_pages_repeats(tmp_path):
    with VideoWriter(tmp_path / "clip.webp", 20) as video:
        for level in (20, 120, 220):
            video.write(np.full((64, 96, 3), level, np.uint8))
    read, picture = cv2.imreadanimation(str(tmp_path / "clip.webp"))
    assert read and picture.loop_count == 0 and list(picture.durations) == [50, 50, 50], "20 a second, for ever"
    assert [frame[..., :3].mean() for frame in picture.frames] == pytest.approx([20, 120, 220], abs=4)
    with pytest.raises(ValueError, match="mp4"):
        VideoWriter(tmp_path / "clip.webp", 20, live=True)
    for name in ("clip.avj", "clip", "clip.mkv"):
        with pytest.raises(ValueError, match=r"\*\.mp4 or \*\.webp, got 'clip"):
            VideoWriter(tmp_path / name, 20)


def test_a_failed_video_leaves_the_older_one(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"older")
    with pytest.raises(ValueError, match="even sides"), VideoWriter(path, 10) as video:
        video.write(np.zeros((64, 64, 3), np.uint8))
        video.write(np.zeros((63, 64, 3), np.uint8))
    with pytest.raises(ValueError, match="frames of this video"), VideoWriter(path, 10) as video:
        video.write(np.zeros((64, 64, 3), np.uint8))
        video.write(np.zeros((32, 64, 3), np.uint8))
    assert path.read_bytes() == b"older" and os.listdir(tmp_path) == ["clip.mp4"]


class Eager(gym.Env):
    """A dream that tells too much."""

    observation_space, action_space = gym.spaces.Box(0, 1, (1,)), gym.spaces.Box(-1, 1, (2,))

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 1.0, False, False, {"telemetry": {"wheels_on_road": 1.02}}


def test_what_people_are_told_of_a_drive():
    result = drive(Eager(), lambda _: np.zeros(2, np.float32), 4, progress=False)
    assert result.on_road == 1.0, "a share is at most 1, whatever the dream says"
    assert "share on the road  1.000" in str(result) and "confidence" not in str(result), "nan is not told"
    assert "on the road" not in str(Drive(1, 1, 0.0, 0.5, float("nan"), 1.0))


def test_a_drive_is_counted(tiny_world):
    env = gym.make("DriveDiT-v0", world=tiny_world, max_episode_steps=4)
    result = drive(env, lambda _: np.array([0.0, 0.2], np.float32), 10, seed=3, progress=False)
    assert (result.steps, result.episodes) == (10, 3)
    env.reset(seed=3)
    expected = [float(env.step(np.array([0.0, 0.2], np.float32))[1]) for _ in range(4)]
    first = drive(env, lambda _: np.array([0.0, 0.2], np.float32), 4, seed=3, progress=False)
    assert first.returned == pytest.approx(sum(expected)) and first.episodes == 1
    assert 0 <= first.confidence <= 1 and first.fps > 0
    with pytest.raises(ValueError, match="rgb_array"):
        drive(env, env.action_space.sample, 4, out="film.mp4")  # type: ignore[arg-type]


def test_the_command_drives_and_films(saved, tmp_path, capsys):
    out = tmp_path / "drive.mp4"
    assert main(["drive", "--world", saved, "--steps", "5", "--out", str(out), "--scene", "1"]) == 0
    told = capsys.readouterr().out
    for what in ("return", "mean confidence", "share on the road", "frames per second", str(out)):
        assert what in told
    read = videos_frames(out)
    assert len(read) == 5 and read[0].shape == (512, 512, 3)
    assert main(["drive", "--world", saved, "--scene", "99", "--out", str(out)]) == 1
    assert "from 0 to 2" in capsys.readouterr().err
    assert main(["drive", "--world", "moon", "--out", str(out)]) == 1
    assert "'moon'" in capsys.readouterr().err


def test_make_drive_calls_a_command_that_exists():
    recipe = (ROOT / "Makefile").read_text().split("\ndrive:")[1].splitlines()[1]
    arguments = recipe.split("-m drivedit.agents ")[1].split()
    done = subprocess.run(
        [sys.executable, "-m", "drivedit.agents", arguments[0], "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert [a for a in arguments if a.startswith("--") and a not in done.stdout] == []


def test_the_examples_run(saved, tmp_path, capsys):
    returned = example("drive_random").main(saved, steps=4)
    assert np.isfinite(returned)
    planned = example("fork_and_choose").main(saved, steps=3, branches=4, horizon=2)
    assert np.isfinite(planned)
    route = example("draw_a_route")
    for shape in route.SHAPES:
        out = tmp_path / f"{shape}.mp4"
        result = route.main(saved, shape, steps=3, out=str(out))
        assert result.steps == 3 and len(videos_frames(out)) == 3
    assert len(example("many_worlds").main(saved, num_envs=3, steps=101)) == 3
    assert example("go_back").main(saved, steps=3) >= 0
    out = tmp_path / "ppo.zip"
    assert example("train_ppo").main(saved, num_envs=2, steps=16, rollout=8, out=str(out)).num_timesteps == 16
    film = ["drive", "--agent", str(out), "--world", saved, "--steps", "2", "--out", str(tmp_path / "ppo.mp4")]
    assert main(film) == 0, "what SB3 saved drives the dream that it learned in"
    race = ["test", "--agent", str(out), "--env", "drivedit_env:CarRacingTwin-v0", "--episodes", "1"]
    capsys.readouterr()
    assert main(race) == 1 and "name the world that it learned in with --world" in capsys.readouterr().err
    env = gym.make("CarRacingTwin-v0", max_episode_steps=2)
    with pytest.raises(ValueError, match="encoder looks at 3 frames at once"):  # of the tiny world, which it opened
        score(env, load_agent(str(out), world=saved), 1, 0, progress=False)
    capsys.readouterr()
    assert np.isfinite(example("play_by_keys").main(saved, steps=3))
    assert capsys.readouterr().out.splitlines()[-1].startswith("3 steps at 17 frames per second, return ")
    out = tmp_path / "beside.mp4"
    returns = example("beside_the_simulator").main(world=saved, steps=3, out=out)
    assert [frame.shape for frame in videos_frames(out)] == [(296, 512, 3)] * 3
    assert returns.keys() == {"simulator", "dream"} and all(np.isfinite(r) for r in returns.values())


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "examples").glob("*.py")))
def test_every_option_of_an_example_has_a_sentence(name, capsys):
    with pytest.raises(SystemExit):
        run(example(name).main, ["--help"])
    listed = capsys.readouterr().out.partition("\noptions:\n")[2].split("\n  -")
    assert len(listed) > 4
    assert [
        option for option in listed[1:] if not re.search(r"[a-z]{3,} .*\(default: ", " ".join(option.split()))
    ] == []
