"""The frame network: what motion does to it, sizes, columns that wrap around, and what it refuses."""

import pytest
import torch
from helpers.stdiff import small_unet

from drivedit.config import MotionUNetConfig
from drivedit.models.sde import UNet2DMotionCond
from drivedit.models.sde.unet import waves
from drivedit.models.sde.unet_blocks import MotionNorm


def make(**changes) -> UNet2DMotionCond:
    torch.manual_seed(0)
    return UNet2DMotionCond(**small_unet(**changes)).eval()


def inputs(n: int = 2, size: tuple[int, int] = (8, 16)) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    return torch.randn(n, 2, *size, generator=rng), torch.randn(n, 8, 4, 8, generator=rng)


@torch.no_grad()
def only_middle(layer: torch.nn.Conv2d) -> None:
    """Leaves the middle weight of 3 x 3 alone."""
    layer.weight[..., [0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 0, 1, 2]] = 0


def test_motion_changes_what_it_tells_and_with_gamma_and_beta_of_zero_does_not():
    network = make()
    x, m = inputs()
    assert (network(x, 5, m).sample - network(x, 5, m + 1).sample).abs().max() > 1e-3
    for module in network.modules():
        if isinstance(module, MotionNorm):
            for weight in (*module.gamma.parameters(), *module.beta.parameters()):
                torch.nn.init.zeros_(weight)
    assert torch.equal(network(x, 5, m).sample, network(x, 5, m + 1).sample)


def test_motion_is_told_where_it_is():
    """Nearest resizing, each side by its own factor: what moves at one place is felt in the cells over it alone."""
    norm = MotionNorm(2, 8).eval()
    for layer in (norm.hidden, norm.gamma, norm.beta):
        only_middle(layer)
    x, m = torch.randn(1, 2, 8, 24), torch.randn(1, 8, 4, 4)
    other = m.clone()
    other[..., 1, 2] += 1
    changed = (norm(x, m) - norm(x, other)).abs().sum(1)[0] > 0
    assert changed[2:4, 12:18].all() and changed.sum() == 2 * 6


def test_coarse_motion_is_the_published_one_where_no_neighbour_counts():
    fine, coarse = MotionNorm(2, 8), MotionNorm(2, 8, coarse=True)
    x, m = torch.randn(1, 2, 8, 24), torch.randn(1, 8, 4, 4)
    coarse.load_state_dict(fine.state_dict())
    assert not torch.allclose(fine(x, m), coarse(x, m), atol=1e-4)
    assert torch.equal(fine(x[..., :2, :2], m), coarse(x[..., :2, :2], m)), "features smaller than the motion"
    for norm in (fine, coarse):
        for layer in (norm.hidden, norm.gamma, norm.beta):
            only_middle(layer)
    assert torch.allclose(fine(x, m), coarse(x, m), atol=1e-6)


def test_it_tells_noise_levels_apart_and_takes_one_for_all():
    network = make()
    x, m = inputs()
    each = network(x, torch.tensor([3, 700]), m).sample
    assert torch.allclose(network(x, 3, m).sample[0], each[0], atol=1e-6)
    assert torch.allclose(network(x, torch.tensor(700), m, return_dict=False)[0][1], each[1], atol=1e-6)
    assert not torch.allclose(each[0], network(x, 4, m).sample[0], atol=1e-6)
    codes = waves(torch.arange(1000.0), 16)
    assert codes.shape == (1000, 16) and torch.cdist(codes, codes).fill_diagonal_(9).min() > 0.1
    assert waves(torch.ones(2), 5).shape == (2, 5)


def test_columns_may_wrap_around():
    x, m = inputs()
    for circular in (True, False):
        network = make(circular=circular)
        turned = network(x.roll(4, -1), 5, m.roll(2, -1)).sample
        assert torch.allclose(turned, network(x, 5, m).sample.roll(4, -1), atol=1e-4) == circular


@pytest.mark.parametrize(
    "changes",
    [
        {"layers_per_block": 2, "sample_size": 16, "coarse_motion": True},
        {"block_out_channels": [8, 12, 16], "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
         "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"], "attention_head_dim": 4},
        {"attention_head_dim": None, "block_out_channels": [4, 8], "dropout": 0.1},
        {"block_out_channels": [8], "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"],
         "attention_head_dim": None},
    ],
)  # fmt: skip
def test_stages_of_many_kinds_keep_the_size_of_frames(changes):
    network = make(**changes)
    x, m = inputs(3, network.config.size)
    found = network(x, 5, m).sample
    assert found.shape == (3, 1, *network.config.size)
    found.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in network.parameters())
    again = UNet2DMotionCond(**MotionUNetConfig.from_dict(network.config.to_dict()).to_dict())
    again.load_state_dict(network.state_dict())


def test_what_does_not_fit_is_named():
    network = make()
    x, m = inputs()
    for wrong, match in (
        (lambda: make(attention_head_dim=[None]), "of one length, got 2, 2, 2, 1"),
        (lambda: make(up_block_types=["UpBlock2D"]), "of one length, got 2, 2, 1, 2"),
        (lambda: make(block_out_channels=[]), "of one length"),
        (
            lambda: make(down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"]),
            "must be DownBlock2D or AttnDownBlock2D",
        ),
        (lambda: make(attention_head_dim=[None, 3]), "attention_head_dim must divide block_out_channels, got 3 and 8"),
        (lambda: make(norm_num_groups=3), "norm_num_groups 3 must divide block_out_channels, got 8"),
        (lambda: make(sample_size=[8, 15]), "multiples of 2, got 8 x 15"),
        (lambda: network(x[..., :15], 5, m), "multiples of 2, got 8 x 15"),
        (lambda: network(x[:, :1], 5, m), r"samples must be \[B, 2, H, W\], got \[2, 1, 8, 16\]"),
        (lambda: network(x, 5, m[:1]), r"motion states must be \[2, 8, h, w\], got \[1, 8, 4, 8\]"),
        (lambda: network(x, torch.zeros(3), m), r"timestep must be one number or \[2\], got \[3\]"),
    ):
        with pytest.raises(ValueError, match=match):
            wrong()
