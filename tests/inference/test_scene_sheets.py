"""The command that draws start scenes of words: its sheet, and what it refuses."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.generated import ATTRIBUTES, make_generator
from helpers.worlds import make_world

from drivedit.config import WorldSpec
from drivedit.inference import __main__ as dispatcher
from drivedit.inference.scene_sheets import LABEL, scenes
from drivedit.models import DiTWorld

SIDE = 64  # of the tiny world's pictures


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a world and a generator for it."""
    folder = tmp_path_factory.mktemp("scenes")
    world = make_world()
    world = DiTWorld(replace(world.config, spec=replace(world.spec, attributes=ATTRIBUTES)))
    world.save_pretrained(folder / "world")
    spec = world.spec
    spec = WorldSpec("", spec.only([spec.picture]).observations, attributes=ATTRIBUTES, dt=spec.dt)
    make_generator(spec=spec, apart=1).save(folder / "it.safetensors")
    make_generator().save(folder / "other.safetensors")
    return folder


def command(place: Path, *words: str) -> int:
    given = ["scenes", "--world", str(place / "world"), "--generator", str(place / "it.safetensors"), "--steps", "1"]
    return dispatcher.main([*given, "--device", "cpu", *words])


def test_a_sheet_has_a_row_for_every_wish(place, tmp_path, capsys):
    file = tmp_path / "new" / "sheet.png"
    words = ["--attributes", "night,fog", "misty day", "--count", "9", "--out", str(file), "--speed", "5"]
    assert command(place, *words) == 0 and capsys.readouterr().out.strip() == str(file)
    picture = cv2.imread(str(file))
    assert picture is not None and picture.shape == (2 * (LABEL + 2 * SIDE), 8 * SIDE, 3)
    rows = picture.reshape(2, LABEL + 2 * SIDE, 8 * SIDE, 3)
    assert (rows[0, LABEL:] != rows[1, LABEL:]).any()  # the noise is one, the words are not
    assert (
        not rows[:, LABEL + SIDE :, SIDE:].any() and rows[:, LABEL + SIDE :, :SIDE].std() > 1
    )  # the ninth stands alone
    before = file.read_bytes()
    assert command(place, *words) == 0 and file.read_bytes() == before
    assert command(place, *words, "--seed", "1") == 0 and file.read_bytes() != before


def test_without_words_there_is_a_row_for_every_value(place, tmp_path):
    out = scenes(str(place / "world"), place / "it.safetensors", count=2, out=tmp_path / "it.png", steps=1)
    picture = cv2.imread(str(out))
    assert picture is not None and picture.shape == (4 * (LABEL + SIDE), 2 * SIDE, 3)
    heads = picture.reshape(4, LABEL + SIDE, 2 * SIDE, 3)[:, :LABEL]
    assert len(np.unique(heads.reshape(4, -1), axis=0)) == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--attributes", "night hail"], "the words hail of the prompt 'night hail' are no attributes"),
        (["--attributes", "day,night"], "asks for time day and night: choose one"),
        (["--generator", "none.safetensors"], "there is no file none.safetensors"),
        (["--sampler", "ddim"], "method must be one of euler, heun, dpm_pp, dpm_pp_2s, got 'ddim'"),
        (["--count", "0"], "count must be at least 1, got 0"),
        (["--out", "sheet.jpg"], "out must be a .png, got sheet.jpg"),
    ],
)
def test_what_cannot_be_drawn_is_named(place, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert command(place, *words) == 1 and message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_generator_of_other_pictures_is_named(place, capsys):
    assert command(place, "--generator", str(place / "other.safetensors")) == 1
    assert "the generator and the world do not fit: observations" in capsys.readouterr().err
