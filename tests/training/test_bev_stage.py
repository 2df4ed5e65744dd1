"""The bev stage: clips with others by name, the loss, what is learned, the command and the world it writes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.fields import SPEC, bev_config, box_ahead, copying_world, field_episode, make_bev_world

from drivedit.config import BevStageConfig
from drivedit.config.bev import GAP
from drivedit.data.clips import Drives
from drivedit.data.recordings import shard_path
from drivedit.evaluation.metrics.figures import psnr, squared_error
from drivedit.models import BevWorld, World
from drivedit.models.bev.others import unseen_looks
from drivedit.training.__main__ import main
from drivedit.training.bev_clips import NONE, BevClips
from drivedit.training.bev_stage import HeldDreams, fit_bev
from drivedit.training.methods.bev import BevMethod, present, spread, told_routes
from drivedit.training.methods.clips import Rngs
from drivedit.training.methods.method import Progress
from drivedit.training.optimizers import Muon, is_matrix
from drivedit.training.stages import begin_with
from drivedit.utils import generator, motion_between
from drivedit.utils.shards import write_shard

LOSS = BevStageConfig(horizon=5, views=3, rendered=3, adversarial_from=0.6)
STARTS = np.array([4, 7, 19, 24])


def rngs_of(name: str) -> Rngs:
    return Rngs(generator(0, name), torch.device("cpu"), generator(0, "shared"))


@pytest.fixture(scope="module")
def drives() -> Drives:
    return Drives.of([field_episode(14, 0), field_episode(16, 1, ended=True)], SPEC)


@pytest.fixture(scope="module")
def clips(drives) -> BevClips:
    return BevClips(drives, fit_bev(bev_config(), drives.facts()), LOSS.horizon)


def test_the_world_is_fitted_to_the_recordings(drives):
    world = fit_bev(bev_config(), drives.facts())
    assert world.spec.conditions == ["route", "layout"] and world.others == 2 and world.end_threshold == 2.0
    lonely = fit_bev(bev_config(others=0), drives.facts())
    assert lonely.spec.conditions == ["route"] and lonely.others == 0
    untold = Drives.of([field_episode(8, 0)], SPEC)
    assert fit_bev(bev_config(), untold.facts()).end_threshold == 1.0, "nothing ends in these"


def test_clips_are_what_was_recorded(drives, clips):
    batch = clips.batch(STARTS)
    states = GAP + 1 + LOSS.horizon
    assert batch["frames"].shape == (4, states, 32, 64, 3) and batch["others"].shape == (4, states, 2, 8)
    assert torch.equal(batch["frames"][1], torch.from_numpy(drives.frames[3:13]))
    pose = batch["pose"].double()
    gone = motion_between(pose[:, :-1], pose[:, 1:]) / torch.tensor(bev_config().motion_scale)
    assert torch.allclose(batch["motion"][:, 1:].double(), gone, atol=1e-3), "what led to each state"
    assert (batch["ids"][:, :, 0] == 0).all() and (batch["ids"][:, :, 1] == NONE).all(), "one other is there"
    assert torch.allclose(batch["others"][0, 3, 0, :7], torch.from_numpy(box_ahead()[0, :7]))
    assert not batch["others"][..., 7].any(), "it stands"
    assert batch["ended"].sum() == (STARTS + LOSS.horizon >= 31).sum()


def test_speeds_of_others_are_those_since_the_state_before():
    episode = field_episode(14, 0)
    assert episode.agents is not None
    boxes = episode.agents.boxes
    boxes[:, 0] += 0.2 * np.arange(len(boxes))
    moving = Drives.of([episode], SPEC)
    batch = BevClips(moving, fit_bev(bev_config(), moving.facts()), 3).batch(np.array([5]))
    assert torch.allclose(batch["others"][0, :, 0, 7], torch.tensor(2.0), atol=1e-3), ".2 m in .1 s"


def test_the_loss_sees_noise_and_routes_and_all_parts_get_a_gradient(clips):
    method, batch = BevMethod(make_bev_world(), replace(LOSS, drop_route=0.0)), clips.batch(STARTS)
    loss, logs = method.loss(batch, Progress(5, 0.9), generator(0, "noise"))
    loss.backward()
    learned = [(name, weight) for name, weight in method.named_parameters() if weight.requires_grad]
    idle = [name for name, weight in learned if weight.grad is None or not weight.grad.any()]
    assert not [name for name in idle if "looker.blocks" not in name] and {"critic", "fooling"} <= set(logs)
    assert not [name for name, _ in learned if any(part in name for part in ("ego.", "traffic.", "filler."))]
    again, _ = method.loss(batch, Progress(5, 0.9), generator(0, "noise"))
    assert loss.isfinite() and torch.equal(loss.detach(), again.detach())
    other = {**batch, "points": batch["points"] + 2}
    assert method.loss(other, Progress(5, 0.9), generator(0, "noise"))[0] != loss.detach()


def test_at_first_nobody_criticises(clips):
    method, batch = BevMethod(make_bev_world(), LOSS), clips.batch(STARTS)
    loss, logs = method.loss(batch, Progress(0, 0.3), generator(0, "noise"))
    assert "critic" not in logs
    loss.backward()
    assert all(weight.grad is not None and not weight.grad.any() for weight in method.critic.parameters())


def test_routes_are_dropped_from_some_clips(clips):
    batch = clips.batch(np.resize(STARTS, 200))
    told = told_routes(batch, rngs_of("told"), LOSS).count > 0
    assert told.float().mean() == pytest.approx(1 - LOSS.drop_route, abs=0.12)


def test_moments_lie_within_the_clip_and_alike_in_all_processes():
    loss, rngs, other = replace(LOSS, horizon=40), rngs_of("one"), rngs_of("another")
    found = [(present(rngs, loss), spread(rngs, 10, 50, 5)) for _ in range(200)]
    assert found == [(present(other, loss), spread(other, 10, 50, 5)) for _ in range(200)]
    nows = np.array([now for now, _ in found])
    assert 40 < (nows == GAP).sum() < 95 and nows.max() == GAP + 20
    views = np.array([moments for _, moments in found])
    parts = 10 + 8 * np.arange(6)
    assert (views >= parts[:-1]).all() and (views <= parts[1:]).all() and len(np.unique(views[:, 3])) == 9


def test_others_keep_how_they_looked_by_their_ids(clips):
    method, batch = BevMethod(make_bev_world(), LOSS), clips.batch(STARTS)
    seen = method.world.looker((batch["frames"][:, [0, GAP]].float() / 127.5 - 1).permute(0, 1, 4, 2, 3))
    drawn = torch.randn(4, 2, 2, generator=generator(0, "drawn"))
    first, later = (method.looks(seen, batch, now, drawn) for now in (GAP, GAP + 3))
    assert torch.equal(first[:, 0], later[:, 0]) and not torch.equal(first[:, 0, :2], drawn[:, 0])
    assert torch.equal(later[:, 1], unseen_looks(drawn)[:, 1]), "nobody"
    strangers = {**batch, "ids": batch["ids"] + torch.arange(batch["ids"].shape[1])[None, :, None]}
    assert torch.equal(method.looks(seen, strangers, GAP + 3, drawn), unseen_looks(drawn)), "somebody else now"


def test_pictures_are_compared_by_patches_coarsely_and_by_edges():
    method = BevMethod(make_bev_world(), LOSS)
    truth = torch.randn(8, 3, 32, 64, generator=generator(0, "truth"))
    nothing = method.compared(truth, truth)
    assert set(nothing) == {"picture", "coarse", "edges"} and all(loss < 2e-3 for loss in nothing.values())
    brighter, rough = method.compared(truth + 0.1, truth), method.compared(truth + 0.1 * truth.roll(1, 0), truth)
    assert brighter["picture"] == pytest.approx(1.0, rel=1e-3) == brighter["coarse"]
    assert brighter["edges"] < 0.1 < rough["edges"] and rough["coarse"] < 0.4 * rough["picture"]


def test_training_renders_truer_pictures_and_tells_the_motion(clips, drives):
    torch.manual_seed(0)
    loss = replace(LOSS, rendered=1, adversarial=0.0, head_weight=1.0)
    method = BevMethod(BevWorld(fit_bev(bev_config(), drives.facts())), loss)
    group = method.groups(0)[0]
    assert group.matrices and all(is_matrix(p) for p in group.matrices)
    muon, chosen = Muon(group.matrices, 1e-2), {id(p) for p in group.matrices}
    adam = torch.optim.AdamW([p for p in group.parameters if id(p) not in chosen], 1e-2)
    batch, seen = clips.batch(STARTS[:2]), []
    for step in range(40):
        value, logs = method.loss(batch, Progress(step, 0.3), generator(0, "noise", step))
        seen.append([logs[name].item() for name in ("picture", "coarse", "motion")])
        value.backward()
        for each in (muon, adam):
            each.step()
            each.zero_grad()
    first, last = np.mean(seen[:5], 0), np.mean(seen[-5:], 0)
    assert (last < np.array([0.5, 0.7, 0.5]) * first).all()


def test_figures_are_those_of_the_pictures(drives):
    held = HeldDreams(drives, np.arange(2), bev_config(), 5, 6)
    assert held.ahead == [1] and held.frames.shape == (6, 5, 32, 64, 3)
    found = held.figures(make_bev_world(noise=0.0))
    assert set(found) == {f"{name}_{n}" for name in ("psnr", "copy", "sharpness") for n in (1,)} | {"off_m"}
    true, last = held.frames[:, 0], np.stack([scene.frames[-1] for scene in held.scenes])
    assert found["copy_1"] == pytest.approx(float(psnr(squared_error(last, true)).mean()))
    warped = held.figures(copying_world())
    assert warped["psnr_1"] > found["copy_1"] + 1, "on level ground it is where the recorded motion leads"
    with pytest.raises(ValueError, match="no drive that is only looked at has"):
        HeldDreams(Drives.of([field_episode(3, 0)], SPEC), np.arange(1), bev_config(), 5, 6)


def test_the_command_writes_a_world_that_is_found_by_its_kind(tmp_path):
    (tmp_path / "rec").mkdir()
    write_shard(shard_path(tmp_path / "rec", 0), [field_episode(20, n) for n in range(3)], {"held_out": False})
    words = [
        "bev", "--data.root", str(tmp_path / "rec"), "--out", str(tmp_path / "run"), "--train.steps", "2",
        "--train.batch_size", "2", "--train.log_every", "1", "--world.renderer.width", "8",
        "--world.renderer.blocks", "1", "--world.renderer.patch", "[4, 4]", "--world.others", "2", "--world.window",
        "[4, 28, 8]", "--world.looker", "[8, 1]", "--world.filler", "[8, 1]",
        "--world.stride", "4", "--loss.horizon", "5", "--loss.rendered", "2",
        "--loss.judged", "2", "--loss.shown", "5", "--loss.ego_steps", "3", "--loss.traffic_steps", "2",
        "--loss.ground_steps", "2", "--world.filling", "2", "--world.latent", "8",
        "--loss.adversarial_from", "0.5", "--device", "cpu",
    ]  # fmt: skip
    assert main(words) == 0
    world = World.from_pretrained(tmp_path / "run" / "bev" / "world", device="cpu")
    assert isinstance(world, BevWorld) and world.scenes and world.spec.conditions == ["route", "layout"]
    assert "## Stage `bev`" in world.card and "psnr_1" in world.card
    curves = [(tmp_path / "run" / name / "curve.jsonl").read_text().splitlines() for name in ("bev", "ground")]
    pictures, ground = ([json.loads(line) for line in lines] for lines in curves)
    assert "picture" in pictures[0] and "edges" in pictures[0] and "clean" in ground[0]
    assert any("val/psnr" in row and "val/sharpness" in row for row in pictures)
    state, _ = world.enter(world.scenes[:1], [0])
    assert world.step(state, torch.zeros(1, 2))[1].reward.isfinite().all()


def test_a_run_may_begin_with_the_weights_of_another_world_of_the_same_networks(tmp_path):
    make_bev_world(1).save_pretrained(tmp_path / "trained")
    world = make_bev_world(2)
    begin_with(world, str(tmp_path / "trained"))
    trained = BevWorld.from_pretrained(tmp_path / "trained", device="cpu").state_dict()
    assert all(torch.equal(weight, trained[name]) for name, weight in world.state_dict().items())
    with pytest.raises(ValueError, match=r"other networks: .* is \(.*\) there, \(.*\) here"):
        begin_with(make_bev_world(code=5), str(tmp_path / "trained"))


def test_recordings_without_poses_are_refused_before_long_work(tmp_path, capsys):
    episode = field_episode(20, 0)
    episode.poses = np.full_like(episode.poses, np.nan)
    (tmp_path / "rec").mkdir()
    write_shard(shard_path(tmp_path / "rec", 0), [episode, episode], {"held_out": False})
    assert main(["bev", "--data.root", str(tmp_path / "rec"), "--out", str(tmp_path / "run"), "--device", "cpu"]) == 1
    assert "poses are known in every state" in capsys.readouterr().err
