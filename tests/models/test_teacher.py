"""Teacher, its bridge to the package's path, and the student's sampler: against closed forms."""

import pytest
import torch
from torch import Tensor

from drivedit.models import DiTStudent, DiTTeacher
from drivedit.models.dit.generation import truncated_noise
from drivedit.models.flow.parametrisations import alpha_products


def teacher(**changes) -> DiTTeacher:
    torch.manual_seed(0)
    options = dict(latent_dim=6, d_model=16, n_layers=2, n_heads=2, tokens_per_frame=4, control_dim=2)
    net = DiTTeacher(**{**options, **changes})
    for p in net.parameters():
        p.data.add_(0.1 * torch.randn(p.shape))
    return net.eval()


class Oracle(DiTTeacher):
    """Knows the clean clip, so it predicts the noise exactly."""

    def __init__(self, clean: Tensor, **changes) -> None:
        super().__init__(6, 16, 1, 2, **changes)
        self.clean = clean

    def forward(self, x: Tensor, timesteps: Tensor, control: Tensor | None = None, **told) -> Tensor:
        signal, spread = self._scales(x, timesteps)
        return (x - signal * self.clean) / spread


def test_schedules_begin_clean_and_end_in_noise():
    linear, cosine = alpha_products("linear", 1000), alpha_products("cosine", 1000)
    assert linear[0].item() == pytest.approx(1 - 1e-4) and linear[-1].sqrt().item() == pytest.approx(0.00635, abs=1e-5)
    middle = (torch.tensor(0.508 / 1.008 * torch.pi / 2).cos() / torch.tensor(0.008 / 1.008 * torch.pi / 2).cos()) ** 2
    assert cosine[499].item() == pytest.approx(middle.item(), rel=1e-5)  # Nichol and Dhariwal's closed form
    for steps in (20, 1000):
        for name in ("linear", "cosine"):
            alphas = alpha_products(name, steps)
            assert (alphas.diff() < 0).all() and alphas[-1] < 1e-3 and alphas[0] > 0.98
    with pytest.raises(ValueError, match="'linear' or 'cosine', got 'sigmoid'"):
        DiTTeacher(6, 16, 1, 2, beta_schedule="sigmoid")


def test_add_noise_keeps_the_variance():
    net, g = teacher(), torch.Generator().manual_seed(0)
    x, noise = (torch.randn(4, 5000, 6, generator=g) for _ in range(2))
    noisy = net.add_noise(x, noise, torch.tensor([0, 300, 700, 999]))
    assert torch.allclose(noisy[0], x[0], atol=0.06) and torch.allclose(noisy[3], noise[3], atol=0.05)
    assert torch.allclose(noisy.var((1, 2)), torch.ones(4), atol=0.04)  # five standard errors are 0.041
    for wrong in (torch.tensor([0, 0, 0, 1000]), torch.tensor([0, 0, 0, -1]), torch.zeros(4), torch.zeros(3).long()):
        with pytest.raises(ValueError, match="timesteps must be"):
            net.add_noise(x, noise, wrong)
    with pytest.raises(ValueError, match="noise must be"):
        net.add_noise(x, noise[:2], torch.zeros(4).long())


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_bridge_is_exact(schedule):
    """A perfect noise predictor of the chain gives the velocity of the package's path at the same state."""
    g = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(100, 4, 6, generator=g, dtype=torch.float64) for _ in range(2))
    net = Oracle(clean, beta_schedule=schedule)
    steps = torch.randint(0, 1000, (100,), generator=g)
    sigma = net.sigma(steps)[:, None, None]
    state = (1 - sigma) * clean + sigma * noise
    ratio = ((1 - net.alphas[steps]) / net.alphas[steps]).sqrt()
    chained = net.add_noise(clean, noise, steps) / (net.alphas[steps].sqrt() * (1 + ratio))[:, None, None]
    assert torch.allclose(chained, state, atol=1e-12)  # both paths pass through the same states
    assert (net.velocity(state, steps) - (noise - clean)).abs().max() < 1e-6
    assert (net.sigma(torch.arange(1000)).diff() > 0).all()


@pytest.mark.parametrize("num_steps", [1, 7, 1000])
def test_ddim_with_the_true_noise_returns_the_clip(num_steps):
    clean = torch.randn(2, 4, 6, dtype=torch.float64)
    net = Oracle(clean).double()
    assert torch.allclose(
        net.sample((2, 4, 6), num_steps, generator=torch.Generator().manual_seed(1)), clean, atol=1e-9
    )


@torch.no_grad()
def test_teacher_sees_past_and_future():
    net = teacher()
    x, t = torch.randn(2, 12, 6), torch.tensor([10, 500])
    changed = x.clone()
    changed[:, 8:] += 1
    moved = (net(changed, t) - net(x, t)).abs().amax((0, 2)).unflatten(0, (3, 4)).amax(1)
    assert (moved > 1e-4).all()
    assert not torch.allclose(net(x, t)[1], net(x, torch.tensor([10, 900]))[1])  # the step matters
    told = net(x, t, torch.zeros(2, 3, 2))
    assert not torch.allclose(told, net(x, t))  # zero controls are not untold ones


def test_guidance_is_linear_and_seeded():
    net = teacher()
    control = torch.ones(2, 3, 2)

    def draw(w: float, seed: int = 0, told: Tensor | None = control) -> Tensor:
        return net.sample((2, 12, 6), 1, w, control=told, generator=torch.Generator().manual_seed(seed))

    plain, conditional = draw(1.0, told=None), draw(1.0)
    assert torch.allclose(draw(3.0), plain + 3 * (conditional - plain), rtol=1e-3, atol=1e-2)  # values of about 100
    assert torch.equal(draw(2.0), draw(2.0)) and not torch.equal(draw(2.0), draw(2.0, seed=1))
    with pytest.raises(ValueError, match="needs control"):
        draw(2.0, told=None)
    with pytest.raises(ValueError, match="num_steps must be from 1 to 1000, got 0"):
        net.sample((2, 12, 6), 0)
    with pytest.raises(ValueError, match=r"control must be \[2, 3, 2\]"):
        net.sample((2, 12, 6), 2, control=torch.ones(2, 2, 2))


def test_a_trained_teacher_draws_the_data():
    """Tokens of two kinds, told by the control: samples have the data's mean and spread."""
    torch.manual_seed(0)
    net = DiTTeacher(1, 16, 1, 2, num_diffusion_steps=100, control_dim=1)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    g = torch.Generator().manual_seed(0)
    for _ in range(150):
        kind = torch.randint(0, 2, (128, 1, 1), generator=g).float() * 2 - 1
        clip = kind + 0.3 * torch.randn(128, 1, 1, generator=g)
        loss, logs = net.loss(clip, kind, generator=g)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert logs["velocity_mse"] == loss.detach()
    kind = torch.ones(500, 1, 1)
    drawn = net.eval().sample((500, 1, 1), 20, control=kind, generator=g)
    assert drawn.mean().item() == pytest.approx(1, abs=0.15) and drawn.std().item() == pytest.approx(0.3, abs=0.12)
    both = net.sample((500, 1, 1), 20, generator=g)  # untold: both kinds
    assert both.mean().abs() < 0.5 and both.std() > 0.7


def test_the_route_and_the_frames_before_the_clip_are_heard(tmp_path):
    net = teacher(history=2, route_dim=5 + 4 * 3, map_dim=3)
    x, steps = torch.randn(2, 12, 6), torch.tensor([200, 800])
    route, past, control = torch.randn(2, 3, 17), torch.randn(2, 12, 12), torch.zeros(2, 3, 2)
    out = net(x, steps, control, route=route, past=past)
    assert not torch.allclose(out, net(x, steps, control, route=route), atol=1e-3)
    assert not torch.allclose(out, net(x, steps, control, past=past), atol=1e-3)
    turned = route.clone()
    turned[:, 2] += 1  # of the last frame: a bidirectional network tells it to the first one
    assert not torch.allclose(
        out[:, :4], net(x, steps, torch.zeros(2, 3, 2), route=turned, past=past)[:, :4], atol=1e-3
    )
    net.save(tmp_path / "teacher.safetensors")
    again = DiTTeacher.load(tmp_path / "teacher.safetensors")
    assert again.config == net.config and torch.equal(again(x, steps, route=route), net(x, steps, route=route))
    g = [torch.Generator().manual_seed(0) for _ in range(2)]
    assert not torch.equal(
        net.sample((2, 12, 6), 2, past=past, generator=g[0]), net.sample((2, 12, 6), 2, generator=g[1])
    )
    (tmp_path / "bad").write_bytes((tmp_path / "teacher.safetensors").read_bytes()[:50])
    with pytest.raises(ValueError, match="bad is damaged"):
        DiTTeacher.load(tmp_path / "bad")


# -- the student's sampler ---------------------------------------------------------------------------------------


def student(**changes) -> DiTStudent:
    torch.manual_seed(0)
    options = dict(latent_dim=6, d_model=16, n_layers=2, n_heads=2, dropout=0.0, tokens_per_frame=4, control_dim=2)
    net = DiTStudent(**{**options, "window": 3, **changes})
    for p in net.parameters():
        p.data.add_(0.1 * torch.randn(p.shape))
    return net.eval()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("history", [0, 2])
def test_generate_continues_the_context(history):
    net, context = student(history=history), torch.randn(2, 20, 6)
    control = torch.randn(2, 8, 2)
    out = net.generate(context, 12, control=control, generator=seeded())
    assert out.shape == (2, 32, 6) and torch.equal(out[:, :20], context)
    assert torch.equal(out, net.generate(context, 12, control=control, generator=seeded()))
    assert not torch.equal(out, net.generate(context, 12, control=control, generator=seeded(1)))
    assert torch.equal(net.generate(context, 0), context)
    turned = control.clone()
    turned[:, 6] += 1  # leads to the second new frame
    other = net.generate(context, 12, control=turned, generator=seeded())
    assert torch.equal(other[:, :24], out[:, :24]) and not torch.allclose(other[:, 24:], out[:, 24:])


def test_generate_with_one_step_is_the_networks_own_estimate():
    """One pass from pure noise, on the clean context: what a pass over the whole clip gives."""
    net, context = student(), torch.randn(1, 8, 6)
    noise = torch.randn(1, 4, 6, generator=seeded())
    sigma = torch.tensor([[0.0, 0.0, 1.0]])
    with torch.no_grad():
        expected, _ = net(torch.cat([context, noise], 1), sigma=sigma)
    out = net.generate(context, 4, sampling_steps=1, generator=seeded())
    assert torch.allclose(out[:, 8:], expected[:, 8:], atol=1e-5)


def test_temperature_and_top_p_narrow_the_noise():
    net, context = student(), torch.randn(1, 4, 6)
    cold = [net.generate(context, 8, temperature=1e-7, generator=seeded(seed)) for seed in (0, 1)]
    assert torch.allclose(cold[0], cold[1], atol=1e-5)
    whole = net.generate(context, 8, generator=seeded())
    assert torch.equal(whole, net.generate(context, 8, top_p=1.0, generator=seeded()))
    assert not torch.allclose(whole, net.generate(context, 8, top_p=0.5, generator=seeded()))
    noise = truncated_noise((1, 100_000), 0.9, seeded())
    assert noise.abs().max() <= 1.6449 and noise.abs().max() > 1.64  # the central 90% of the normal distribution
    plain = truncated_noise((1, 100_000), None, seeded())
    inside = plain[plain.abs() < 1.6449]
    assert noise.std().item() == pytest.approx(inside.std().item(), abs=0.01)  # five standard errors
    assert (noise[0, plain[0].argsort()].diff() >= 0).all()  # the same draw, squeezed


def test_a_row_with_its_own_generator_is_the_same_alone():
    net, context = student(), torch.randn(3, 8, 6)
    together = net.generate(context, 8, generator=[seeded(5), seeded(6), seeded(7)])
    alone = net.generate(context[1:2], 8, generator=[seeded(6)])
    assert torch.allclose(together[1:2], alone, atol=1e-5)
    with pytest.raises(ValueError, match="each of 3 rows"):
        net.generate(context, 8, generator=[seeded()])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_new_tokens": -4}, "multiple of 4, at least 0, got -4"),
        ({"max_new_tokens": 6}, "multiple of 4, at least 0, got 6"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"temperature": float("nan")}, "temperature must be above 0"),
        ({"top_k": 5}, "top_k needs discrete tokens"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
        ({"top_p": 1.5}, r"top_p must be in \(0, 1\], got 1.5"),
        ({"sampling_steps": 0}, "sampling_steps must be at least 1"),
        ({"control": torch.zeros(1, 2, 2)}, r"control must be \[1, 3, control_dim\]"),
        ({"context": torch.zeros(1, 3, 6)}, r"context must be \[B, k \* 4, D\]"),
    ],
)
def test_generate_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        student().generate(**{"context": torch.zeros(1, 4, 6), "max_new_tokens": 8, **arguments})


def test_generate_names_a_cache_that_is_too_small():
    with pytest.raises(ValueError, match="1 [+] 2 frames do not fit into a cache of 2"):
        student(window=None, max_seq_len=8).generate(torch.zeros(1, 4, 6), 8)
