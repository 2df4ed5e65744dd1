"""The race track of the documentation, from the recording to a drive in its world: as the page says, in few steps."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from drivedit.data import __main__ as data
from drivedit.data import iter_episodes
from drivedit.models import World
from drivedit.training import __main__ as training
from drivedit_env.viewer import play

PAGE = Path(__file__).parents[2] / "docs" / "any_env.md"
FEW = {"--steps": "480", "--episode-steps": "60", "--shard-steps": "240", "--workers": "1", "--loss.rollout": "1"}
STEPS = {"vae": "20", "student": "6"}
MAINS: dict[str, Callable[[list[str]], int]] = {
    "drivedit.data": data.main, "drivedit.training": training.main, "drivedit_env": play.main,
}  # fmt: skip


def blocks() -> list[str]:
    """The indented blocks of the section."""
    section = PAGE.read_text().partition("## A small world of a race track\n")[2].partition("\n## ")[0]
    found = re.findall(r"(?:^(?:    .*)?\n)+", section, re.M)
    return [re.sub(r"^    ", "", block, flags=re.M).strip() + "\n" for block in found if block.strip()]


def few(words: list[str]) -> list[str]:
    """A command with fewer steps, and for the student shorter clips."""
    values = {**FEW, "--train.steps": STEPS.get(words[0], ""), **({"--steps": "8"} if "--video" in words else {})}
    short = ["--loss.clip_frames", "4"] if words[0] == "student" else []
    return [values.get(before, word) for before, word in zip(["", *words], words, strict=False)] + short


def test_the_page_is_a_way_from_nothing_to_a_drive(tmp_path, monkeypatch, capsys):
    pytest.importorskip("highway_env")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    racers, settings, commands, script, film = blocks()
    Path("racers.py").write_text(racers)
    Path("racetrack.yaml").write_text(settings)
    lines = (commands + film).splitlines()
    assert len(lines) == 5
    for line in lines:
        python, dash_m, module, *words = shlex.split(line)
        assert (python, dash_m) == ("python", "-m") and MAINS[module](few(words)) == 0, line
    capsys.readouterr()
    exec(compile(script, "step_in_it.py", "exec"), {})
    assert capsys.readouterr().out.startswith("(64, 64, 3) ")
    world = World.from_pretrained("runs/race/world/student/world", device="cpu")
    assert world.spec.domain == "racetrack-v0" and world.spec.dt == 0.2 and world.scenes
    assert world.spec.names("controls") == ["action_0"] and world.spec.rewards["reward"].kind == "learned"
    driven = np.concatenate([episode.controls for episode in iter_episodes(Path("runs/race/recordings"))])
    assert len(driven) >= 480 and np.ptp(driven) > 0.5, "it steers"
    assert Path("race.png").stat().st_size and Path("race.mp4").stat().st_size
