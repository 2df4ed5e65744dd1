"""Networks: causality, caches, positions."""

import pytest
import torch

from drivedit.models import VAE3D, DiTStudent
from drivedit.models.dit.generation import KVCache

AXES = {"k": 1, "v": 1, "clock": 0}  # of a cache's rows


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    net = VAE3D(3, 4, [8, 8, 16, 16], 1, True, 0.1)
    for p in net.parameters():
        p.data.add_(0.05 * torch.randn(p.shape))
    return net.eval()


def student(**changes) -> DiTStudent:
    torch.manual_seed(0)
    options = dict(latent_dim=6, d_model=16, n_layers=2, n_heads=2, dropout=0.0, tokens_per_frame=4, window=3)
    net = DiTStudent(**{**options, "control_dim": 2, "history": 1, "route_dim": 5, **changes})
    for p in net.parameters():
        p.data.add_(0.1 * torch.randn(p.shape))
    return net.eval()


def inputs(rows: int, frames: int, seed: int = 0) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    g = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(shape, generator=g)  # noqa: E731
    conditions = {"sigma": torch.rand(rows, frames, generator=g), "control": draw(rows, frames, 2)}
    return draw(rows, frames * 4, 6), {**conditions, "route": draw(rows, frames, 5), "past": draw(rows, frames * 4, 6)}


def frame(x: torch.Tensor, conditions: dict[str, torch.Tensor], index: int):
    tokens = slice(4 * index, 4 * index + 4)
    per_frame = {k: v[:, index : index + 1] for k, v in conditions.items() if k != "past"}
    return x[:, tokens], {**per_frame, "past": conditions["past"][:, tokens]}


@torch.no_grad()
def test_vae_keeps_time_and_never_looks_ahead(vae):
    x = torch.randn(1, 3, 6, 16, 24)
    changed = x.clone()
    changed[:, :, 4:] += 1
    mean, logvar = vae.encode(x)
    assert mean.shape == logvar.shape == (1, 4, 6, 2, 3)
    other, _ = vae.encode(changed)
    assert torch.equal(mean[:, :, :4], other[:, :, :4]) and not torch.allclose(mean[:, :, 4:], other[:, :, 4:])
    assert torch.equal(vae.decode(mean)[:, :, :4], vae.decode(other)[:, :, :4])
    assert not torch.allclose(vae.encode(x[:, :, 3:])[0][:, :, 0], mean[:, :, 3])  # the past matters
    assert vae.decode(vae.encode(x[:, :, :1])[0]).shape == (1, 3, 1, 16, 24)


@torch.no_grad()
def test_vae_objective_is_mse_plus_beta_divergence(vae):
    x, zero = torch.randn(2, 3, 1, 16, 16), torch.zeros(2, 4, 1, 2, 2)
    assert vae.loss_function(x, x, zero, zero) == 0
    expected = 0.25 + 0.1 * 0.5 * 4 * zero.numel() / x.numel()  # mean 2: divergence 2 per value
    assert vae.loss_function(x + 0.5, x, zero + 2, zero).item() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(vae.reparameterize(zero, zero), zero)  # the mean in evaluation mode


def test_vae_errors_name_the_shape(vae):
    with pytest.raises(ValueError, match="multiples of 8"):
        vae.encode(torch.zeros(1, 3, 1, 20, 16))
    with pytest.raises(ValueError, match=r"\[B, 4, T, h, w\]"):
        vae.decode(torch.zeros(1, 5, 1, 2, 2))
    with pytest.raises(ValueError, match=r"\[B, 3, T, H, W\]"):
        vae.encode(torch.zeros(1, 4, 1, 16, 16))
    with pytest.raises(ValueError, match="reconstruction must be"):
        vae.loss_function(torch.zeros(1, 3, 1, 8, 8), torch.zeros(1, 3, 2, 8, 8), torch.zeros(1), torch.zeros(1))
    with pytest.raises(ValueError, match="4 entries"):
        VAE3D(hidden_dims=[8, 16])


def test_a_lean_decoder_makes_frames_of_the_same_size():
    lean = VAE3D(3, 4, [8, 8, 16, 16], 1, False, decoder_dims=[4, 4, 8, 8])
    assert lean.decode(torch.zeros(1, 4, 2, 2, 3)).shape == (1, 3, 2, 16, 24)
    whole = VAE3D(3, 4, [8, 8, 16, 16], 1, False)
    count = {name: sum(p.numel() for p in net.decoder.parameters()) for name, net in (("lean", lean), ("whole", whole))}
    assert count["lean"] < count["whole"] / 2 and len(lean.encoder) == len(whole.encoder)


def test_vae_learns_one_clip_by_heart():
    torch.manual_seed(0)
    net = VAE3D(3, 8, [4, 8, 16, 32], 0, False, 1e-4)
    x = torch.nn.functional.interpolate(torch.rand(1, 3, 2, 2, 2), (2, 16, 16), mode="nearest") * 2 - 1
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    losses = []
    for _ in range(200):
        recon, mean, logvar = net(x)
        loss = net.loss_function(recon, x, mean, logvar)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        recon, *_ = net.eval()(x)
    assert (recon - x).square().mean() < 0.05 * x.var() and losses[-1] < 0.2 * losses[0]


@torch.no_grad()
@pytest.mark.parametrize("use_rope", [True, False])
def test_cached_frames_equal_the_whole_clip(use_rope):
    net, (x, conditions) = student(use_rope=use_rope), inputs(2, 9)
    whole, _ = net(x, **conditions)
    cache, parts = net.empty_cache(2), []
    for index in range(9):
        tokens, now = frame(x, conditions, index)
        net(tokens + 5, cache, **now)  # an earlier denoising pass leaves no trace
        parts.append(net(tokens, cache, True, **now)[0])
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-5)
    prefix = {k: v[:, : 5 * 4 if k == "past" else 5] for k, v in conditions.items()}
    _, cache = net(x[:, :20], None, True, **prefix)
    tokens, now = frame(x, conditions, 5)
    assert torch.allclose(net(tokens, cache, True, **now)[0], whole[:, 20:24], atol=1e-5)


@torch.no_grad()
def test_student_is_causal_and_its_window_ends():
    net, (x, conditions) = student(n_layers=1), inputs(1, 6)
    whole, _ = net(x, **conditions)
    changed = x.clone()
    changed[:, 8:12] += 1  # frame 2
    other, _ = net(changed, **conditions)
    moved = (other - whole).abs().amax((0, 2)).unflatten(0, (6, 4)).amax(1) > 1e-6
    assert moved.tolist() == [False, False, True, True, True, False]  # one layer: window of 3 frames


@pytest.mark.parametrize("window", [1, 2, 5, None])
def test_spans_of_queries_see_what_all_at_once_see(window):
    net, (x, conditions) = student(window=window, max_seq_len=64), inputs(2, 7)
    spans = net(x, **conditions)[0]
    whole = net(x, **conditions, frame_ids=torch.arange(7))[0]  # times that are told are looked at under one mask
    assert torch.allclose(spans, whole, atol=1e-6)
    weight = net.get_parameter("blocks.0.qkv.weight")
    slopes = [torch.autograd.grad(out.square().sum(), [weight])[0] for out in (spans, whole)]
    assert torch.allclose(slopes[0], slopes[1], atol=1e-5)


@torch.no_grad()
def test_positions_are_relative():
    net, (x, conditions) = student(n_layers=1), inputs(1, 4)
    outs = []
    for start in (0, 300_000):
        cache = net.empty_cache(1)
        cache.clock += start
        for index in range(4):
            tokens, now = frame(x, conditions, index)
            out, _ = net(tokens, cache, True, **now)
        outs.append(out)
    assert torch.allclose(outs[0], outs[1], atol=1e-4)
    other, _ = student(n_layers=1, rope_base=100.0, d_model=32)(x, **conditions)
    same, _ = student(n_layers=1, d_model=32)(x, **conditions)
    assert not torch.allclose(other, same, atol=1e-4)  # the base says how fast they turn


@torch.no_grad()
def test_batched_rows_with_different_histories_do_not_mix():
    net, (x, conditions) = student(), inputs(1, 5)
    alone, short = net.empty_cache(1), net.empty_cache(1)
    for index in range(4):
        tokens, now = frame(x, conditions, index)
        net(tokens, alone, True, **now)
    both = KVCache(*(torch.cat([getattr(c, name) for c in (alone, short)], axis) for name, axis in AXES.items()))
    tokens, now = frame(x, conditions, 4)
    out, _ = net(tokens.expand(2, -1, -1), both, True, **{k: v.expand(2, *v.shape[1:]) for k, v in now.items()})
    assert torch.allclose(out[0], net(tokens, alone, True, **now)[0][0], atol=1e-6)
    assert torch.allclose(out[1], net(tokens, short, True, **now)[0][0], atol=1e-6)


def test_student_errors():
    net, (x, _) = student(max_seq_len=16), inputs(1, 5)
    with pytest.raises(ValueError, match="max_seq_len = 16"):
        net(x)
    with pytest.raises(ValueError, match="one frame of 4 tokens"):
        net(x[:, :8], net.empty_cache(1))
    with pytest.raises(ValueError, match="tokens must be"):
        net(x[:, :3])
    with pytest.raises(ValueError, match="multiple of"):
        DiTStudent(d_model=30, n_heads=4)
    endless = student(window=None, max_seq_len=8)
    cache = endless.empty_cache(1)
    for _ in range(2):
        endless(x[:, :4], cache, True)
    with pytest.raises(ValueError, match="cache is full"):
        endless(x[:, :4], cache, True)
