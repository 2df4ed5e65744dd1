"""The commands that open a window or film without one, and Gymnasium's render mode `human`."""

import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path

import av
import gymnasium as gym
import numpy as np
import pygame
import pytest

from drivedit.config import Quantity
from drivedit.data.recordings import iter_episodes
from drivedit.models import DiTWorld
from drivedit_env.env import DriveDiTEnv
from drivedit_env.viewer.play import main
from drivedit_env.viewer.responsiveness import main as measured
from drivedit_env.viewer.screen import Screen
from drivedit_env.viewer.session import Session

GAS = np.array([0.0, 0.4], np.float32)


def tired(frame: np.ndarray) -> np.ndarray:
    raise KeyboardInterrupt


def test_the_window_is_measured(tiny_world: DiTWorld, tmp_path: Path, capsys: pytest.CaptureFixture):
    tiny_world.save_pretrained(tmp_path / "world")
    arguments = ["--world", str(tmp_path / "world"), "--seconds", "0.6", "--presses", "2"]
    assert measured(arguments) == 0
    found = {line[:44].strip(): float(line[44:]) for line in capsys.readouterr().out.splitlines()}
    assert 2 <= found["generated frames/s"] <= 20 and found["redraws/s"] > found["generated frames/s"]
    assert 1 <= found["frames from key to change, median"] <= found["frames from key to change, most"]
    assert found["ms from key to change on the screen, median"] > 1
    assert found["a slow dream: generated frames/s"] < 17 / 2, "slower than real time, by work"
    pygame.display.init()
    pygame.event.post(pygame.event.Event(pygame.QUIT))
    assert measured(arguments) == 1 and "closed before" in capsys.readouterr().err


def test_keys_are_for_steering_and_throttle_and_other_worlds_are_driven_by_agents(tiny_world, tmp_path, capsys):
    spec = replace(tiny_world.spec, controls=[Quantity("gas", 0, 1), Quantity("turn")])
    scenes = [replace(scene, controls=np.abs(scene.controls)) for scene in tiny_world.scenes]
    DiTWorld(replace(tiny_world.config, spec=spec), scenes).save_pretrained(tmp_path / "world")
    words = ["--world", str(tmp_path / "world")]
    assert main(words) == 1
    assert (
        "this world has gas, turn from [0.0, -1.0] to [1.0, 1.0]; let an agent drive: --video"
        in capsys.readouterr().err
    )
    film = ["--agent", "drivedit.agents:LaneKeeper", "--video", str(tmp_path / "out.mp4"), "--steps", "2"]
    assert main([*words, *film]) == 0


def test_the_command_films_the_same_drive(tiny_world: DiTWorld, tmp_path: Path, capsys: pytest.CaptureFixture):
    tiny_world.save_pretrained(tmp_path / "world")
    film = tmp_path / "out.mp4"
    arguments = [
        "--world",
        str(tmp_path / "world"),
        "--agent",
        "drivedit.agents:LaneKeeper",
        "--scene",
        "1",
        "--seed",
        "5",
    ]
    assert main([*arguments, "--video", str(film), "--steps", "6"]) == 0
    assert "drove 6 steps" in capsys.readouterr().out
    session = Session(DriveDiTEnv(tmp_path / "world"), 1, 5, "drivedit.agents:LaneKeeper")
    session.hand_over()
    driven = [session.step(GAS).frame for _ in range(6)]
    with av.open(str(film)) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert [s.mean() for s in shown] == pytest.approx([d.mean() for d in driven], abs=3)
    kept = tmp_path / "kept"
    assert main([*arguments, "--video", str(film), "--steps", "3", "--drives", str(kept)]) == 0
    assert [len(episode) for episode in iter_episodes(kept)] == [3], "a film's drive is recorded where that is asked"
    assert not Path("drives").exists()
    for wrong, status, said in (
        ([*arguments[:2], "--video", str(tmp_path / "film.avj")], 1, "*.mp4 or *.webp"),
        (["--world", "moon"], 1, "'moon'"),
        ([*arguments[:4], "--scene", "99"], 1, "from 0 to 2"),
        ([*arguments[:2], "--agent", "nobody", "--video", str(film)], 1, "module:callable"),
        ([*arguments, "--video", str(film), "--steps", "0"], 1, "at least 1"),
        ([*arguments, "--video", str(tmp_path)], 1, f"directory: {tmp_path}"),
        ([*arguments[:2], "--agent", "os:getcwd", "--video", str(film)], 1, "os:getcwd failed: "),
        ([*arguments[:2], "--video", str(tmp_path / "world" / "config.json" / "a.mp4")], 1, "config.json"),
    ):
        assert main(wrong) == status
        told = capsys.readouterr().err.splitlines()[-1]
        assert told.startswith("error: ") and said in told
    with pytest.raises(SystemExit, match="2"):
        main(["--steps", "5"])
    assert main([*arguments[:2], "--agent", f"{__name__}:tired", "--video", str(tmp_path / "no.mp4")]) == 130
    assert "stopped" in capsys.readouterr().err and not (tmp_path / "no.mp4").exists()
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["scripts"]["drivedit-play"] == f"{main.__module__}:{main.__name__}"


def test_without_a_display_one_line_says_what_to_do(
    tiny_world: DiTWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    tiny_world.save_pretrained(tmp_path / "world")
    pygame.display.quit()
    monkeypatch.setenv("SDL_VIDEODRIVER", "x11")
    monkeypatch.setenv("DISPLAY", ":987")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert main(["--world", str(tmp_path / "world")]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert "there is no display here" in told and "drivedit-play --video" in told
    env = gym.make("DriveDiT-v0", world=tiny_world, render_mode="human")
    with pytest.raises(RuntimeError, match="rgb_array"):
        env.reset(seed=0)
    monkeypatch.delenv("SDL_VIDEODRIVER")
    with pytest.raises(RuntimeError, match="no display"):  # SDL would draw where nobody sees it
        Screen()
    monkeypatch.delenv("DISPLAY")
    if sys.platform == "linux":
        with pytest.raises(RuntimeError, match="DISPLAY is not set"):
            Screen()


def test_gymnasiums_window_is_drawn_at_reset_and_step(tiny_world: DiTWorld):
    env = gym.make("DriveDiT-v0", world=tiny_world, render_mode="human")
    plain = gym.make("DriveDiT-v0", world=tiny_world)
    assert "human" in env.metadata["render_modes"] and pygame.display.get_surface() is None
    assert np.array_equal(env.reset(seed=0)[0], plain.reset(seed=0)[0])
    surface = pygame.display.get_surface()
    assert surface is not None
    first = pygame.surfarray.array3d(surface)
    began = time.monotonic()
    for _ in range(4):
        assert np.array_equal(env.step(GAS)[0], plain.step(GAS)[0])
    assert time.monotonic() - began > 3 / env.metadata["render_fps"], "it keeps the recording's pace"
    assert not np.array_equal(first, pygame.surfarray.array3d(surface))
    assert env.render() is None
    assert env.unwrapped.fork(2).render_mode is None  # type: ignore[attr-defined]
    pygame.quit()  # as other environments do when they close
    assert np.array_equal(env.step(GAS)[0], plain.step(GAS)[0]) and pygame.display.get_surface() is not None
    pygame.event.post(pygame.event.Event(pygame.QUIT))
    with pytest.warns(UserWarning, match="window was closed"):
        env.step(GAS)
    assert pygame.display.get_surface() is None
    env.step(GAS)
    env.close()
    env.close()
