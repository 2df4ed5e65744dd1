"""The loop and the stages: resuming is exact, losses do what they say, presets train a world end to end."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.gaussian import make_rngs
from helpers.training import Line, line_batch, make_episode
from helpers.worlds import make_world

from drivedit.config import (
    DataConfig,
    DistillConfig,
    LoopConfig,
    RewardTerm,
    StudentStageConfig,
    VAEStageConfig,
    WorldSpec,
)
from drivedit.data.clips import Drives, clip_starts, fit_config
from drivedit.data.recordings import shard_path, write_shard
from drivedit.models import DiTWorld
from drivedit.training import steps
from drivedit.training.latents import Clips, encode_drives, route_codes
from drivedit.training.loop import train
from drivedit.training.methods.energy import EnergyScore, ForcingThenEnergy, energy_score
from drivedit.training.methods.vae import laplacian_energy
from drivedit.training.optimizers import schedule
from drivedit.training.stages import student, vae
from drivedit.utils import generator, noise


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    write_shard(folder / "shard-00000.h5", [make_episode(20, 0), make_episode(30, 1, ended=True)])
    write_shard(folder / "shard-00001.h5", [make_episode(25, 2)])
    return folder


def test_resuming_equals_going_through(tmp_path):
    def config(steps):
        return LoopConfig(lr=0.05, warmup=2, steps=steps, bf16=False, log_every=1, cooldown=0.0, ema=0.9)

    whole = train(Line(), line_batch, config(8), tmp_path / "whole")
    train(Line(), line_batch, config(4), tmp_path / "parts")
    parts = train(Line(), line_batch, config(8), tmp_path / "parts")
    assert isinstance(whole, Line) and isinstance(parts, Line) and torch.equal(whole.weight, parts.weight)
    states = [torch.load(tmp_path / d / "last.pt", weights_only=True) for d in ("whole", "parts")]
    for key in ("stage", "ema"):
        assert all(torch.equal(a, b) for a, b in zip(states[0][key].values(), states[1][key].values(), strict=True))
    curves = [(tmp_path / d / "curve.jsonl").read_text().splitlines() for d in ("whole", "parts")]
    losses = [[json.loads(line)["loss"] for line in curve] for curve in curves]
    assert losses[0] == losses[1] and losses[0][-1] < losses[0][0]


@pytest.mark.parametrize("hardware", [torch.bfloat16, torch.float32])
def test_the_loop_autocasts_where_the_hardware_multiplies_bfloat16(hardware, tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "fast_dtype", lambda device: hardware)
    seen = []

    class Product(Line):
        def loss(self, batch, progress, rng):
            seen.append((batch["x"] @ self.weight).dtype)
            return super().loss(batch, progress, rng)

    train(Product(), line_batch, LoopConfig(steps=1), tmp_path)
    assert seen == [hardware]


def test_a_failed_write_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    config = LoopConfig(steps=2, bf16=False, log_every=1)
    train(Line(), line_batch, config, tmp_path)
    before = (tmp_path / "last.pt").read_bytes()

    def full(*_args, **_kw):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="previous one is untouched"):
        train(Line(), line_batch, LoopConfig(steps=3, bf16=False, log_every=1), tmp_path)
    assert (tmp_path / "last.pt").read_bytes() == before and not list(tmp_path.glob("*.tmp"))


def test_damaged_checkpoints_and_nan_losses_are_named(tmp_path):
    config = LoopConfig(steps=1, bf16=False)
    (tmp_path / "last.pt").write_bytes(b"PK\x03\x04 rubbish")
    with pytest.raises(RuntimeError, match=r"last.pt is damaged"):
        train(Line(), line_batch, config, tmp_path)
    (tmp_path / "last.pt").unlink()
    with pytest.raises(FloatingPointError, match="step 4: the loss is nan"):
        train(Line(), lambda rng: {"x": torch.full((8, 2), torch.nan)}, LoopConfig(steps=9, bf16=False), tmp_path)


def test_schedule_warms_up_stays_and_cools_down():
    config = LoopConfig(steps=100, warmup=10, cooldown=0.5)
    assert schedule(0, config) == pytest.approx(0.1) and schedule(30, config) == 1
    assert schedule(75, config) == pytest.approx(0.5) and schedule(99, config) == pytest.approx(0.02)


def test_drives_hold_what_was_recorded(recordings):
    drives = Drives.open(recordings)
    assert len(drives) == 3 and drives.first.tolist() == [0, 21, 52, 78]
    episode = make_episode(30, 1)
    states = drives.states(1)
    assert np.array_equal(drives.frames[states], episode.picture)
    assert np.array_equal(drives.control[states][1:], episode.controls) and not drives.control[states][0].any()
    assert drives.ended[states].tolist() == [False] * 30 + [True]
    motion = drives.motion()[states]
    assert not motion[0].any()
    assert np.allclose(motion[1:], [2.0, -0.02, -0.02], atol=1e-3)  # a circle to the left: forward, right, turn
    codes = route_codes(drives, make_world().config)[states]
    road = np.delete(codes, range(61, 65), 1)
    assert np.allclose(road[5], road[25], atol=0.1) and np.abs(road[:, :4]).max() > 0.1 and (road[5, 61:] < 0).any()
    assert np.allclose(codes[0, 61:65], [0.5, 0, 0.5, 0], atol=1e-3)  # the edge of the playfield, 20 m to the right


def test_clips_line_up_causes_and_effects(recordings):
    world = make_world()
    drives = Drives.open(recordings)
    latents = np.arange(78, dtype=np.float16)[:, None, None, None] * np.ones((1, 4, 8, 8), np.float16)
    starts, ends = clip_starts(drives, np.arange(3), frames=6, history=2)
    assert starts.min() == 2 and 21 - 6 in starts and 21 - 5 not in starts and 22 not in starts
    assert ends.tolist() == [52 - 6]
    batch = Clips(drives, latents, world.config, 6).batch(np.array([25, 46]))
    assert batch["latents"][0, :, 0, 0, 0].tolist() == list(range(23, 31))
    assert np.allclose(batch["control"][0, :, :2], drives.control[25:31])  # led to the targets
    assert np.allclose(batch["control"][0, 1:, 2:4], batch["control"][0, :-1, :2])
    assert np.allclose(batch["control"][0, 1:, 4:], batch["motion"][0, :-1])
    assert batch["ended"][1].tolist() == [0, 0, 0, 0, 0, 1]


def test_of_several_endings_each_pays_as_it_did_on_average(recordings):
    drives = Drives.open(recordings)
    ends = {name: RewardTerm("on_end", -20.0) for name in ("collision", "off_road")}
    ended, paid = np.array(drives.ended), np.zeros((2, 78), np.float32)
    ended[[20, 51, 77]] = True
    paid[0, [20, 77]], paid[1, 51] = -20, -20
    rewards = drives.rewards | dict(zip(ends, paid, strict=True))
    spec = replace(drives.spec, rewards={"progress": RewardTerm("learned")} | ends, any_dt=True)
    fitted = fit_config(make_world().config, replace(drives, ended=ended))
    assert fitted.spec.rewards["left"].value == -100, "a single one is paid whole"
    config = replace(make_world().config, spec=WorldSpec())
    fitted = fit_config(config, replace(drives, spec=spec, rewards=rewards, ended=ended))
    assert fitted.spec.rewards["collision"].value == pytest.approx(-40 / 3)
    assert fitted.spec.rewards["off_road"].value == pytest.approx(-20 / 3), "together as much as any ending"
    assert fit_config(fitted, replace(drives, spec=spec, rewards=rewards, ended=ended)).spec == fitted.spec
    assert not fitted.spec.any_dt, "its frames have one length"


def test_held_out_recordings_are_refused(tmp_path):
    write_shard(tmp_path / "shard-00000.h5", [make_episode(20, 0)], {"held_out": True})
    with pytest.raises(ValueError, match="held-out"):
        Drives.open(tmp_path)


def test_arrays_follow_the_shards_they_were_unpacked_from(tmp_path, monkeypatch):
    shard = tmp_path / "shard-00000.h5"
    write_shard(shard, [make_episode(20, 0), make_episode(20, 1)])
    first = Drives.open(tmp_path)
    assert Drives.open(tmp_path).fingerprint == first.fingerprint and len(first.frames) == 42
    write_shard(shard, [make_episode(40, 2), make_episode(30, 3)])
    second = Drives.open(tmp_path)
    assert second.fingerprint != first.fingerprint and len(second.frames) == 72
    monkeypatch.setattr("drivedit.data.unpacked.code_fingerprint", lambda *names: "other code")
    third = Drives.open(tmp_path)
    assert third.fingerprint != second.fingerprint and np.array_equal(third.frames, second.frames)
    assert {path.name for path in (tmp_path / "unpacked").iterdir()} == {"lock", third.fingerprint}


def test_a_dream_over_a_clip_equals_the_world_stepping(recordings):
    """Parallel passes over a clip give the frames that the cached, sequential world gives."""
    world = make_world()
    method = ForcingThenEnergy(world, StudentStageConfig()).eval()
    scene = world.scenes[0]
    state = world.start([scene], [3])
    controls = torch.tensor([[0.2, 0.4], [-0.5, 0.1], [0.9, -0.3]])
    first = state.latents[:, [1, 0]]
    frames, codes = [], []
    previous, motion = state.control, state.motion
    state.clock.zero_()
    for index in range(3):
        now = state.route
        codes.append(world.code(now, state.pose, state.arc, state.motion))
        state, _ = world.step(state, controls[index : index + 1])
        frames.append(state.latents[:, 0])
    route = torch.stack(codes, 1)
    drawn = torch.stack([noise([3], "frame", [i], world.latent_shape()) for i in range(3)], 1)
    control = torch.cat([controls, torch.cat([previous, controls[:-1]]), motion.expand(3, 3)], -1)[None]

    clip = torch.cat([first, torch.zeros(1, 3, *world.latent_shape())], 1)
    with torch.no_grad():
        dreamed, _ = method.roll_out(world.tokens(clip), control, route, 3, world.tokens(drawn))
    assert torch.allclose(world.untokens(dreamed)[:, 2:], torch.stack(frames, 1), atol=1e-4)


def test_passes_before_an_exit_are_those_of_a_sampler_and_get_no_gradient():
    world = make_world()
    method = EnergyScore(world, StudentStageConfig(clip_frames=4, exits=3)).eval()
    rng = torch.Generator().manual_seed(0)
    noise, past = (torch.randn(2, 4, 16, width, generator=rng) for width in (16, 32))
    given = torch.randn(2, 4, 7, generator=rng), torch.randn(2, 4, world.config.student.route_dim, generator=rng), past
    levels = torch.tensor([1.0, 2 / 3, 1 / 3])[:, None, None].repeat(1, 2, 4)
    levels[:, 1] = 1.0  # the second clip stays at its noise
    made, _ = method.run_to_exit(noise, levels, given)
    weights = list(method.dynamics.parameters())
    got = torch.autograd.grad(made.square().sum(), weights, allow_unused=True)
    x = noise
    with torch.no_grad():
        for sigma, lower in zip(levels[:-1], levels[1:], strict=True):
            clean, _ = method.run(x, sigma, *given)
            x = clean + (lower / sigma)[..., None, None] * (x - clean)
    assert x[1].allclose(noise[1], atol=1e-6) and not x[0].allclose(noise[0], atol=1e-2)
    wanted, _ = method.run(x, levels[-1], *given)
    assert made.allclose(wanted, atol=1e-5)
    for a, b in zip(got, torch.autograd.grad(wanted.square().sum(), weights, allow_unused=True), strict=True):
        assert (a is None and b is None) or a.allclose(b, rtol=1e-3, atol=1e-3)


def test_every_exit_of_every_number_of_passes_is_scored_and_the_last_ones_most():
    method = EnergyScore(make_world(), StudentStageConfig(clip_frames=4, exits=3))
    target, counts = torch.zeros(64, 4, 16, 16), Counter()
    for seed in range(60):
        levels = method.levels_to_exit(target, make_rngs(seed))
        steps = len(levels)
        assert (levels[0] == 1).all() and (levels.diff(dim=0) <= 0).all()
        counts.update((steps, round(float(level), 3)) for level in levels[-1].flatten())
    assert counts.keys() == {(1, 1.0), (2, 1.0), (2, 0.5), (3, 1.0), (3, 0.667), (3, 0.333)}
    shares = {steps: counts[steps, round(1 / steps, 3)] / sum(n for (s, _), n in counts.items() if s == steps)
              for steps in (1, 2, 3)}  # fmt: skip
    assert shares[1] == 1 and abs(shares[2] - 3 / 4) < 0.02 and abs(shares[3] - 2 / 3) < 0.02


@pytest.mark.parametrize("wrong", [{"exits": 0}, {"rollout": -1}])
def test_exits_and_rollouts_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match="loss.exits must be at least 1 and loss.rollout at least 0, got"):
        DistillConfig(**wrong)


def test_energy_score_prefers_the_true_spread():
    """The few-step loss is least for samples of the data's distribution, not for its mean and not for a wider one."""
    g = torch.Generator().manual_seed(0)
    truth = torch.randn(20000, 8, generator=g)

    def score(scale):
        a, b = (scale * torch.randn(20000, 8, generator=g) for _ in range(2))
        return energy_score(a, b, truth)[0].item()

    assert score(1.0) < score(0.5) and score(1.0) < score(1.5) and score(0.5) < score(0.0)


def test_sharpness_falls_when_blurred():
    sharp = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    blurred = torch.nn.functional.avg_pool2d(sharp, 3, 1, 1)
    assert laplacian_energy(blurred) < 0.2 * laplacian_energy(sharp)
    ramp = torch.arange(32.0).expand(1, 1, 32, 32)
    assert laplacian_energy(ramp) == 0


def test_stages_make_a_world_from_recordings(recordings, tmp_path):
    config = make_world().config
    loop = LoopConfig(steps=30, batch_size=4, bf16=False, warmup=2, log_every=10, lr=3e-3, ema=0.5)
    data = DataConfig(str(recordings), validation_fraction=0.34)
    coder = vae(config, loop, data, VAEStageConfig(), str(tmp_path), "cpu")
    curve = [json.loads(line) for line in (tmp_path / "vae" / "curve.jsonl").read_text().splitlines()]
    quality = [row["psnr"] for row in curve if "psnr" in row]  # the loss changes on the way
    assert quality[-1] > quality[0] and "val/psnr" in curve[-1]
    drives = Drives.open(recordings)
    latents = torch.from_numpy(np.array(encode_drives(coder, drives, tmp_path))).float()
    assert latents.mean().abs() < 0.1 and latents.std() < 1.2  # the rest of the unit variance is uncertainty

    loop.steps = 12
    loss = StudentStageConfig(clip_frames=6, few_step_from=0.5, rollout=2)
    made = student(config, loop, data, loss, str(tmp_path), "cpu")
    assert (tmp_path / "student" / "world" / "model.safetensors").exists()
    world = DiTWorld.from_pretrained(tmp_path / "student" / "world", device="cpu")
    assert world.scenes and len(world.scenes[0].frames) == (config.student.window or 0) + 1
    assert world.scenes[0].poses is not None and world.scenes[0].route is not None
    state = world.start(world.scenes[:1], [0])
    state, _ = world.step(state, torch.zeros(1, 2))
    assert torch.isfinite(state.latents).all()
    kept = coder.vae.to_frame.conv.weight.half().float()  # as stored; the student leaves it alone
    assert torch.equal(made.vae.to_frame.conv.weight, kept)


def test_command_line_takes_presets_and_refuses_unknown_keys(tmp_path, capsys):
    from drivedit.training.__main__ import main

    with pytest.raises(SystemExit):
        main(["student", "--config", "carracing.yaml", "--train.lrr", "3"])
    assert "lrr" in capsys.readouterr().err
    run, none = tmp_path / "run", tmp_path / "none"
    words = ["--config", "carracing.yaml", "--out", str(run), "--device", "cpu", "--data.root"]
    assert main(["vae", *words, str(none)]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: no shard-*.h5 in {none}; record some: ")
    for name, held_out in (("mine", False), ("held", True)):
        (tmp_path / name).mkdir()
        write_shard(shard_path(tmp_path / name, 0), [make_episode(6, 0)], {"held_out": held_out})
    assert main(["student", *words, str(tmp_path / "mine"), "--train.lr", "3e-4"]) == 1
    assert "run the vae stage first, python -m drivedit.training vae --out" in capsys.readouterr().err
    assert main(["vae", *words, str(tmp_path / "held")]) == 1
    assert "was kept for judging (--held-out), so nothing learns from it" in capsys.readouterr().err
    assert not run.exists(), "nothing is left behind, no lock either"
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "--config carracing.yaml" in capsys.readouterr().out, "the head says that a preset is meant"
    with pytest.raises(SystemExit, match="2"):
        main(["ship", "--world", "carracing"])
    assert "required: to" in capsys.readouterr().err, "where to is not guessed"
    unknown = tmp_path / "mine.yaml"
    unknown.write_text("train: {steps: 3, stepz: 4}\n")
    with pytest.raises(SystemExit):
        main(["vae", "--config", str(unknown)])
    assert "stepz" in capsys.readouterr().err


def test_generators_are_functions_of_their_arguments():
    a, b, c = (torch.randn(4, generator=generator(*key)) for key in ((1, "x", 2), (1, "x", 2), (1, "x", 3)))
    assert torch.equal(a, b) and not torch.equal(a, c)
