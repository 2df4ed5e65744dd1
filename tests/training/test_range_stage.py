"""The range stage: clips at drawn intervals, the loss, own scans, resuming, the command and the world it writes."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from helpers.ranges import SPEC, make_range_world, range_config, wall_episode

from drivedit.config import LoopConfig, RangeStageConfig
from drivedit.data.clips import Drives
from drivedit.data.recordings import shard_path
from drivedit.models import RangeWorld, World
from drivedit.training.__main__ import main
from drivedit.training.loop import train
from drivedit.training.methods.method import Progress
from drivedit.training.methods.range import RangeMethod
from drivedit.training.range_clips import RangeClips, fit_range, range_image
from drivedit.utils import generator
from drivedit.utils.shards import write_shard

LOSS = RangeStageConfig(clip_frames=3, context=1, strides=(1, 3), mean_until=0.0, own_from=0.0, own_share=1.0)


@pytest.fixture(scope="module")
def drives() -> Drives:
    return Drives.of([wall_episode(14, 0), wall_episode(12, 1, ended=True)], SPEC)


@pytest.fixture(scope="module")
def clips(drives) -> RangeClips:
    world = fit_range(range_config(), drives, (1, 3), "range")
    return RangeClips(drives, world, np.arange(2), 3, (1, 3))


def test_the_world_is_fitted_to_the_recordings(drives):
    world = fit_range(range_config(), drives, (1, 3), "range")
    assert world.spec.any_dt and world.seconds == pytest.approx((0.1, 0.3)) and world.spec.conditions == ["route"]
    assert world.learned_telemetry() == ["speed"] and world.spec.names("telemetry")[1:] == [
        "free_distance", "time_to_collision"
    ]  # fmt: skip
    assert range_image(SPEC) == range_image(SPEC, "range") == "range"
    with pytest.raises(ValueError, match=r"learns the range image 'camera', float32 \[H, W, 2\]; the recordings have"):
        range_image(SPEC, "camera")
    with pytest.raises(ValueError, match="no drive has 31 states"):
        RangeClips(drives, world, np.arange(2), 10, (1, 3))


def test_clips_tell_what_happened_in_their_intervals(drives, clips):
    batch = clips.batch(np.array([9, 27]), np.array([[1, 3, 2], [2, 1, 1]]))
    assert torch.equal(batch["scans"][0], torch.from_numpy(drives.frames[[3, 4, 7, 9]]))
    assert torch.allclose(batch["dt"], torch.tensor([[1.0, 3, 2], [2, 1, 1]]))
    assert torch.allclose(batch["controls"][0, 1], torch.from_numpy(drives.control[5:8].mean(0)))
    assert torch.allclose(batch["rewards"], torch.ones(()), atol=1e-5)  # 0.5 in each frame, of a term of 0.5
    assert batch["ended"].tolist() == [[False] * 3, [False, False, True]] and batch["known"].all()
    ahead = batch["rates"][0, :, 0]
    assert (ahead > 0.2).all() and (ahead < 0.8).all(), "half a metre in a unit of time, whatever the interval"
    assert batch["route"].shape == (2, 3, 9) and batch["telemetry"].unique().tolist() == [0.5]
    begins = clips.batch(np.array([6]), np.array([[2, 2, 2]]))
    assert begins["known"].tolist() == [[False, True, True, True]]
    drawn = clips.draw(64, generator(0, "batch"))
    assert set(drawn["dt"].round().unique().tolist()) == {1, 2, 3} and drawn["ended"].any()


def test_the_loss_sees_noise_controls_and_all_parts_get_a_gradient(clips):
    method = RangeMethod(make_range_world(), LOSS)
    batch = clips.draw(4, generator(0, "batch"))
    loss, logs = method.loss(batch, Progress(5, 0.9), generator(0, "noise"))
    loss.backward()
    learned = [(name, weight) for name, weight in method.world.named_parameters() if not name.startswith("ego.")]
    idle = [name for name, weight in learned if weight.grad is None or not weight.grad.any()]
    assert not idle and loss.isfinite() and logs["noise"] > 0 and logs["apart"] > 0
    again, _ = method.loss(batch, Progress(5, 0.9), generator(0, "noise"))
    assert torch.equal(loss.detach(), again.detach())
    other = {**batch, "controls": -batch["controls"]}
    assert method.loss(other, Progress(5, 0.9), generator(0, "noise"))[0] != loss.detach()


def test_at_first_one_scan_is_painted_without_noise_and_clips_are_recorded_ones(clips):
    late = RangeStageConfig(clip_frames=3, context=1, mean_until=0.5, own_from=0.5, own_share=1.0)
    method, batch = RangeMethod(make_range_world(), late), clips.draw(4, generator(0, "batch"))
    assert method.loss(batch, Progress(0, 0.1), generator(0, "noise"))[1]["apart"] < 1e-2
    seen = []
    absorbed = method.world.absorbed

    def spied(motion, scan, moved, dt):
        seen.append(scan)
        return absorbed(motion, scan, moved, dt)

    method.world.absorbed = spied  # type: ignore[method-assign]
    for share, own in ((0.4, False), (1.0, True)):
        seen.clear()
        method.loss(batch, Progress(0, share), generator(0, "noise"))
        true = method.world.encode(batch["scans"]).unbind(1)
        assert own != all(torch.allclose(a, b) for a, b in zip(seen, true, strict=True))
        assert torch.allclose(seen[0], true[0]), "the first is only looked at"


def test_training_learns_to_move_the_wall_and_keeps_its_noise(clips):
    method = RangeMethod(RangeWorld(clips.world), RangeStageConfig(clip_frames=3, context=1, mean_until=0.4))
    fixed, optimizer = clips.draw(8, generator(1, "held")), torch.optim.AdamW(method.parameters(), 5e-3)

    def judged() -> dict[str, float]:
        with torch.no_grad():
            return {k: v.item() for k, v in method.loss(fixed, Progress(0, 0.41), generator(0, "judged"))[1].items()}

    before = judged()
    for step in range(40):
        batch = clips.draw(8, generator(0, "batch", step))
        loss, _ = method.loss(batch, Progress(step, step / 40), generator(0, "noise", step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = judged()
    assert after["depth"] < 0.9 * before["depth"] and after["telemetry"] < before["telemetry"]
    assert after["noise"] > 0 and before["noise"] == 0


def test_a_stopped_run_goes_on_as_if_it_had_not_been(clips, tmp_path):
    loop = {"steps": 4, "batch_size": 2, "log_every": 1, "bf16": False}

    def run(folder: str, **changes) -> dict[str, Any]:
        config = LoopConfig(**{**loop, **changes})
        train(RangeMethod(make_range_world(), LOSS), lambda rng: clips.draw(2, rng), config, tmp_path / folder)
        return torch.load(tmp_path / folder / "last.pt", weights_only=True)

    whole, half = run("whole"), run("parts", minutes=0.0, log_every=2)
    assert half["step"] == 2 and whole["step"] == 4
    parts = run("parts")["stage"]
    assert all(torch.equal(value, parts[name]) for name, value in whole["stage"].items())


def test_the_command_writes_a_world_that_is_found_by_its_kind(tmp_path):
    (tmp_path / "rec").mkdir()
    write_shard(shard_path(tmp_path / "rec", 0), [wall_episode(24, number) for number in range(3)], {"held_out": False})
    words = [
        "range", "--data.root", str(tmp_path / "rec"), "--out", str(tmp_path / "run"), "--train.steps", "2",
        "--train.batch_size", "2", "--train.log_every", "1", "--world.model_channels", "2", "--world.n_downs", "2",
        "--world.head", "8", "--world.painter.width", "8", "--world.painter.blocks", "1", "--loss.clip_frames", "2",
        "--loss.context", "1", "--loss.judged", "2", "--loss.horizon", "5", "--loss.ego_steps", "3", "--device", "cpu",
    ]  # fmt: skip
    assert main(words) == 0
    world = World.from_pretrained(tmp_path / "run" / "range" / "world", device="cpu")
    assert isinstance(world, RangeWorld) and world.scenes and world.scenes[0].times is not None
    assert "## Stage `range`" in world.card and "chamfer_0.5s_moved" in world.card
    rows = [json.loads(line) for line in (tmp_path / "run" / "range" / "curve.jsonl").read_text().splitlines()]
    assert "noise" in rows[0] and "depth" in rows[0]
    state, _ = world.enter(world.scenes[:1], [0])
    assert world.step(state, torch.zeros(1, 2), torch.tensor([0.2]))[1].reward.isfinite().all()
    (tmp_path / "report.md").write_text("chamfer: .5 m\n")
    made, template = str(tmp_path / "run" / "range" / "world"), tmp_path / "card.md"
    template.write_text("{parameters} M, {size} MB, {commit}\n{report}")
    told = ["--scenes", str(tmp_path / "rec"), "--count", "2", "--template", str(template)]
    assert main(["ship", "--world", made, "--report", str(tmp_path), "--to", str(tmp_path / "out"), *told]) == 0
    shipped = World.from_pretrained(tmp_path / "out", device="cpu")
    assert len(shipped.scenes) == 2 and "chamfer: .5 m" in shipped.card
    assert shipped.scenes[0].observations["range"].shape == (5, 8, 32, 2) and shipped.scenes[0].route is not None
