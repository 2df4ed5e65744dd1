"""The first phase of a student: the mean of the next frame, without noise."""

from typing import Any

import pytest
import torch
from helpers.training import make_batch
from helpers.worlds import make_world

from drivedit.config import StudentStageConfig
from drivedit.models import HeadOutputs
from drivedit.training.methods.clips import Clip
from drivedit.training.methods.energy import ForcingThenEnergy
from drivedit.training.methods.method import Progress


def test_first_of_all_the_mean_is_learned_without_noise_and_the_heads_only_watch():
    still: dict[str, Any] = dict(context_noise=0.0, drop_past=0.0, drop_route=0.0, drop_motion=0.0, motion_noise=0.0)
    losses, slopes = [], []
    for seed, weight in ((0, 0.0), (1, 0.0), (2, 5.0)):
        config = StudentStageConfig(clip_frames=4, mean_until=0.4, head_weight=weight, **still)
        torch.manual_seed(0)
        method = ForcingThenEnergy(make_world(), config)
        torch.nn.init.normal_(method.dynamics.head.weight, std=0.1, generator=torch.Generator().manual_seed(0))
        torch.nn.init.ones_(method.get_parameter("heads.mlp.2.weight"))
        loss, logs = method.loss(make_batch(4), Progress(3, 0.3), torch.Generator().manual_seed(seed))
        loss.backward()
        losses.append(logs["mse"].item())
        names = ("dynamics.blocks.0.qkv.weight", "heads.squeeze.weight")
        grads = [method.get_parameter(name).grad for name in names]
        slopes.append([torch.zeros(()) if grad is None else grad for grad in grads])
    assert losses[0] == losses[1] == losses[2] > 0, "no noise but in a blurred past"
    assert torch.equal(slopes[0][0], slopes[2][0]) and slopes[0][0].abs().sum() > 0
    assert slopes[0][1].abs().sum() == 0 < slopes[2][1].abs().sum()
    later, _ = method.loss(make_batch(4), Progress(4, 0.4), torch.Generator().manual_seed(0))
    other, _ = method.loss(make_batch(4), Progress(4, 0.4), torch.Generator().manual_seed(1))
    assert later != other, "from then on there is noise"
    with pytest.raises(ValueError, match="mean_until must not lie after"):
        StudentStageConfig(mean_until=0.6, few_step_from=0.5)


def test_rollouts_grow_over_the_first_half_of_few_step_training(monkeypatch: pytest.MonkeyPatch):
    method = ForcingThenEnergy(make_world(), StudentStageConfig(clip_frames=4, few_step_from=0.5, rollout=4))
    real, lengths = method.roll_out, list[int]()

    def noted(tokens: Any, control: Any, route: Any, passes: int, noise: Any) -> Any:
        lengths.append(passes)
        return real(tokens, control, route, min(passes, 1), noise)

    monkeypatch.setattr(method, "roll_out", noted)
    longest = []
    for share in (0.3, 0.5, 0.625, 0.75, 0.99):
        lengths.clear()
        for step in range(24):  # what all processes draw alike follows the share alone
            method.loss(make_batch(4), Progress(step, share + step * 1e-6), torch.Generator().manual_seed(0))
        longest.append(max(lengths, default=None))
    assert longest == [None, 0, 2, 4, 4]


def test_errors_of_the_ego_motion_count_in_what_the_recordings_have_of_it():
    """A turn that is half of all turns off costs the same whatever its unit; a motion never seen keeps the world's."""
    method = ForcingThenEnergy(make_world(), StudentStageConfig(clip_frames=4))
    batch = make_batch(2)
    losses = []
    for spread in (1.0, 0.1):
        method.spread(torch.tensor([spread, spread, 0.0]))
        wanted = {name: torch.zeros_like(value) for name, value in batch.items()}
        motion = torch.full_like(wanted["motion"], 0.5 * spread)
        motion[..., 2] = 0
        zeros = [torch.zeros_like(wanted[name]) for name in ("telemetry", "reward", "ended", "ended")]
        error = torch.ones_like(wanted["ended"])
        _, logs = method.head_losses(HeadOutputs(motion, *zeros), error, Clip(error, error, error, error, wanted))
        losses.append(logs["motion"].item())
    assert losses[0] == pytest.approx(losses[1]) == pytest.approx(0.5 * 0.5**2 * 2 / 3)
    assert method.motion_spread.tolist() == [pytest.approx(0.1), pytest.approx(0.1), 1.0]
