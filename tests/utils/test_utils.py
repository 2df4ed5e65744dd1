"""The small helpers: what they compute, against closed forms and oracles, and what they refuse."""

import math
import random
from collections import namedtuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from drivedit import utils
from drivedit.utils import files


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(self.first(x)))


def make_net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


def test_every_published_name_is_exported():
    published = (
        "safe_cat safe_stack pad_sequence chunk_tensor move_to_device tensor_memory_usage normalize_tensor "
        "count_parameters freeze_parameters get_device set_seed initialize_weights clip_gradients get_gradient_norm "
        "save_checkpoint load_checkpoint exponential_moving_average get_model_size_mb gaussian_kernel stable_softmax "
        "cosine_similarity_matrix pairwise_distance_matrix finite_difference_gradient laplacian gumbel_noise "
        "gumbel_softmax"
    ).split()
    assert set(published) <= set(utils.__all__)
    assert all(callable(getattr(utils, name)) for name in utils.__all__ if name != "UNBOUNDED")


# -- tensors -----------------------------------------------------------------------------------------------------------


def test_joining_leaves_out_what_is_not_there():
    a, b = torch.ones(2, 3), torch.zeros(1, 3)
    assert utils.safe_cat([a, None, b]).tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 0]]
    assert utils.safe_stack([a, None, a], dim=1).shape == (2, 2, 3)
    assert utils.safe_cat([]).shape == utils.safe_stack([None]).shape == (0,)
    with pytest.raises(ValueError, match=r"\[\[2, 3\], \[1, 4\]\]"):
        utils.safe_cat([a, torch.zeros(1, 4)])
    with pytest.raises(ValueError, match="do not fit"):
        utils.safe_stack([a, b])


def test_padding_keeps_the_sequences_and_fills_the_rest():
    padded = utils.pad_sequence([torch.tensor([1.0, 2, 3]), torch.tensor([4.0])], padding_value=-7)
    assert padded.tolist() == [[1, 2, 3], [4, -7, -7]]
    assert utils.pad_sequence([torch.ones(3, 2), torch.ones(1, 2)], batch_first=False).shape == (3, 2, 2)
    assert utils.pad_sequence([]).shape == (0,)
    with pytest.raises(ValueError, match="equal other axes"):
        utils.pad_sequence([torch.ones(3, 2), torch.ones(3, 1)])


@pytest.mark.parametrize(("size", "chunk", "overlap"), [(10, 4, 0), (10, 4, 1), (10, 4, 3), (3, 5, 2), (8, 4, 0)])
def test_chunks_cover_everything_once_beyond_their_overlap(size, chunk, overlap):
    whole = torch.arange(2 * size).view(2, size)
    chunks = utils.chunk_tensor(whole, chunk, dim=1, overlap=overlap)
    assert all(c.shape[1] == chunk for c in chunks[:-1]) and 0 < chunks[-1].shape[1] <= chunk
    joined = torch.cat([chunks[0], *(c[:, overlap:] for c in chunks[1:])], 1)
    assert torch.equal(joined, whole)


def test_chunk_sizes_are_checked():
    for chunk, overlap in ((0, 0), (4, 4), (4, -1)):
        with pytest.raises(ValueError, match=f"chunk_size={chunk}, overlap={overlap}"):
            utils.chunk_tensor(torch.ones(8), chunk, overlap=overlap)
    assert utils.chunk_tensor(torch.ones(0, 2), 3) == []


def test_moving_goes_into_containers_and_cuda_falls_back(caplog, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    pair = namedtuple("pair", "left right")
    x = torch.ones(2)
    moved = utils.move_to_device({"a": [x, (x, "text")], "b": pair(x, None), "c": nn.Linear(2, 2)}, "cuda")
    assert len([r for r in caplog.records if "cuda" in r.message]) == 1
    assert moved["a"][1][1] == "text" and moved["b"].right is None and moved["a"][0].device.type == "cpu"
    meta = utils.move_to_device([x, {"y": x}], torch.device("meta"))
    assert meta[0].is_meta and meta[1]["y"].is_meta and not x.is_meta


def test_sizes_and_lengths():
    assert utils.tensor_memory_usage(torch.zeros(2**18)) == 1.0
    assert utils.tensor_memory_usage(torch.zeros(2**18, dtype=torch.float16)) == 0.5
    x = torch.randn(4, 6, 3)
    assert torch.allclose(utils.normalize_tensor(x).norm(dim=-1), torch.ones(4, 6))
    assert torch.allclose(utils.normalize_tensor(x, dim=1).norm(dim=1), torch.ones(4, 3))
    assert torch.equal(utils.normalize_tensor(torch.zeros(2, 3)), torch.zeros(2, 3))


# -- modules -----------------------------------------------------------------------------------------------------------


def test_counting_freezing_and_size():
    net = make_net()
    weights = 3 * 5 + 5 + 5 + 5 + 5 * 2 + 2
    assert utils.count_parameters(net) == weights
    utils.freeze_parameters(net.first)
    assert utils.count_parameters(net) == weights - 20 and utils.count_parameters(net, False) == weights
    utils.freeze_parameters(net.first, freeze=False)
    assert utils.count_parameters(net) == weights
    buffers = 4 * 5 + 4 * 5 + 8  # running mean and variance in float32, the counter in int64
    assert utils.get_model_size_mb(net) == pytest.approx((4 * weights + buffers) / 2**20)
    net.first.weight = nn.Parameter(torch.zeros(2, 5))
    net.last.weight = net.first.weight
    assert utils.count_parameters(net) == weights - 15, "shared weights count once"


def test_device_of_a_module():
    assert utils.get_device(nn.Linear(1, 1).to("meta")).type == "meta"
    assert utils.get_device(nn.ReLU()).type == "cpu"
    assert utils.get_device(nn.BatchNorm1d(2, affine=False, device="meta")).type == "meta"


def test_a_seed_repeats_every_global_generator():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    utils.set_seed(5)
    first = draw()
    utils.set_seed(5)
    assert draw() == first
    utils.set_seed(6)
    assert all(a != b for a, b in zip(draw(), first, strict=True))


@pytest.mark.parametrize(
    ("kind", "spread"), [("xavier", (2 / 1200) ** 0.5), ("kaiming", (2 / 800) ** 0.5), ("normal", 0.02)]
)
def test_initial_weights_have_the_spread_of_their_paper(kind, spread):
    linear, norm, conv = nn.Linear(800, 400), nn.LayerNorm(400), nn.Conv2d(8, 8, 3)
    utils.initialize_weights(nn.Sequential(linear, norm, conv), kind, gain=1.5)
    assert linear.weight.std().item() == pytest.approx(1.5 * spread, rel=0.02)  # 320,000 draws: rel. error .0013
    assert not linear.bias.any() and conv.bias is not None and not conv.bias.any() and (norm.weight == 1).all()


def test_orthogonal_weights_and_unknown_kinds():
    net = nn.Linear(6, 6)
    utils.initialize_weights(net, "orthogonal", gain=2.0)
    assert torch.allclose(net.weight @ net.weight.T, 4 * torch.eye(6), atol=1e-5)
    with pytest.raises(ValueError, match="'he'"):
        utils.initialize_weights(net, "he")


def test_gradients_are_measured_and_clipped():
    net = nn.Linear(2, 1, bias=False)
    assert utils.get_gradient_norm(net) == 0.0 and utils.clip_gradients(net) == 0.0
    net.weight.grad = torch.tensor([[3.0, 4.0]])
    assert utils.get_gradient_norm(net) == pytest.approx(5)
    assert utils.clip_gradients(net, 10.0) == pytest.approx(5) and utils.get_gradient_norm(net) == pytest.approx(5)
    assert utils.clip_gradients(net, 2.0) == pytest.approx(5)
    assert utils.get_gradient_norm(net) == pytest.approx(2, rel=1e-4)
    with pytest.raises(ValueError, match="max_norm"):
        utils.clip_gradients(net, 0.0)


def train_step(net, optimizer, seed):
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    net(x).square().mean().backward()
    optimizer.step()


def test_a_checkpoint_continues_as_if_nothing_had_happened(tmp_path):
    net = make_net()
    optimizer = torch.optim.Adam(net.parameters(), 0.1)
    train_step(net, optimizer, 0)
    path = tmp_path / "new" / "net.pt"
    utils.save_checkpoint(net, optimizer, 3, 0.25, str(path), note="x", seen=[1, {"k": torch.ones(2)}])
    train_step(net, optimizer, 1)

    other = make_net(1)
    second = torch.optim.Adam(other.parameters(), 0.1)
    rest = utils.load_checkpoint(str(path), other, second)
    assert rest["epoch"] == 3 and rest["loss"] == 0.25 and rest["note"] == "x" and rest["seen"][1]["k"].sum() == 2
    assert set(rest) == {"epoch", "loss", "note", "seen"}
    train_step(other, second, 1)
    for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert [p.name for p in path.parent.iterdir()] == ["net.pt"]


def test_checkpoints_that_do_not_fit_are_named(tmp_path):
    net, path = make_net(), tmp_path / "net.pt"
    utils.save_checkpoint(net, None, 0, 0.0, path)
    with pytest.raises(KeyError, match="optimizer"):
        utils.load_checkpoint(path, net, torch.optim.SGD(net.parameters(), 0.1))
    with pytest.raises(RuntimeError, match="another model"):
        utils.load_checkpoint(path, nn.Linear(2, 2))
    with pytest.raises(FileNotFoundError, match=r"none\.pt"):
        utils.load_checkpoint(tmp_path / "none.pt", net)
    with pytest.raises(ValueError, match="'run' holds a object"):
        utils.save_checkpoint(net, None, 0, 0.0, path, run={"x": object()})
    path.write_bytes(b"no checkpoint")
    with pytest.raises(RuntimeError, match="damaged"):
        utils.load_checkpoint(path, net)
    torch.save([1, 2], path)
    with pytest.raises(KeyError, match="lacks"):
        utils.load_checkpoint(path, net)


def test_a_checkpoint_from_elsewhere_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (exec, ("open('hacked', 'w').close()",))

    path = tmp_path / "evil.pt"
    torch.save({"model": Evil()}, path)
    with pytest.raises(RuntimeError, match="more than plain values"):
        utils.load_checkpoint(path, make_net())


def test_a_write_that_fails_keeps_the_old_file(tmp_path, monkeypatch):
    net, path = make_net(), tmp_path / "net.pt"
    utils.save_checkpoint(net, None, 0, 0.0, path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        utils.save_checkpoint(make_net(1), None, 1, 0.0, path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["net.pt"]


def test_averaged_weights_follow_and_buffers_are_copied():
    net, averaged = make_net(0), make_net(1)
    net(torch.randn(16, 3))
    start, goal = averaged.first.weight.clone(), net.first.weight
    for _ in range(3):
        utils.exponential_moving_average(net, averaged, decay=0.9)
    assert torch.allclose(averaged.first.weight, 0.9**3 * start + (1 - 0.9**3) * goal, atol=1e-6)
    buffers, copied = dict(net.named_buffers()), dict(averaged.named_buffers())
    assert buffers["norm.running_mean"].any() and buffers["norm.num_batches_tracked"] == 1
    assert all(torch.equal(copied[name], value) for name, value in buffers.items())
    with pytest.raises(ValueError, match="architecture"):
        utils.exponential_moving_average(net, nn.Linear(3, 5))
    with pytest.raises(ValueError, match="1.1"):
        utils.exponential_moving_average(net, averaged, decay=1.1)


# -- mathematics -------------------------------------------------------------------------------------------------------


def test_gaussian_kernel():
    kernel = utils.gaussian_kernel(5, 1.2, torch.device("cpu"))
    assert kernel.sum().item() == pytest.approx(1) and torch.equal(kernel, kernel.T)
    assert (kernel[2, 3] / kernel[2, 2]).item() == pytest.approx(math.exp(-0.5 / 1.2**2), rel=1e-5)
    assert utils.gaussian_kernel(4, 1.2).shape == (5, 5)
    with pytest.raises(ValueError, match="sigma=0"):
        utils.gaussian_kernel(5, 0)


def test_softmax_is_stable():
    x = torch.randn(4, 7)
    assert torch.allclose(utils.stable_softmax(x, temperature=0.5), (x / 0.5).softmax(-1), atol=1e-6)
    huge = utils.stable_softmax(torch.tensor([3e38, 3e38, -3e38]), temperature=1e-6)
    assert torch.allclose(huge, torch.tensor([0.5, 0.5, 0.0]))
    with pytest.raises(ValueError, match="temperature"):
        utils.stable_softmax(x, temperature=0.0)


def test_similarities_and_distances():
    x, y = torch.randn(4, 3), torch.randn(5, 3)
    assert torch.allclose(
        utils.cosine_similarity_matrix(x, y), F.cosine_similarity(x[:, None], y[None], dim=-1), atol=1e-6
    )
    for p in (1, 2, 3):
        expected = torch.linalg.vector_norm(x[:, None] - y[None], p, dim=-1)
        assert torch.allclose(utils.pairwise_distance_matrix(x, y, p), expected, atol=1e-6)
    far = torch.randn(40, 3) + 1e4
    assert (utils.pairwise_distance_matrix(far, far).diagonal() == 0).all(), "exact where points coincide"
    with pytest.raises(ValueError, match=r"\[5, 2\]"):
        utils.cosine_similarity_matrix(x, torch.randn(5, 2))


def test_derivatives_of_polynomials_are_exact():
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(7.0), indexing="ij")
    picture = (3 * y + 0.5 * x**2)[None, None]
    grad_y, grad_x = utils.finite_difference_gradient(picture)
    assert torch.allclose(grad_y, torch.full_like(picture, 3))
    assert torch.allclose(grad_x[..., 1:-1], x[None, None, :, 1:-1])  # one-sided at the edges
    second = utils.laplacian(picture)
    assert torch.allclose(second[..., 1:-1, 1:-1], torch.ones(1, 1, 4, 5))
    assert not utils.laplacian(torch.full((2, 5, 5), 4.0)).any(), "flat up to the edge"
    shifted = torch.roll(torch.eye(6), 1, 0)
    assert utils.laplacian(shifted).sum().abs() < 1e-5, "replicated edges: nothing flows out"
    with pytest.raises(ValueError, match=r"\[1, 5\]"):
        utils.finite_difference_gradient(torch.ones(1, 5))


def test_gumbel_noise_and_its_samples():
    rng = torch.Generator().manual_seed(0)
    noise = utils.gumbel_noise((200_000,), torch.device("cpu"), generator=rng)
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.015)  # five standard errors: .0143
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.05)
    shares = torch.tensor([0.2, 0.5, 0.3])
    logits = shares.log().expand(50_000, 3)
    hard = utils.gumbel_softmax(logits, hard=True, generator=rng)
    assert ((hard == 0) | (hard == 1)).all() and (hard.sum(-1) == 1).all()
    assert torch.allclose(hard.mean(0), shares, atol=0.012)  # five standard errors: .0112
    again = utils.gumbel_noise((4,), generator=torch.Generator().manual_seed(1))
    assert torch.equal(again, utils.gumbel_noise((4,), generator=torch.Generator().manual_seed(1)))


def test_gumbel_samples_pass_gradients_and_follow_the_temperature():
    logits = torch.randn(6, 4, requires_grad=True)
    weights = torch.randn(6, 4)
    gradients = []
    for hard in (False, True):
        rng = torch.Generator().manual_seed(3)
        out = utils.gumbel_softmax(logits, 0.7, hard, generator=rng)
        gradients.append(torch.autograd.grad((out * weights).sum(), logits)[0])
    assert torch.allclose(*gradients) and gradients[0].abs().max() > 0
    cold = utils.gumbel_softmax(logits, 1e-3, generator=torch.Generator().manual_seed(3))
    warm = utils.gumbel_softmax(logits, 1e3, generator=torch.Generator().manual_seed(3))
    assert (cold.amax(-1) > 0.99).all() and torch.allclose(warm, torch.full_like(warm, 0.25), atol=0.01)
