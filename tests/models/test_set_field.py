"""The field on sets: equivariance, its modes, projections, masks and encoders."""

from itertools import product
from typing import Any

import pytest
import torch

from drivedit.models.sets.cnn import ASTWithProjectionHead, SpectrumCNN
from drivedit.models.sets.flow import SetFlow
from drivedit.models.sets.projections import KSinParamToTokenProjection, LearntProjection
from drivedit.models.sets.transformer import ApproxEquivTransformer

K = 4
ORDER = [2, 0, 3, 1]
BOTH = [*ORDER, *(K + place for place in ORDER)]  # of parameters in blocks


def make_field(projection: torch.nn.Module | None = None, **options: Any) -> ApproxEquivTransformer:
    told = {"num_layers": 2, "d_model": 16, "conditioning_dim": 6, "num_heads": 2, "d_ff": 24, "num_tokens": K}
    return ApproxEquivTransformer(projection or KSinParamToTokenProjection(16), **{**told, **options})


def shaken(field: ApproxEquivTransformer, scale: float = 0.3) -> ApproxEquivTransformer:
    """Nothing is zero any more, but what is frozen at zero."""
    rng = torch.Generator().manual_seed(1)
    for name, weight in field.named_parameters():
        if weight.requires_grad or not name.endswith("positions"):
            weight.data += scale * torch.randn(weight.shape, generator=rng)
    return field


def inputs(rows: int = 3, params: int = 2 * K, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    rng = torch.Generator().manual_seed(2)
    shapes = ((rows, params), (rows, 1), (rows, 6))
    return tuple(torch.rand(*shape, generator=rng).to(dtype) for shape in shapes)


@pytest.mark.parametrize("pe_type", ["initial", "layerwise", "none"])
def test_field_and_sampler_are_exactly_equivariant(pe_type):
    """With a fixed projection and frozen positions, in float64, to 1e-12; in the sampler with permuted noise."""
    field = shaken(make_field(pe_type=pe_type, learn_projection=True)).double()
    x, t, c = inputs()
    assert (field(x[:, BOTH], t, c) - field(x, t, c)[:, BOTH]).abs().max() < 1e-12
    assert (field(x, t, c) - x).abs().max() > 0.1 and (field(x, t, c)[:, BOTH] - field(x, t, c)).abs().max() > 0.01
    flow = SetFlow(torch.nn.Identity(), field)
    told, moved = (flow.sample(c, noise, 3, 2.0) for noise in (x, x[:, BOTH]))
    assert (moved - told[:, BOTH]).abs().max() < 1e-12


@pytest.mark.parametrize("pe_type", ["initial", "layerwise"])
def test_learnt_positions_break_the_symmetry(pe_type):
    field = shaken(make_field(pe_type=pe_type, learn_pe=True)).double()
    x, t, c = inputs()
    assert (field(x[:, BOTH], t, c) - field(x, t, c)[:, BOTH]).abs().max() > 1e-3


def test_what_is_not_learnt_is_frozen_and_the_rest_is_not():
    field = make_field(LearntProjection(16, 16, 2 * K, K))
    frozen = {name for name, weight in field.named_parameters() if not weight.requires_grad}
    assert {"positions", "projection.assignment", "projection.codes_in", "projection.codes_out"} <= frozen
    assert all(name.startswith(("projection.", "positions")) for name in frozen)
    learnt = make_field(LearntProjection(16, 16, 2 * K, K), learn_pe=True, learn_projection=True)
    assert all(weight.requires_grad for weight in learnt.parameters())


@pytest.mark.parametrize(("mode", "zero_init"), list(product(["basic", "zero", "res"], [True, False])))
def test_every_weight_of_a_layer_gets_a_gradient_within_three_steps(mode, zero_init):
    """The original's zero mode, with biases of zero, was a saddle that no gradient leaves."""
    field = make_field(adaln_mode=mode, zero_init=zero_init, learn_projection=True)
    for layer in field.layers:
        for name in ("qkv", "out", "up", "down"):
            torch.nn.init.zeros_(getattr(layer, name).bias)
    optimizer = torch.optim.SGD(field.parameters(), 0.1)
    x, t, c = inputs(dtype=torch.float32)
    moved: set[str] = set()
    for _ in range(3):
        optimizer.zero_grad()
        (field(x, t, c) - x).square().mean().backward()
        moved |= {name for name, weight in field.named_parameters() if weight.grad is not None and weight.grad.any()}
        optimizer.step()
    assert {name for name, _ in field.named_parameters()} - moved <= {"positions", "null"}


@pytest.mark.parametrize("mode", ["basic", "zero"])
def test_layers_start_as_the_identity(mode):
    field = make_field(adaln_mode=mode)
    x, t, c = inputs(dtype=torch.float32)
    projection: Any = field.projection
    assert torch.allclose(field(x, t, c), projection.token_to_param(projection.param_to_token(x)))
    twice = make_field(projection, adaln_mode=mode, outer_residual=True)
    assert torch.allclose(twice(x, t, c), projection.token_to_param(2 * projection.param_to_token(x)))


OPTIONS: list[dict[str, Any]] = [
    {"norm": "rms"}, {"skip_first_norm": True}, {"time_encoding": "sinusoidal", "d_enc": 8}, {"outer_residual": True}
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options_change_the_field_and_keep_its_shape(options):
    x, t, c = inputs(dtype=torch.float32)
    made = []
    for told in ({}, options):
        torch.manual_seed(0)
        made.append(shaken(make_field(**told))(x, t, c))
    assert made[1].shape == x.shape and not torch.allclose(*made, atol=1e-4)


def test_the_time_counts():
    x, t, c = inputs(dtype=torch.float32)
    for encoding in ("scalar", "sinusoidal"):
        field = shaken(make_field(time_encoding=encoding))
        assert (field(x, t, c) - field(x, t + 0.1, c)).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"norm": "batch"}, "norm must be one of layer, rms, got 'batch'"),
        ({"pe_type": "rotary"}, "pe_type must be one of initial, layerwise, none, got 'rotary'"),
        ({"adaln_mode": "one"}, "adaln_mode"),
        ({"time_encoding": "learnt"}, "time_encoding"),
        ({"num_heads": 3}, "num_heads must divide d_model.* 3 heads of 16"),
        ({"d_model": 32}, "tokens of 16 numbers, d_model is 32"),
    ],
)
def test_unknown_modes_and_sizes_that_do_not_fit_are_named(options, said):
    with pytest.raises(ValueError, match=said):
        make_field(**options)


def test_shapes_that_do_not_fit_are_named():
    x, t, c = inputs(dtype=torch.float32)
    with pytest.raises(ValueError, match="7 parameters do not divide into tokens of 2"):
        make_field()(x[:, :7], t, c)
    with pytest.raises(ValueError, match="gives 3 tokens, num_tokens is 4"):
        make_field()(x[:, :6], t, c)
    with pytest.raises(ValueError, match=r"t must be of shape \[3, 1\], got \[3\]"):
        make_field()(x, t[:, 0], c)
    with pytest.raises(ValueError, match=r"conditioning must be .* got \[3, 1, 5\]"):
        make_field()(x, t, c[:, :5])
    with pytest.raises(ValueError, match="made for 8 parameters, got 6"):
        LearntProjection(16, 16, 8, 4).param_to_token(x[:, :6])
    with pytest.raises(ValueError, match="initial_ffn or final_ffn d_token must equal d_model, got 8 and 16"):
        LearntProjection(16, 8, 8, 4, initial_ffn=False)


def test_conditions_for_each_layer_or_none():
    field = shaken(make_field())
    x, t, c = inputs(dtype=torch.float32)
    assert torch.allclose(field(x, t, c), field(x, t, c[:, None].expand(-1, 2, -1)), atol=1e-6)
    other = torch.stack([c, c + 1], 1)
    assert not torch.allclose(field(x, t, other), field(x, t, c), atol=1e-3)
    null = field.null.expand(len(x), -1)
    assert torch.allclose(field(x, t, None), field(x, t, null))
    assert torch.equal(field.apply_dropout(other, 1.0), field.null.expand(3, 2, -1))
    assert torch.equal(field.apply_dropout(other, 0.0), other)
    dropped = field.apply_dropout(torch.zeros(1000, 6), 0.3, rng=torch.Generator().manual_seed(0))
    whole = dropped.eq(field.null).all(1)
    assert 0.25 < whole.float().mean() < 0.35 and not dropped[~whole].any()


def test_penalties_are_those_of_positions_and_assignment():
    field = make_field(LearntProjection(16, 16, 8, K), learn_pe=True, pe_penalty=0.5, projection_penalty=2.0)
    projection: Any = field.projection
    assert field.penalty().item() == pytest.approx(2 * projection.assignment.abs().mean().item())
    field.penalty().backward()
    assert field.positions.grad is not None and field.positions.grad.isfinite().all()
    field.positions.data += 3.0
    assert field.penalty().item() == pytest.approx(2 * projection.assignment.abs().mean().item() + 0.5 * 3 * 16**0.5)
    assert make_field(pe_type="none", pe_penalty=1.0).penalty() == 0


def test_a_fresh_learnt_projection_treats_all_parameters_alike():
    projection = LearntProjection(64, 48, 8, K)
    tokens = projection.param_to_token(inputs(dtype=torch.float32)[0])
    scale = tokens.abs().max()
    assert (tokens - tokens[:, :1]).abs().max() < 1e-2 * scale
    out = projection.token_to_param(torch.randn(3, K, 64))
    assert (out - out[:, :1]).abs().max() < 1e-2 * out.abs().max()


def test_a_learnt_projection_can_be_the_fixed_one():
    fixed = KSinParamToTokenProjection(16)
    torch.nn.init.zeros_(fixed.into.bias)
    torch.nn.init.zeros_(fixed.back.bias)
    learnt = LearntProjection(16, 16, 2 * K, K, initial_ffn=False, final_ffn=False)
    learnt.assignment.data = torch.eye(K).repeat(1, 2)
    learnt.codes_in.data = fixed.into.weight.T.repeat_interleave(K, 0)
    learnt.codes_out.data = fixed.back.weight.repeat_interleave(K, 0)
    x = inputs(dtype=torch.float32)[0]
    assert torch.allclose(learnt.param_to_token(x), fixed.param_to_token(x), atol=1e-6)
    assert torch.allclose(learnt.token_to_param(fixed.into(x.view(3, K, 2))),
                          fixed.token_to_param(fixed.into(x.view(3, K, 2))), atol=1e-6)  # fmt: skip


def test_tokens_that_are_not_there_change_nothing():
    field = shaken(make_field(pe_type="none"))
    x, t, c = inputs(dtype=torch.float32)
    few = x.view(3, 2, K)[:, :, :2].flatten(1)
    mask = (torch.arange(K) < 2).expand(3, -1)
    padded, short = field(x, t, c, mask=mask), field(few, t, c)
    assert torch.allclose(padded.view(3, 2, K)[:, :, :2], short.view(3, 2, 2), atol=1e-6)
    assert not torch.allclose(field(x, t, c).view(3, 2, K)[:, :, :2], short.view(3, 2, 2), atol=1e-3)
    with pytest.raises(ValueError, match=r"mask must be of shape \[3, 4\], got \[3, 3\]"):
        field(x, t, c, mask=mask[:, :3])


def test_fixed_numbers_stand_beside_exchangeable_units():
    field = shaken(make_field(KSinParamToTokenProjection(16, fixed=3), num_tokens=K + 1)).double()
    x, t, c = inputs(params=3 + 2 * K)
    order = [0, 1, 2, *(3 + place for place in BOTH)]
    told = field(x, t, c)
    assert (field(x[:, order], t, c) - told[:, order]).abs().max() < 1e-12
    swapped = [1, 0, 2, *range(3, 3 + 2 * K)]
    assert (field(x[:, swapped], t, c) - told[:, swapped]).abs().max() > 1e-3


@pytest.mark.parametrize("length", [2, 17, 128])
def test_encoders_take_sizes_that_patches_do_not_fill(length):
    assert SpectrumCNN(length, 5, (4, 6), 8)(torch.randn(2, length)).shape == (2, 5)
    ast = ASTWithProjectionHead(8, 5, 2, 1, 4, 3, 2, (length, 11))
    spectrogram = torch.randn(2, 2, length, 11)
    assert ast(spectrogram).shape == (2, 5)
    last = spectrogram.clone()
    last[..., -1, -1] += 10  # is not cut off
    assert not torch.allclose(ast(last), ast(spectrogram))
    with pytest.raises(ValueError, match=r"got \[2, 2, \d+, 10\]"):
        ast(spectrogram[..., :-1])


def test_an_encoder_has_a_query_for_each_layer():
    many = ASTWithProjectionHead(8, 5, 2, 1, 4, 3, 1, (9, 9), n_queries=3)
    told = many(torch.randn(2, 1, 9, 9))
    assert told.shape == (2, 3, 5) and not torch.allclose(told[:, 0], told[:, 1])
    with pytest.raises(ValueError, match="patch_stride must be from 1 to 15, got 16"):
        ASTWithProjectionHead(patch_stride=16)
    with pytest.raises(ValueError, match="n_heads must divide"):
        ASTWithProjectionHead(d_model=10, n_heads=4)
