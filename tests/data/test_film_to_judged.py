"""From a film with a table of controls to a world that is judged, driven, recorded and trained on, at a tiny size."""

import json

import cv2
import gymnasium as gym
import numpy as np
import pytest
import torch
from helpers.drawn_film import film

from drivedit.data import __main__ as data
from drivedit.evaluation import __main__ as evaluation
from drivedit.models import DiTWorld
from drivedit.training import __main__ as training
from drivedit_env.env import DriveDiTEnv
from drivedit_env.viewer.session import Session

SIZE, FPS = (32, 48), 15.0
VAE = ["--world.vae.hidden_dims=[8,8,16,16]", "--world.vae.decoder_dims=null", "--world.vae.latent_dim", "8"]
LOOP = [
    "--train.bf16",
    "false",
    "--train.save_every_s",
    "1000",
    "--train.warmup",
    "10",
    "--train.ema",
    "0.9",
    "--data.validation_fraction",
    "0.4",
]


def imported(folder, name, *options, **drawn):
    video, table = film(folder, name, size=SIZE, fps=FPS, **drawn)
    out = str(folder / name)
    words = ["--video", video, "--controls", table, "--out", out, "--fps", "15", "--size", "32", "48", *options]
    assert data.main(["import", *words]) == 0
    return out


def trained(root, run, steps=30):
    common = ["--config", "video.yaml", "--data.root", root, "--out", run, *VAE, *LOOP, "--train.batch_size"]
    training.main(["vae", *common, "8", "--train.steps", str(2 * steps)])
    small = ["--world.student.latent_dim", "32", "--world.student.d_model", "32", "--world.student.n_layers", "1"]
    clips = ["--loss.clip_frames", "4", "--loss.rollout", "1"]
    training.main(["student", *common, "4", *small, *clips, "--train.steps", str(steps)])
    return f"{run}/student/world"


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with a film as a recording, held-out drives, and a world that learned from the film."""
    folder = tmp_path_factory.mktemp("film")
    root = imported(folder, "film", "--episode-steps", "40", seconds=12)
    imported(folder, "held", "--episode-steps", "60", "--held-out", seconds=9, seed=1)
    return folder, trained(root, str(folder / "run"))


def test_a_world_of_ones_own_film_is_judged_driven_recorded_and_trained_on(here, tmp_path, monkeypatch, capsys):
    """By the documented commands alone; no simulator is asked."""
    folder, world = here
    monkeypatch.setattr(
        "drivedit.evaluation.sources.Sources.make_twin", lambda _: pytest.fail("the simulator was asked")
    )
    out, card = tmp_path / "judged", folder / "run" / "student" / "world" / "CARD.md"
    card.write_text("# mine\n\n## What it does on held-out drives\n\nnothing yet\n\n## Licence\n\nmine\n")
    words = ["world", "--world", world, "--held-out", str(folder / "held"), "--out", str(out), "--quick"]
    assert evaluation.main([*words, "--write-card"]) == 0
    table = (out / "report.md").read_text().strip()
    assert table in capsys.readouterr().out and "| PSNR after 20 frames (1.3 s), dB" in table
    assert "branches of the simulator" in table and "the drives were filmed" in table and "told no route" in table
    report = json.loads((out / "report.json").read_text())
    wanted = "psnr_1 copy_psnr_20 autoencoder_psnr_10 sharpness_10 other_gain mirrored_told sides_apart".split()
    found = set(report["figures"])
    assert set(wanted) <= found and not {"reward", "ending_auc", "turn_correlation"} & found
    for name in ("sheet.png", "horizon.png", "steering.png"):
        picture = cv2.imread(str(out / name))
        assert picture is not None and picture.std() > 10
    text = card.read_text()
    assert table in text and "drivedit.evaluation world --world" in text and "nothing yet" not in text
    assert text.startswith("# mine\n") and text.endswith("\n## Licence\n\nmine\n")

    env = gym.make("drivedit_env:DriveDiT-v0", world=world)
    assert env.reset(seed=0)[0].shape == (*SIZE, 3)
    assert all(env.step(np.array([0.2, 0.3], np.float32))[0].shape == (*SIZE, 3) for _ in range(3))
    session = Session(DriveDiTEnv(world), folder=tmp_path / "more" / "driven")
    for _ in range(2):  # one to learn from, one to look at
        session.toggle_recording()
        for step in range(20):
            session.step(np.array([np.sin(step), 0.3], np.float32))
        session.toggle_recording()
    session.close()
    assert DiTWorld.from_pretrained(trained(str(tmp_path / "more"), str(tmp_path / "run"), steps=2)).spec.fps == FPS


@pytest.mark.parametrize("method", ["consistency", "matching"])
def test_a_world_of_ones_own_film_is_distilled(here, method):
    folder, world = here
    words = [
        "distill",
        "--config",
        "video.yaml",
        "--data.root",
        str(folder / "film"),
        "--out",
        str(folder / "run"),
        *LOOP,
    ]
    small = ["--teacher", world, "--loss.method", method, "--loss.clip_frames", "4", "--loss.rollout", "1"]
    assert training.main([*words, *small, "--train.batch_size", "4", "--train.steps", "4"]) == 0
    made = DiTWorld.from_pretrained(folder / "run" / method / "world", device="cpu")
    curve = (folder / "run" / method / "curve.jsonl").read_text().splitlines()
    assert all(np.isfinite(list(json.loads(line).values())).all() for line in curve)
    state, _ = made.step(made.start(made.scenes[:1], [0]), torch.zeros(1, 2))
    assert torch.isfinite(state.latents).all()
