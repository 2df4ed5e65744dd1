"""Episodic memory: what it keeps, what it forgets, and that the student really sees it."""

import pytest
import torch

from drivedit.models import DiTStudent, MemoryBank
from drivedit.models.layers.attention import Recall, attention
from drivedit.models.layers.blocks import Block, norm


def directions(count: int, width: int = 16, seed: int = 0) -> torch.Tensor:
    """Orthogonal tokens, so that nothing merges."""
    q, _ = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(seed)))
    return q[:count]


def test_capacities_are_never_exceeded():
    bank = MemoryBank(64, max_spatial_memory=12, max_object_memory=5, similarity_threshold=0.9)
    g = torch.Generator().manual_seed(0)
    for frame in range(20):
        bank.update(torch.randn(2, 30, 64, generator=g), torch.rand(2, 30, generator=g), frame)
        assert len(bank._spatial[0].tokens) == 12 and len(bank._objects[0].tokens) == min(5, 3 * (frame + 1))
    kept = bank.retrieve(torch.randn(2, 64), top_k=100)
    assert 12 <= kept.shape[1] <= 17 and len(bank) == 17
    bank.clear()
    assert len(bank) == 0 and bank.retrieve(torch.zeros(3, 64)).shape == (3, 0, 64)


def test_what_is_alike_is_merged_into_a_running_mean():
    bank = MemoryBank(16)
    tokens, importance = directions(4)[None], torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    bank.update(tokens, importance)
    bank.update(tokens, importance)
    assert len(bank._spatial[0].tokens) == 4
    near = tokens[:, :1] + 0.3 * tokens[:, 1:2]  # cosine 0.96
    bank.update(near, torch.tensor([[0.9]]))
    entries = bank._spatial[0]
    assert len(entries.tokens) == 4
    nearest = (entries.tokens @ tokens[0, 0]).argmax()
    assert torch.allclose(entries.tokens[nearest], (2 * tokens[0, 0] + near[0, 0]) / 3, atol=1e-6)
    assert entries.importance[nearest] == pytest.approx(0.9) and entries.frame[nearest] == 2
    within = MemoryBank(16)
    within.update(tokens[:, :1].expand(1, 7, 16), torch.rand(1, 7))  # seven times the same in one frame
    assert len(within._spatial[0].tokens) == 1


def test_places_are_forgotten_with_age_and_objects_are_not():
    bank = MemoryBank(16, max_spatial_memory=2, max_object_memory=2, decay=0.5)
    a, b, c = directions(3)
    bank.update(a[None, None], torch.tensor([[1.0]]), 0)
    bank.update(b[None, None], torch.tensor([[0.3]]), 10)
    bank.update(c[None, None], torch.tensor([[0.2]]), 11)  # a is worth 2^-11 by now
    spatial, objects = bank._spatial[0].tokens, bank._objects[0].tokens
    assert (spatial @ a).abs().max() < 1e-5 and (objects @ a).max() > 0.99 and (objects @ c).abs().max() < 1e-5
    assert torch.allclose(bank.retrieve(a[None], 1)[0, 0], a, atol=1e-6)  # told from the objects


def test_retrieval_finds_the_planted_neighbour():
    bank, g = MemoryBank(64), torch.Generator().manual_seed(0)
    tokens = torch.randn(2, 100, 64, generator=g)
    bank.update(tokens, torch.rand(2, 100, generator=g))
    query = torch.stack([tokens[0, 37], tokens[1, 5]])
    found = bank.retrieve(query + 0.1 * torch.randn(2, 64, generator=g), top_k=3)
    assert found.shape == (2, 3, 64) and torch.allclose(found[:, 0], query, atol=1e-6)
    cosines = torch.cosine_similarity(found, query[:, None], dim=-1)
    assert (cosines.diff(dim=1) <= 0).all()  # the nearest first
    around = torch.stack([query + 1, query - 1], 1)  # the mean of several queries counts
    assert torch.allclose(bank.retrieve(around, 1)[:, 0], query, atol=1e-6)
    assert bank.retrieve(query, 1000).shape == (2, 100, 64)  # what is an object and a place is told once


def test_streams_do_not_mix():
    g = torch.Generator().manual_seed(0)
    first, second = torch.randn(1, 20, 64, generator=g), torch.randn(1, 20, 64, generator=g)
    second[:, 5:] = 0  # absent tokens: fewer entries than the other stream
    importance, query = torch.rand(2, 20, generator=g), torch.randn(2, 64, generator=g)
    both, alone = MemoryBank(64), [MemoryBank(64), MemoryBank(64)]
    both.update(torch.cat([first, second]), importance)
    for row, (bank, tokens) in enumerate(zip(alone, (first, second), strict=True)):
        bank.update(tokens, importance[row : row + 1])
    found = both.retrieve(query, 10)
    assert torch.equal(found[0], alone[0].retrieve(query[:1], 10)[0])
    assert torch.equal(found[1, :5], alone[1].retrieve(query[1:], 10)[0]) and not found[1, 5:].any()


@pytest.mark.parametrize(
    ("tokens", "importance", "frame", "message"),
    [
        (torch.ones(2, 3, 8), torch.ones(2, 3), None, r"spatial_tokens must be \[B, N, 16\]"),
        (torch.ones(2, 3, 16), torch.ones(2, 4), None, r"importance_scores must be \[2, 3\]"),
        (torch.full((2, 3, 16), torch.nan), torch.ones(2, 3), None, "must be finite"),
        (torch.ones(2, 3, 16), -torch.ones(2, 3), None, "at least 0"),
        (torch.ones(3, 3, 16), torch.ones(3, 3), None, "holds 2 streams, got 3"),
        (torch.ones(2, 3, 16), torch.ones(2, 3), 1, "at least 5, the last one, got 1"),
    ],
)
def test_memory_refuses(tokens, importance, frame, message):
    bank = MemoryBank(16)
    bank.update(torch.ones(2, 3, 16), torch.ones(2, 3), 5)
    with pytest.raises(ValueError, match=message):
        bank.update(tokens, importance, frame)
    with pytest.raises(ValueError, match="query must be"):
        bank.retrieve(torch.ones(2, 8))
    with pytest.raises(ValueError, match="holds 2 streams"):
        bank.retrieve(torch.ones(1, 16))
    with pytest.raises(ValueError, match="similarity_threshold"):
        MemoryBank(similarity_threshold=1.5)


# -- the student sees it -----------------------------------------------------------------------------------------


def student(**changes) -> DiTStudent:
    torch.manual_seed(0)
    options = dict(latent_dim=6, d_model=16, n_layers=2, n_heads=2, dropout=0.0, tokens_per_frame=4, window=3)
    net = DiTStudent(**{**options, **changes})
    for p in net.parameters():
        p.data.add_(0.1 * torch.randn(p.shape))
    return net.eval()


@torch.no_grad()
@pytest.mark.parametrize("use_rope", [True, False])
def test_memory_is_seen_and_absent_memory_is_not(use_rope):
    net, x = student(use_rope=use_rope), torch.randn(2, 20, 6)
    memory = torch.randn(2, 5, 16)
    plain, _ = net(x)
    seen, _ = net(x, memory=memory)
    assert not torch.allclose(plain, seen, atol=1e-3)
    assert torch.allclose(net(x, memory=torch.zeros(2, 5, 16))[0], plain, atol=1e-5)
    assert torch.allclose(net(x, memory=memory[:, :0])[0], plain, atol=1e-5)
    padded = torch.cat([memory, torch.zeros(2, 3, 16)], 1)
    assert torch.allclose(net(x, memory=padded)[0], seen, atol=1e-5)
    assert torch.allclose(net(x, memory=memory.flip(1))[0], seen, atol=1e-5)  # memories have no order
    with pytest.raises(ValueError, match=r"memory must be \[2, M, 16\]"):
        net(x, memory=memory[:1])


@torch.no_grad()
def test_one_softmax_over_frames_and_memory():
    """The hand-made sum for one layer, where positions play no part."""
    net, memory = student(n_layers=1, n_heads=1), torch.randn(1, 3, 16)
    block = net.blocks[0]
    assert isinstance(block, Block)
    q, k, v = block.qkv(norm(memory)).chunk(3, -1)
    q, k = norm(q), norm(k)
    mine, recalled = slice(0, 1), slice(1, 3)
    whole = ((q[:, mine] @ k.transpose(1, 2)) / 4).softmax(-1) @ v
    recall = Recall(k[:, None, recalled], v[:, None, recalled], torch.ones(1, 2, dtype=torch.bool))
    mine_q, mine_k, mine_v = (t[:, None, mine] for t in (q, k, v))
    assert torch.allclose(attention(mine_q, mine_q, mine_k, mine_v, None, recall)[:, 0], whole, atol=1e-6)
    half = mine_q.bfloat16()
    low = attention(half, half, mine_k.bfloat16(), mine_v.bfloat16(), None, recall)[:, 0].float()
    assert torch.allclose(low, whole, atol=3e-2)  # the matrix products of the CPU's bfloat16 path


@torch.no_grad()
def test_cache_and_clip_see_the_same_memory():
    net, x, memory = student(), torch.randn(2, 24, 6), torch.randn(2, 5, 16)
    memory[1, 3:] = 0
    whole, _ = net(x, memory=memory)
    for start in (0, 100_000):  # and memory has no place in time
        cache = net.empty_cache(2)
        cache.clock += start
        parts = [net(x[:, at : at + 4], cache, True, memory=memory)[0] for at in range(0, 24, 4)]
        if not start:
            assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-5)
        else:
            assert torch.allclose(torch.cat(parts[3:], 1), whole[:, 12:], atol=1e-3)


def test_a_student_learns_to_use_what_only_memory_knows():
    """The last frame is what was seen long before the window; only the memory bank can tell."""
    torch.manual_seed(0)
    net = DiTStudent(4, 16, 1, 2, dropout=0.0, tokens_per_frame=1, window=2)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    bank, g = MemoryBank(16), torch.Generator().manual_seed(0)
    places = torch.randn(256, 4, generator=g)
    tokens = torch.cat([places, torch.zeros(256, 12)], -1)
    bank.update(tokens[:, None], torch.ones(256, 1))
    memory, target = bank.retrieve(tokens), torch.nn.functional.layer_norm(places, (4,))

    def error(rows: slice, memory: torch.Tensor | None) -> torch.Tensor:
        out, _ = net(torch.randn(len(target[rows]), 2, 4, generator=g), memory=memory)
        return (out[:, -1] - target[rows]).square().mean()

    for _ in range(150):
        loss = error(slice(192), memory[:192])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    unseen = slice(192, 256)
    assert error(unseen, memory[unseen]) < 0.2 and error(unseen, None) > 0.8  # the target's variance is 1


@torch.no_grad()
def test_targets_beside_their_clean_frames():
    """`frame_ids`: a noisy target beside a clean frame sees the clean past only, and no clean frame sees it."""
    net, clean, noisy = student(), torch.randn(1, 16, 6), torch.randn(1, 12, 6)
    sigma = torch.tensor([[0.0, 0, 0, 0, 0.7, 0.8, 0.9]])
    ids = torch.tensor([0, 1, 2, 3, 1, 2, 3])
    both, _ = net(torch.cat([clean, noisy], 1), sigma=sigma, frame_ids=ids)
    alone, _ = net(clean)
    assert torch.allclose(both[:, :16], alone, atol=1e-6)
    for index in (1, 2, 3):
        x = torch.cat([clean[:, : 4 * index], noisy[:, 4 * index - 4 : 4 * index]], 1)
        levels = torch.cat([torch.zeros(1, index), sigma[:, 3 + index, None]], 1)
        expected, _ = net(x, sigma=levels)
        assert torch.allclose(both[:, 12 + 4 * index : 16 + 4 * index], expected[:, -4:], atol=1e-5)
    with pytest.raises(ValueError, match="whole clips"):
        net(clean, None, True, frame_ids=torch.arange(4))
    with pytest.raises(ValueError, match=r"frame_ids must be \[4\]"):
        net(clean, frame_ids=torch.arange(3))
