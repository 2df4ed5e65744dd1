"""What small trainings show: motion learned at whole times is right between them, and noise carries two futures.

Each takes some seconds; seeds are fixed.
"""

import torch
from helpers.stdiff import small_tde
from torch import nn

from drivedit.models.sde import DiffModel

WIDTH = 16


def dot(x: torch.Tensor) -> torch.Tensor:
    """A soft dot on a ring, in [-1, 1]: `[N, 1, 2, WIDTH]`, both rows alike."""
    away = (torch.arange(WIDTH) - x[:, None] + WIDTH / 2) % WIDTH - WIDTH / 2
    return (2 * torch.exp(-away.square() / 2) - 1)[:, None, None].expand(-1, 1, 2, -1)


def motion_model(channels: int, **parts) -> DiffModel:
    tde = small_tde(encoder={"model_channels": channels, "image_size": [2, WIDTH], "circular": True}, **parts)
    return DiffModel(tde["Int"], tde["MotionEncoder"], tde["DiffUnet"])


def painter() -> nn.Module:
    """A frame of a motion state of 8 x 1 x 8 numbers."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2 * WIDTH), nn.Unflatten(1, (1, 2, WIDTH))
    )


def distance(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of pictures, `[N]`."""
    return (one - other).square().mean((1, 2, 3))


def test_between_the_times_of_its_training_it_is_as_right_as_at_them():
    """A dot of any speed is seen at 0 and 1 and told at 2, 3, 4; then asked for at 2.5 and 3.5.

    If time were rounded, the error there would be larger by .04.
    """
    torch.manual_seed(2)
    model = motion_model(4, integral={"sde": False, "method": "euler", "ode_options": {"step_size": 0.5}})
    paint = painter()
    optimizer = torch.optim.Adam([*model.parameters(), *paint.parameters()], 5e-3)

    def errors(count: int, times: tuple[float, ...]) -> torch.Tensor:
        x, v = WIDTH * torch.rand(count), 3 * torch.rand(count) - 1.5
        m = model.context_encode(torch.stack([dot(x), dot(x + v)], 1), [0, 1])
        m = model.future_predict(m, torch.tensor([1.0, *times])).flatten(0, 1)
        return distance(paint(m), torch.cat([dot(x + t * v) for t in times])).mean()

    for _ in range(300):
        loss = errors(64, (2.0, 3.0, 4.0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        whole, half = errors(512, (2.0, 3.0, 4.0)), errors(512, (2.5, 3.5))
    assert whole < 0.03, "a tenth of the variance, .34"
    assert half < 1.5 * whole


def test_noise_carries_both_of_two_futures():
    """A dot turns left or right. Under an energy score the diffusion grows from zero, and 20 samples show both."""
    torch.manual_seed(1)
    model = motion_model(4, integral={"sde_options": {"dt": 1.0}})
    paint = painter()
    optimizer = torch.optim.Adam([*model.parameters(), *paint.parameters()], 3e-3)
    seen = torch.stack([dot(torch.tensor([7.0])), dot(torch.tensor([8.0]))], 1)

    def sample(count: int, seeds: list[int] | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        m = model.context_encode(seen, [0, 1]).expand(count, -1, -1, -1)
        m = model.future_predict(m, torch.tensor([1.0, 2.0]), seeds=seeds)[0]
        return paint(m), m

    assert sample(20)[0].std(0).max() < 1e-6
    for _ in range(250):
        true = dot(8 + 8 * torch.randint(2, (64,)) - 4.0)
        one, other = sample(128)[0].chunk(2)
        near, far, apart = ((distance(*pair) + 1e-6).sqrt() for pair in ((one, true), (other, true), (one, other)))
        loss = (near + far - apart).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        drawn, m = sample(20, list(range(20)))
        left, right = (
            distance(drawn, dot(torch.tensor([x]))) < 0.1 for x in (4.0, 12.0)
        )  # their mean is .22 from each
        assert left.sum() >= 2 and right.sum() >= 2
        assert model.diff_unet.diffusion(m).abs().mean() > 0.05
