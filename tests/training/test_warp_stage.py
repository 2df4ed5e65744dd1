"""The warp stage: clips of pictures, the loss, own frames, what is learned, the command and the world it writes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.warps import SPEC, field_episode, make_warp_world, warp_config

from drivedit.config import WarpStageConfig
from drivedit.data.clips import Drives
from drivedit.data.recordings import shard_path
from drivedit.evaluation.metrics.figures import psnr, squared_error
from drivedit.models import WarpWorld, World
from drivedit.training.__main__ import main
from drivedit.training.latents import Clips
from drivedit.training.methods.clips import Rngs
from drivedit.training.methods.method import Progress
from drivedit.training.methods.warp import WarpMethod
from drivedit.training.optimizers import Muon, is_matrix
from drivedit.training.stages import begin_with
from drivedit.training.warp_stage import HeldDreams, fit_warp
from drivedit.utils import generator
from drivedit.utils.shards import write_shard

LOSS = WarpStageConfig(clip_frames=3, lead=2, mean_until=0.0, own_from=0.0, own_share=1.0)
STARTS = np.array([3, 6, 20, 24])


@pytest.fixture(scope="module")
def drives() -> Drives:
    return Drives.of([field_episode(14, 0), field_episode(16, 1, ended=True)], SPEC)


@pytest.fixture(scope="module")
def clips(drives) -> Clips:
    return Clips(drives, drives.frames, fit_warp(warp_config(), drives.facts()), LOSS.lead + LOSS.clip_frames)


def test_the_world_is_fitted_to_the_recordings(drives):
    world = fit_warp(warp_config(), drives.facts())
    assert world.spec.conditions == ["route", "layout"] and world.others == 2 and world.end_threshold == 2.0
    lonely = fit_warp(warp_config(others=0), drives.facts())
    assert lonely.spec.conditions == ["route"] and lonely.map_width == 1
    untold = Drives.of([field_episode(8, 0)], SPEC)
    assert fit_warp(warp_config(), untold.facts()).end_threshold == 1.0, "nothing ends in these"


def test_clips_are_the_pictures_and_tell_who_is_there(drives, clips):
    batch = clips.batch(STARTS)
    assert torch.equal(batch["latents"][0].to(torch.uint8), torch.from_numpy(drives.frames[1:8]))
    assert batch["route"].shape == (4, 5, clips_width()) and batch["control"].shape == (4, 5, 7)


def clips_width() -> int:
    return warp_config().route_dim


def test_the_loss_sees_noise_and_controls_and_all_parts_get_a_gradient(clips):
    method, batch = WarpMethod(make_warp_world(), LOSS), clips.batch(STARTS)
    loss, logs = method.loss(batch, Progress(5, 0.9), generator(0, "noise"))
    loss.backward()
    learned = [(name, weight) for name, weight in method.world.named_parameters() if not name.startswith("ego.")]
    idle = [name for name, weight in learned if weight.grad is None or not weight.grad.any()]
    assert not idle and loss.isfinite() and logs["apart"] > 0
    again, _ = method.loss(batch, Progress(5, 0.9), generator(0, "noise"))
    assert torch.equal(loss.detach(), again.detach())
    other = {**batch, "control": -batch["control"]}
    assert method.loss(other, Progress(5, 0.9), generator(0, "noise"))[0] != loss.detach()


def test_at_first_one_frame_is_painted_without_noise_and_clips_are_recorded_ones(clips):
    late = WarpStageConfig(clip_frames=3, lead=2, mean_until=0.5, own_from=0.5, own_share=1.0)
    method, batch = WarpMethod(make_warp_world(), replace(late, drop_motion=0.0, hide=0.0)), clips.batch(STARTS)
    world, seen = method.world, []
    sight = world.sight

    def spied(frames, driven, motion):
        seen.append(frames[:, -1])
        return sight(frames, driven, motion)

    world.sight = spied  # type: ignore[method-assign]
    _, logs = method.loss(batch, Progress(0, 0.4), generator(0, "noise"))
    true = (batch["latents"] / 127.5 - 1).permute(0, 1, 4, 2, 3)
    assert logs["apart"] < 1e-2 and len(seen) == 3
    assert all(any(torch.equal(frame, true[:, begin + step]) for begin in (1, 3)) for step, frame in enumerate(seen))
    lengths = set()
    for step in range(16):
        seen.clear()
        method.loss(batch, Progress(step, 1.0), generator(0, "noise", step))
        lengths.add(len(seen))
        (begin,) = [at for at in range(1, 4) if torch.equal(seen[0], true[:, at])]
        own = zip(seen[1:], true[:, begin + 1 :].unbind(1), strict=False)
        assert not any(torch.equal(a, b) for a, b in own)
    assert lengths == {3, 4, 5}, "a lead of 0 to 2 frames goes before the three that are scored"


def test_ego_motion_is_given_but_where_it_is_to_be_seen(clips):
    batch, noted = clips.batch(STARTS), []
    for share, posed in ((0.0, True), (1.0, False)):
        method = WarpMethod(make_warp_world(), replace(LOSS, lead=0, drop_motion=share))
        sight, note = method.world.sight, method.note

        def spied(frames, driven, motion, sight=sight):
            noted.append((driven[:, -3:], motion))
            return sight(frames, driven, motion)

        def weighed(losses, painted, copy, target, wanted, told, note=note, posed=posed):
            note(losses, painted, copy, target, wanted, told)
            assert (losses["picture"][-1] > 1e-2) == posed and losses["seen"][-1] > 0

        method.world.sight, method.note = spied, weighed  # type: ignore[method-assign]
        noted.clear()
        method.loss(batch, Progress(0, 1.0), generator(0, "noise"))
        for step, (before, gone) in enumerate(noted):
            assert any(torch.equal(gone, batch["motion"][:, begin + step]) for begin in (0, 2)) == posed
            assert any(torch.equal(before, batch["control"][:, begin + step, -3:]) for begin in (0, 2)) == posed


def test_the_first_or_the_last_frames_of_a_clip_are_scored(clips):
    method, batch, told = WarpMethod(make_warp_world(), replace(LOSS, own_share=0.0)), clips.batch(STARTS), []
    note = method.note

    def spied(losses, painted, copy, target, wanted, posed):
        told.append(target)
        note(losses, painted, copy, target, wanted, posed)

    method.note = spied  # type: ignore[method-assign]
    true = (batch["latents"] / 127.5 - 1).permute(0, 1, 4, 2, 3)
    firsts = set()
    for step in range(16):
        told.clear()
        method.loss(batch, Progress(step, 1.0), generator(0, "noise", step))
        (first,) = [at for at in range(2, 5) if torch.equal(told[0], true[:, at])]
        assert all(torch.equal(each, true[:, first + index]) for index, each in enumerate(told)) and len(told) == 3
        firsts.add(first)
    assert firsts == {2, 3, 4}, "those at the end come after a lead of any length"


def test_what_is_told_is_dropped_from_some_clips_each_on_its_own(clips):
    method, batch = WarpMethod(make_warp_world(), LOSS), clips.batch(np.resize(STARTS, 200))
    rngs = Rngs(generator(0, "told"), torch.device("cpu"), generator(0, "shared"))
    code = method.told(torch.ones_like(batch["route"]), rngs)
    of_others = method.of_others.bool()
    routed, peopled = code[:, 0, ~of_others].mean(1), code[:, 0, of_others].mean(1)
    assert set(routed.tolist()) == set(peopled.tolist()) == {0.0, 1.0}
    assert routed.mean() == pytest.approx(0.6, abs=0.12) and peopled.mean() == pytest.approx(0.5, abs=0.12)
    assert 0.2 < (routed * peopled).mean() < 0.4


def test_others_that_are_told_of_are_hidden_by_other_parts_of_the_picture(clips):
    method, batch = WarpMethod(make_warp_world(), LOSS), clips.batch(STARTS)
    pair = (batch["latents"][:, :2] / 127.5 - 1).permute(0, 1, 4, 2, 3)
    rngs = Rngs(generator(0, "hide"), torch.device("cpu"), generator(0, "shared"))
    code = batch["route"][:, 0]
    hidden = method.hidden(pair, code, rngs)
    shown = method.world.parts(code)[1][:, 1].repeat_interleave(4, 1).repeat_interleave(4, 2) > 0
    changed = (hidden != pair).any(2).any(1)
    assert shown.any() and changed[shown].float().mean() > 0.5 and changed.float().mean() < 0.3
    for row in range(len(pair)):
        columns = {tuple(column.tolist()) for column in pair[row, 0].flatten(1).T}
        assert {tuple(column.tolist()) for column in hidden[row, 0].flatten(1).T} <= columns, "pixels of the picture"
    assert torch.equal(method.hidden(pair, torch.zeros_like(code), rngs), pair), "nobody is told of"
    lonely = WarpMethod(make_warp_world(others=0), LOSS)
    assert torch.equal(lonely.hidden(pair, torch.zeros(4, lonely.world.config.route_dim), rngs), pair)


def test_less_spread_brings_samples_of_pictures_nearer_to_the_likeliest_one_and_leaves_edges():
    truth, still = torch.randn(64, 3, 32, 32, generator=generator(0, "truth")), torch.zeros(64, 3, 32, 32)
    samples = [torch.randn(truth.shape, generator=generator(0, "sample", n)) for n in range(2)]
    best = {}
    for spread in (1.0, 0.7):
        method = WarpMethod(make_warp_world(), replace(LOSS, spread=spread))
        scores = [method.score(still + n / 10 * samples[0], still + n / 10 * samples[1], truth) for n in range(13)]
        for name in ("picture", "coarse", "edges"):
            best[name, spread] = int(np.argmin([each[name] for each in scores]))
    for name in ("picture", "coarse"):
        assert best[name, 1.0] in (9, 10, 11) and best[name, 0.7] in (5, 6, 7)
    assert best["edges", 1.0] == best["edges", 0.7] in (9, 10, 11)


def test_training_reads_the_speed_and_paints_better_than_warping_alone(clips):
    method = WarpMethod(WarpWorld(clips_world()), WarpStageConfig(clip_frames=3, lead=0, mean_until=1.0, own_from=1.0))
    groups = method.groups(0)[0]
    assert groups.matrices and all(is_matrix(p) for p in groups.matrices)
    muon = Muon(groups.matrices, 2e-3)
    chosen = {id(p) for p in groups.matrices}
    adam = torch.optim.AdamW([p for p in groups.parameters if id(p) not in chosen], 5e-3)
    fixed = clips.batch(STARTS)

    def judged() -> dict[str, float]:
        with torch.no_grad():
            return {k: v.item() for k, v in method.loss(fixed, Progress(0, 0.5), generator(0, "judged"))[1].items()}

    before = judged()
    for step in range(40):
        starts = torch.randint(2, 9, (6,), generator=generator(0, "starts", step)).numpy()
        loss, _ = method.loss(clips.batch(starts), Progress(step, 0.5), generator(0, "noise", step))
        for each in (muon, adam):
            each.zero_grad()
        loss.backward()
        for each in (muon, adam):
            each.step()
    after = judged()
    assert after["telemetry"] < 0.8 * before["telemetry"] and after["picture"] < 0.95 * before["picture"]


def clips_world():
    drives = Drives.of([field_episode(14, 0), field_episode(16, 1, ended=True)], SPEC)
    return fit_warp(warp_config(), drives.facts())


def test_figures_are_those_of_the_pictures(drives):
    held = HeldDreams(drives, np.arange(2), warp_config(), 5, 6)
    assert held.ahead == [1, 5] and held.frames.shape == (6, 5, 32, 64, 3)
    method = WarpMethod(make_warp_world(noise=0.0), LOSS).eval()
    found = held.figures(method)
    assert set(found) == {f"{name}_{n}" for name in ("psnr", "copy", "sharpness") for n in (1, 5)} | {"off_m"}
    true, last = held.frames[:, 0], np.stack([scene.frames[-1] for scene in held.scenes])
    assert found["copy_1"] == pytest.approx(float(psnr(squared_error(last, true)).mean()))
    assert found["psnr_1"] > found["copy_1"] + 1, "untrained, it warps by the recorded motion"
    with pytest.raises(ValueError, match="no drive that is only looked at has"):
        HeldDreams(Drives.of([field_episode(3, 0)], SPEC), np.arange(1), warp_config(), 5, 6)


def test_the_command_writes_a_world_that_is_found_by_its_kind(tmp_path):
    (tmp_path / "rec").mkdir()
    write_shard(shard_path(tmp_path / "rec", 0), [field_episode(20, n) for n in range(3)], {"held_out": False})
    words = [
        "warp", "--data.root", str(tmp_path / "rec"), "--out", str(tmp_path / "run"), "--train.steps", "2",
        "--train.batch_size", "2", "--train.log_every", "1", "--world.painter.width", "8",
        "--world.painter.blocks", "1", "--world.painter.patch", "[4, 4]", "--world.others", "2", "--loss.clip_frames",
        "2", "--loss.lead", "2", "--loss.judged", "2", "--loss.horizon", "5", "--loss.ego_steps", "3",
        "--device", "cpu",
    ]  # fmt: skip
    assert main(words) == 0
    world = World.from_pretrained(tmp_path / "run" / "warp" / "world", device="cpu")
    assert isinstance(world, WarpWorld) and world.scenes and world.spec.conditions == ["route", "layout"]
    assert "## Stage `warp`" in world.card and "psnr_5" in world.card
    rows = [json.loads(line) for line in (tmp_path / "run" / "warp" / "curve.jsonl").read_text().splitlines()]
    assert "picture" in rows[0] and "edges" in rows[0]
    state, _ = world.enter(world.scenes[:1], [0])
    assert world.step(state, torch.zeros(1, 2))[1].reward.isfinite().all()


def test_a_run_may_begin_with_the_weights_of_another_world_of_the_same_networks(tmp_path):
    make_warp_world(1).save_pretrained(tmp_path / "trained")
    world = make_warp_world(2)
    begin_with(world, str(tmp_path / "trained"))
    trained = make_warp_world(1).state_dict()
    assert all(torch.equal(weight, trained[name]) for name, weight in world.state_dict().items())
    with pytest.raises(ValueError, match=r"other networks: .* is \(.*\) there, \(.*\) here"):
        begin_with(make_warp_world(others=0), str(tmp_path / "trained"))


def test_recordings_without_poses_are_refused_before_long_work(tmp_path, capsys):
    episode = field_episode(20, 0)
    episode.poses = np.full_like(episode.poses, np.nan)
    (tmp_path / "rec").mkdir()
    write_shard(shard_path(tmp_path / "rec", 0), [episode, episode], {"held_out": False})
    assert main(["warp", "--data.root", str(tmp_path / "rec"), "--out", str(tmp_path / "run"), "--device", "cpu"]) == 1
    assert "poses are known in every state" in capsys.readouterr().err
