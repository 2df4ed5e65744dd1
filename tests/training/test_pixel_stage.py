"""The stage of start scenes: what is learnt of recordings, what is withheld, the loss, resuming, the command."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.agents import write_recordings
from helpers.generated import ATTRIBUTES, NETWORK, generator_config, lit_episode, make_generator

from drivedit.config import LoopConfig, ScenesStageConfig
from drivedit.data.clips import Drives
from drivedit.models.pixel.generator import SceneGenerator
from drivedit.training.__main__ import main
from drivedit.training.loop import Batch, train
from drivedit.training.methods.method import Progress
from drivedit.training.methods.scenes import ScenesMethod
from drivedit.training.pixel_stage import Moments, batches, held_figures, pictured_spec
from drivedit.utils import generator

SMALL = [word for name, value in NETWORK.items() for word in (f"--scenes.network.{name}", str(value).lower())]
SMALL += ["--scenes.apart", "2", "--data.validation_fraction", "0.3", "--loss.judged", "8", "--loss.drawn", "2"]
SMALL += ["--train.steps", "3", "--train.batch_size", "4", "--device", "cpu"]


def moments_of(*episodes, **changes: Any) -> Moments:
    episodes = episodes or tuple(lit_episode(seed) for seed in range(4))
    return Moments.of(Drives.of(episodes, episodes[0].spec), make_generator(**changes))


def batch_of(moments: Moments) -> Batch:
    return batches(moments, np.array([3]), 8, 4)[0](generator(0, "batch"))


def test_moments_have_their_frames_attributes_and_speeds():
    unknown = lit_episode(1)
    unknown.poses[:] = np.nan
    moments = moments_of(lit_episode(0), unknown, lit_episode(2, steps=1), lit_episode(3))
    assert moments.last.tolist() == [*range(2, 7), *range(9, 14), *range(18, 23)]  # the third one is too short
    found = moments.batch(np.array([2, 9, 20]))
    stripes = (found["frames"][..., 0, :, 0] == 120).int().argmax(-1)
    assert stripes.tolist() == [[0, 2], [1, 3], [5, 7]]  # two steps apart, the last one is now
    assert found["values"].tolist() == [[1, 1], [2, 1], [2, 2]]
    assert torch.allclose(found["speeds"], torch.tensor([10, np.nan, 20]), equal_nan=True, rtol=1e-5)
    with pytest.raises(ValueError, match="a scene spans 8 steps .* the longest drive has 6"):
        moments_of(apart=8)
    with pytest.raises(ValueError, match="got 0 and 20"):
        batches(moments_of(), np.arange(4), 8, 4)


def test_held_back_drives_are_never_learned():
    moments = moments_of()
    batch, held = batches(moments, np.array([3]), 200, 4)
    assert set(held["speeds"].tolist()) == {20.0} and len(held["speeds"]) == 4
    learned = batch(generator(0, "batch"))
    assert not (learned["values"] == torch.tensor([2, 2])).all(1).any()  # foggy night is drive 3 alone


def test_things_are_withheld_each_by_itself_or_all():
    values, speeds = torch.ones(4000, 2, dtype=torch.long), torch.ones(4000)

    def left(drop: float, everything: float) -> torch.Tensor:
        network = replace(generator_config().network, cfg_dropout=everything)
        method = ScenesMethod(make_generator(network=network), ScenesStageConfig(drop=drop))
        some, fast = method.withheld(values, speeds, generator(0, "withheld"))
        return torch.cat([some == 0, fast.isnan()[:, None]], 1).float()

    assert left(0.0, 0.0).sum() == 0 and left(1.0, 0.0).all() and left(0.0, 1.0).all()
    each = left(0.2, 0.0)  # standard error of a share below .007
    assert each.mean(0) == pytest.approx(torch.full((3,), 0.2), abs=0.03)
    assert each.prod(1).mean() == pytest.approx(0.2**3, abs=0.008)
    both = left(0.2, 0.3)
    assert both.prod(1).mean() == pytest.approx(0.3 + 0.7 * 0.2**3, abs=0.03)


def test_the_loss_is_that_of_every_frame_as_a_picture():
    made = make_generator()
    method = ScenesMethod(made, ScenesStageConfig(drop=0.0))
    batch = batch_of(moments_of())
    told = batch["frames"], batch["values"], batch["speeds"]
    losses = method.error(*told, generator(0, "noise"))
    t, noisy, clean, noise = method.flow.prepare_training(made.stack(told[0]), generator=generator(0, "noise"))
    velocity = made.velocity(noisy, t, made.tell(*told[1:]))[0]
    assert losses["vloss"].item() == pytest.approx((velocity - clean + noise).square().mean().item(), rel=1e-5)
    parts = sum(value.item() for name, value in losses.items() if name != "total")
    assert losses["freq_loss"] > 0 and losses["total"].item() == pytest.approx(parts, rel=1e-5)
    swapped = told[0].flip(1)
    assert method.error(swapped, *told[1:], generator(0, "noise"))["vloss"] != losses["vloss"]
    method.loss(batch, Progress(0, 0.0), generator(0, "noise"))[0].backward()
    assert all(weight.grad is not None for weight in method.parameters())


def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path):
    batch, _ = batches(moments_of(), np.array([3]), 4, 4)

    def run(folder: str, *stops: int) -> dict[str, torch.Tensor]:
        for stop in stops:
            config = LoopConfig(steps=stop, lr=1e-3, warmup=1, cooldown=0.0, bf16=False, log_every=1)
            train(ScenesMethod(make_generator(), ScenesStageConfig()), batch, config, tmp_path / folder)
        return torch.load(tmp_path / folder / "last.pt", weights_only=True)["stage"]

    whole, parts = run("whole", 4), run("parts", 2, 4)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_day_and_night_are_learnt_from_few_pictures(tmp_path):
    moments = moments_of(*(lit_episode(seed, steps=3) for seed in range(64)))
    batch, held = batches(moments, np.arange(56, 64), 16, 16)
    method = ScenesMethod(make_generator(), ScenesStageConfig(drawn=8))
    before = held_figures(method, held)
    config = LoopConfig(steps=120, lr=1e-2, warmup=10, bf16=False, ema=0.95, log_every=100, cooldown=0.6)
    best = train(method, batch, config, tmp_path)
    assert isinstance(best, ScenesMethod)
    after = held_figures(best, held)
    assert after["velocity"] < 0.2 * before["velocity"] and after["velocity"] < 0.6 * after["untold"], (before, after)
    assert 0 < after["motion"] < 0.5 * before["motion"] and after["sharpness"] < 0.3 * before["sharpness"]
    day, night = (best.scenes.sample({"time": time}, None, 8, generator(0, "drawn"), guidance=2.0).mean((1, 2, 3, 4))
                  for time in ATTRIBUTES["time"])  # fmt: skip
    assert day.min() > 150 and night.max() < 70, (day, night)  # of true pictures 195 and 26


def test_the_command_writes_a_generator_and_names_what_is_wrong(tmp_path, capsys):
    episodes = [lit_episode(seed) for seed in range(5)]
    root = write_recordings(tmp_path / "recordings", episodes)
    words = [
        "pixel",
        "--config",
        "street_scenes.yaml",
        *SMALL,
        "--data.root",
        str(root),
        "--out",
        str(tmp_path / "run"),
    ]
    assert main(words) == 0
    made = SceneGenerator.load(tmp_path / "run" / "pixel" / "scenes.safetensors")
    assert made.config.spec == pictured_spec(episodes[0].spec) and made.config.network.pixel_dim == 8
    assert made.config.spec.attributes == ATTRIBUTES and (tmp_path / "run" / "pixel" / "curve.jsonl").is_file()
    capsys.readouterr()
    other = [*words[:-1], str(tmp_path / "other")]
    for changed, message in (
        (["--data.stream", "true"], "leave out data.stream"), (["--data.root", str(tmp_path / "none")], "no shard"),
        (["--scenes.network.patch_size", "16"], "multiples of the patch size 16, got 8 x 16; take 16 x 16"),
        (["--scenes.spec.dt", "0.5", "--scenes.spec.observations", '{"camera": {"shape": [8, 16, 3]}}'], "dt: scenes"),
    ):  # fmt: skip
        assert main([*other, *changed]) == 1 and message in capsys.readouterr().err, message


def test_recordings_without_attributes_teach_scenes_of_every_speed(tmp_path):
    spec = lit_episode(0).spec
    episodes = [lit_episode(seed, attributes={}) for seed in range(4)]
    for episode in episodes:
        episode.spec = replace(spec, attributes={})
    root = write_recordings(tmp_path / "recordings", episodes)
    words = ["pixel", "--config", "carracing_scenes.yaml", *SMALL, "--scenes.network.pixel_dim", "9"]
    assert main([*words, "--data.root", str(root), "--out", str(tmp_path / "run")]) == 0
    made = SceneGenerator.load(tmp_path / "run" / "pixel" / "scenes.safetensors")
    slow, fast = (made.sample(None, speed, 2, generator(0, "drawn")) for speed in (3.0, 30.0))
    assert made.config.frames == 3 and slow.shape == (2, 3, 8, 16, 3) and (slow != fast).any()
    with pytest.raises(ValueError, match="none of its spec"):
        made.sample({"time": "night"}, None, 1, generator(0, "drawn"))
