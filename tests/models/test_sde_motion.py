"""Motion of observed frames and its equation: shapes, times, noise, gradients, controls."""

import pytest
import torch
from helpers.stdiff import small_model, small_tde

from drivedit.models.sde import ConvGRUCell, DiffModel, DiffUnet, OdeSdeFuncNet


def frames(n: int = 2, to: int = 3, size: tuple[int, int] = (8, 16), seed: int = 1) -> torch.Tensor:
    return torch.rand(n, to, 1, *size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


TIMES = torch.arange(3)


@pytest.mark.parametrize("integral", [{}, {"sde": False, "method": "rk4"}])
def test_a_fresh_model_keeps_its_motion_for_ever(integral):
    model = small_model(awake=False, integral=integral)
    m = model.context_encode(frames(), TIMES)
    found = model.future_predict(m, torch.tensor([2.0, 2.5, 3.0, 9.75]), seeds=[0, 1])
    assert m.shape == (2, 8, 4, 8) and m.abs().max() > 0
    assert torch.equal(found, m.expand(3, -1, -1, -1, -1))


def test_fresh_controls_change_nothing_either():
    model = small_model(awake=False, unet={"control_dim": 2})
    m = model.context_encode(frames(), TIMES)
    found = model.future_predict(m, torch.tensor([2, 3]), seeds=[0, 1], controls=torch.randn(2, 1, 2))
    assert torch.equal(found[0], m)


def test_what_is_asked_for_in_between_changes_nothing_on_the_grid():
    model = small_model()
    m = model.context_encode(frames(), TIMES)

    def at(*times: float) -> torch.Tensor:
        return model.future_predict(m, torch.tensor([2, *times]), seeds=[5, 6])

    whole, more = at(3, 4), at(2.3, 3, 3.1, 3.7, 4)
    assert (whole[0] - m).abs().max() > 0.05
    assert torch.allclose(whole, more[[1, 4]], atol=1e-6)
    halves = model.future_predict(at(3)[0], torch.tensor([3, 4]), seeds=[5, 6])
    assert torch.allclose(halves, whole[1:], atol=1e-6)
    late = at(3.05, 4)  # off the grid only the steps differ, not the path
    assert (late[1] - whole[1]).abs().max() < 0.1 * (at(4)[0] - m).abs().max()


def test_a_clip_has_its_future_in_any_batch_and_its_seed_decides():
    model = small_model()
    m, times = model.context_encode(frames(3), TIMES), torch.tensor([2.0, 2.7, 4.0])
    found = model.future_predict(m, times, seeds=[7, 8, 7])
    assert torch.allclose(model.future_predict(m[1:2], times, seeds=[8]), found[:, 1:2], atol=1e-6)
    same = model.future_predict(m[:1].expand(2, -1, -1, -1), times, seeds=[7, 8])
    assert torch.allclose(same[:, 0], found[:, 0], atol=1e-6) and (same[:, 0] - same[:, 1]).abs().max() > 0.01
    fresh = [model.future_predict(m, times) for _ in range(2)]
    assert not torch.equal(*fresh), "without seeds there are new ones each time"


def test_without_diffusion_an_sde_is_its_ode():
    sde = small_model(integral={"method": "euler_heun"})
    torch.nn.init.zeros_(sde.diff_unet.g.out.weight)  # type: ignore[arg-type]
    torch.nn.init.zeros_(sde.diff_unet.g.out.bias)  # type: ignore[arg-type]
    tde = small_tde(integral={"sde": False, "method": "euler"})
    ode = DiffModel(tde["Int"], tde["MotionEncoder"], tde["DiffUnet"])
    ode.load_state_dict(sde.state_dict())
    m, times = sde.context_encode(frames(), TIMES), torch.tensor([2.0, 3.0, 3.25])
    found = [sde.future_predict(m, times, seeds=seeds) for seeds in ([0, 1], [2, 3])]
    assert torch.equal(*found)
    assert torch.allclose(found[0], ode.future_predict(m, times), atol=1e-6)


def test_only_the_time_between_frames_counts_and_it_does_count():
    model, seen = small_model(), frames()
    found = model.context_encode(seen, TIMES)
    assert torch.allclose(model.context_encode(seen, TIMES + 40), found)
    assert not torch.allclose(model.context_encode(seen, TIMES * 2), found)
    slow = seen[:, :1] + 2 * (seen - seen[:, :1])  # twice the motion in twice the time is one speed
    assert torch.allclose(model.context_encode(slow, TIMES * 2), found, atol=1e-6)
    still = model.context_encode(seen[:, :1].expand(-1, 3, -1, -1, -1), TIMES)
    assert torch.allclose(still, model.context_encode(frames(seed=9)[:, :1].expand(-1, 3, -1, -1, -1), TIMES))
    plain = small_model(encoder={"learn_diff_image": False})
    assert plain.context_encode(seen[:, :1], [0]).shape == (2, 8, 4, 8)


def test_the_standard_cell_is_bounded_and_the_legacy_one_is_not():
    torch.manual_seed(0)
    largest = []
    for legacy in (False, True):
        cell, h = ConvGRUCell(2, 3, legacy_gru=legacy), torch.zeros(1, 3, 4, 4)
        with torch.no_grad():
            cell.gates.bias[:3] = -2.0  # type: ignore[index]
            for _ in range(1000):
                h = cell(3 * torch.randn(1, 2, 4, 4), h)
        largest.append(h.abs().max().item())
    assert largest[0] <= 1 < largest[1]


def test_gradients_reach_every_part_and_agree_with_finite_differences():
    model = small_model(unet={"n_layers": 0, "decay": True}, encoder={"model_channels": 1}).double().train()
    seen, times = frames(1, 2).double(), torch.tensor([1.0, 1.2, 1.35])

    def loss() -> torch.Tensor:
        m = model.context_encode(seen, [0, 1])
        return model.future_predict(m, times, seeds=[3]).square().sum()

    loss().backward()
    names = ["diff_unet.f.out.weight", "diff_unet.g.out.weight", "motion_encoder.convolutions.0.weight"]
    names += ["gru.gates.weight", "diff_unet.rate", "diff_unet.g.layers.0.weight"]
    parameters, step = dict(model.named_parameters()), 1e-6
    for name in names:
        weight = parameters[name]
        assert weight.grad is not None and weight.grad.abs().max() > 0, name
        where = weight.grad.abs().argmax()
        with torch.no_grad():
            flat = weight.view(-1)
            kept = flat[where].item()
            values = []
            for moved in (kept + step, kept - step):
                flat[where] = moved
                values.append(loss().item())
            flat[where] = kept
        assert weight.grad.view(-1)[where].item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-3), name


def test_controls_steer_the_equation_and_none_is_the_uncontrolled_one():
    model = small_model(unet={"control_dim": 2})
    m, times = model.context_encode(frames(), TIMES), torch.tensor([2.0, 3.0])
    left, right = (torch.tensor([[[-1.0, 0.0]], [[side, 0.5]]]) for side in (-1.0, 1.0))

    def future(**more) -> torch.Tensor:
        return model.future_predict(m, times, seeds=[1, 2], **more)[0]

    one, other = future(controls=left), future(controls=right)
    assert torch.allclose(one[0], other[0], atol=1e-6) and (one[1] - other[1]).abs().max() > 0.01
    untold = future(controls=right, told=torch.tensor([True, False]))
    assert torch.allclose(untold[0], other[0], atol=1e-6) and torch.allclose(untold[1], future()[1], atol=1e-6)


def test_a_control_is_held_for_its_own_stretch():
    model = small_model(unet={"control_dim": 1})
    m, seeds = model.context_encode(frames(), TIMES), [1, 2]
    controls = torch.tensor([[[1.0], [-1.0]], [[0.5], [0.5]]])
    found = model.future_predict(m, torch.tensor([2, 3, 4]), seeds=seeds, controls=controls)
    first = model.future_predict(m, torch.tensor([2, 3]), seeds=seeds, controls=controls[:, :1])
    second = model.future_predict(first[0], torch.tensor([3, 4]), seeds=seeds, controls=controls[:, 1:])
    assert torch.allclose(torch.cat([first, second]), found, atol=1e-6)


def test_decay_pulls_to_zero():
    unet = DiffUnet(4, 0, decay=True)
    m = torch.ones(1, 4, 2, 2)
    assert unet.rate is not None and torch.allclose(unet.drift(m), -torch.nn.functional.softplus(unet.rate) * m)


@pytest.mark.parametrize("learn_diff_image", [True, False])
def test_columns_that_wrap_around_know_no_beginning(learn_diff_image):
    model = small_model(encoder={"circular": True, "learn_diff_image": learn_diff_image})
    open_end = small_model(encoder={"learn_diff_image": learn_diff_image})
    seen = frames()
    for network, alike in ((model, True), (open_end, False)):
        m = network.context_encode(seen, TIMES)
        turned = network.context_encode(seen.roll(4, -1), TIMES)
        assert torch.allclose(turned, m.roll(2, -1), atol=1e-5) == alike
        drift = network.diff_unet.drift(m)
        assert torch.allclose(network.diff_unet.drift(m.roll(3, -1)), drift.roll(3, -1), atol=1e-5) == alike


def test_what_does_not_fit_is_named():
    model = small_model(unet={"control_dim": 2})
    m = model.context_encode(frames(), TIMES)
    for wrong, match in (
        (lambda: model.context_encode(frames(to=1), [0]), r"\[N, To >= 2, 1, H, W\], got \[2, 1, 1, 8, 16\]"),
        (lambda: model.context_encode(frames(size=(8, 15)), TIMES), "multiples of 2, got 8 x 15"),
        (lambda: model.context_encode(frames(), [0, 1]), r"idx_o must hold 3 times, got shape \[2\]"),
        (lambda: model.context_encode(frames(), [0, 2, 2]), r"idx_o must rise strictly and be finite, got \[0.0, 2.0"),
        (lambda: model.future_predict(m, [2, 1]), "idx must rise strictly"),
        (lambda: model.future_predict(m, [2]), "idx must hold at least 2 times"),
        (lambda: model.future_predict(m, [2, float("nan")]), "idx must rise strictly"),
        (lambda: model.future_predict(m, [2, 3], seeds=[1]), "a seed for each of 2 clips, got 1"),
        (lambda: model.future_predict(m, [2, 3], controls=torch.zeros(2, 2, 2)), r"controls must be \[2, 1, A\]"),
        (lambda: model.future_predict(m, [2, 3], controls=torch.zeros(2, 1, 3)), r"controls must be \[B, 2\], got"),
        (lambda: OdeSdeFuncNet(4, 1, "sin"), "tanh, relu, softplus, elu, swish, got 'sin'"),
        (lambda: small_model(integral={"method": "rk4"}), "euler_heun, heun, midpoint, got 'rk4'"),
        (lambda: small_model(integral={"method": "euler"}), "euler solves ito equations, got 'stratonovich'"),
        (lambda: small_model(integral={"sde": False}), "with sde: False the method must be one of euler, midpoint"),
        (lambda: small_model(integral={"sde_options": {"adaptive": True}}), "adaptive False"),
        (lambda: small_model(encoder={"image_size": [8, 15]}), "multiples of 2, got 8 x 15"),
        (lambda: small_model(encoder={"n_downs": 0}), "n_downs must be from 1 to 8, got 0"),
    ):
        with pytest.raises(ValueError, match=match):
            wrong()
