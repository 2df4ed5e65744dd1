"""The published training steps: what they compute, step by step, and each way in which others got it wrong."""

import copy
from dataclasses import replace
from itertools import repeat
from typing import Any

import pytest
import torch
from helpers.processes import run_processes
from torch import Tensor, nn

from drivedit.config import MODEL_TYPES
from drivedit.models.dits import TRANSFORMERS
from drivedit.models.flow.phases import EulerSolver, PCMFMScheduler
from drivedit.models.flow.schedules import training_levels
from drivedit.training.api import distill, train
from drivedit.training.api.distill_adv import gan_d_loss, gan_g_loss, pooled_scores
from drivedit.training.methods.text_video import Words, velocity_of

LATENTS, TEXT = (3, 2, 4, 4), (5, 6)  # C, T, h, w; L, D


class Tiny(nn.Module):
    """A transformer by its call alone."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.of_latents, self.of_text, self.of_time = nn.Linear(3, 3), nn.Linear(6, 3), nn.Linear(1, 3)
        self.calls: list[Tensor] = []

    def forward(self, latents: Tensor, text: Tensor, t: Tensor) -> Tensor:
        self.calls.append(t)
        told = self.of_text(text).mean(1) + self.of_time(t[:, None] / 1000)
        return self.of_latents(latents.movedim(1, -1)).movedim(-1, 1) + told[..., None, None, None]


class Exact(nn.Module):
    """The velocity of the flow to one number, with a weight that does nothing."""

    def __init__(self, clean: float = 0.3) -> None:
        super().__init__()
        self.clean, self.weight = clean, nn.Parameter(torch.zeros(()))

    def forward(self, latents: Tensor, text: Tensor, t: Tensor) -> Tensor:
        sigma = (t / 1000).clamp(min=1e-9)[:, None, None, None, None]
        return (latents - self.clean) / sigma + 0 * self.weight


def batch(rows: int = 4, seed: int = 0, constant: float | None = None) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    latents, text = torch.randn(rows, *LATENTS, generator=g), torch.randn(rows, *TEXT, generator=g)
    return (latents if constant is None else torch.full_like(latents, constant)), text


def fine_tune(network: nn.Module, batches, lr: float = 0.0, seed: int = 0, **changes):
    options = {
        "gradient_accumulation_steps": 1, "sp_size": 1, "precondition_outputs": False, "max_grad_norm": 1e9,
        "weighting_scheme": "uniform", "logit_mean": None, "logit_std": None, "mode_scale": None, "model_type": "mochi",
    } | changes  # fmt: skip
    return train.train_one_step(
        network, optimizer=torch.optim.SGD(network.parameters(), lr), lr_scheduler=None, loader=iter(batches),
        noise_scheduler=PCMFMScheduler(pcm_timesteps=1000), noise_random_generator=torch.Generator().manual_seed(seed),
        **options,
    )  # fmt: skip


def distil(student: nn.Module, teacher: nn.Module, target, batches, lr: float = 0.0, seed: int = 0, **changes):
    points = changes.get("num_euler_timesteps", 50)
    options = {
        "model_type": "mochi", "gradient_accumulation_steps": 1, "sp_size": 1, "max_grad_norm": 1e9,
        "uncond_prompt_embed": torch.zeros(TEXT), "uncond_prompt_mask": None, "num_euler_timesteps": points,
        "multiphase": 1, "not_apply_cfg_solver": False, "distill_cfg": 0.0, "ema_decay": 0.9, "pred_decay_weight": 0.0,
        "pred_decay_type": "l1", "hunyuan_teacher_disable_cfg": False,
    } | changes  # fmt: skip
    return distill.distill_one_step(
        student, teacher_transformer=teacher, ema_transformer=target,
        optimizer=torch.optim.SGD(student.parameters(), lr), lr_scheduler=None, loader=iter(batches),
        noise_scheduler=None, solver=EulerSolver(training_levels(1000, 3.0), 1000, points),
        noise_random_generator=torch.Generator().manual_seed(seed), **options,
    )  # fmt: skip


# -- fine-tuning -----------------------------------------------------------------------------------------------------


def test_the_exact_velocity_has_no_loss_and_the_level_is_told_times_1000():
    loss, norm = fine_tune(Exact(), [batch(constant=0.3)])
    assert loss < 1e-8 and norm == pytest.approx(0, abs=1e-6) and isinstance(loss, float) and isinstance(norm, float)
    network = Tiny()
    fine_tune(network, [batch(64)])
    (told,) = network.calls
    assert told.shape == (64,) and 0 < told.min() < 200 and 800 < told.max() <= 1000


def test_a_clean_estimate_is_the_velocity_weighted_by_the_square_of_the_level():
    found = []
    for precondition in (False, True):
        network = Tiny()
        loss, _ = fine_tune(network, [batch(1)], precondition_outputs=precondition)
        found.append((loss, network.calls[0].item() / 1000))
    (velocity, level), (clean, same) = found
    assert level == same and clean == pytest.approx(level**2 * velocity, rel=1e-5)


def test_small_batches_take_the_step_of_a_large_one():
    """The norm is of their mean gradient, and clips are given the same noise however they are split."""
    latents, text = batch(6)
    whole, parts = Tiny(), Tiny()
    one = fine_tune(whole, [(latents, text)], lr=0.1)
    split = [(latents[at : at + 2], text[at : at + 2]) for at in (0, 2, 4)]
    two = fine_tune(parts, split, lr=0.1, gradient_accumulation_steps=3)
    assert one == pytest.approx(two, rel=1e-5)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        fine_tune(Tiny(), [batch()], gradient_accumulation_steps=0)


def test_the_gradient_is_clipped_and_told_as_it_was():
    network = Tiny()
    before = [weight.detach().clone() for weight in network.parameters()]
    _, norm = fine_tune(network, [batch()], lr=1.0, max_grad_norm=1e-3)
    moved = torch.stack([(a - b).norm() for a, b in zip(before, network.parameters(), strict=True)]).norm()
    assert norm > 0.1 and moved.item() == pytest.approx(1e-3, rel=1e-3)


def test_densities_place_levels_noise_first():
    """Near place 0 of the list there is noise: a density that leans there is trained at high levels."""
    network = Tiny()
    fine_tune(network, [batch(200)], weighting_scheme="logit_normal", logit_mean=-2.0, logit_std=0.3)
    assert network.calls[0].mean() > 800
    with pytest.raises(ValueError, match="logit_normal needs"):
        fine_tune(Tiny(), [batch()], weighting_scheme="logit_normal")
    with pytest.raises(ValueError, match="one of uniform, logit_normal, mode"):
        fine_tune(Tiny(), [batch()], weighting_scheme="cosine")
    with pytest.raises(ValueError, match="one of mochi, hunyuan, hunyuan_hf, wan, got 'sora'"):
        fine_tune(Tiny(), [batch()], model_type="sora")


def test_words_that_are_masked_are_not_told():
    latents, text = batch(2)
    mask = torch.tensor([[1, 1, 0, 0, 0]]).expand(2, -1)
    other = torch.where(mask[..., None].bool(), text, torch.randn(text.shape))
    network = Tiny()
    told = [velocity_of(network, latents, torch.ones(2), Words(words, mask)) for words in (text, other)]
    assert torch.equal(*told) and not torch.equal(told[0], velocity_of(network, latents, torch.ones(2), Words(text)))

    class Masked(Tiny):
        def forward(self, latents, text, t, encoder_attention_mask=None, guidance=None):
            self.seen: Any = encoder_attention_mask, guidance
            return super().forward(latents, text, t)

    network = Masked()
    velocity_of(network, latents, torch.ones(2), Words(text, mask, 6.0))
    assert torch.equal(network.seen[0], mask) and network.seen[1].tolist() == [6, 6]
    assert fine_tune(network, [(latents, text, mask)])[0] > 0


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_our_transformers_are_trained_by_the_steps(kind):
    sizes = replace(MODEL_TYPES[kind], d_model=8, n_layers=1, n_heads=1, text_dim=6, grid=(2, 2))
    torch.manual_seed(0)
    student, teacher = (TRANSFORMERS[kind].from_config(sizes) for _ in range(2))
    latents, text = torch.randn(2, sizes.in_channels, 2, 4, 4), torch.randn(2, *TEXT)
    given = latents, text, torch.tensor([[1, 1, 1, 0, 0]]).expand(2, -1)
    before = student.trunk.head.bias.detach().clone()
    assert fine_tune(student, [given], lr=0.1, model_type=kind)[0] > 0
    loss, norm, _ = distil(student, teacher, None, [given], model_type=kind, distill_cfg=1.0)
    assert loss > 0 and norm > 0 and not torch.equal(student.trunk.head.bias, before)


# -- in several processes --------------------------------------------------------------------------------------------


def levels_of_two(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo")
    network = Heads()
    fine_tune(network, [batch()], seed=rank, sp_size=2)  # each draws others, and both take the first one's
    told = [torch.zeros(4) for _ in range(2)]
    torch.distributed.all_gather(told, network.calls[0])
    assert torch.equal(*told) and told[0].unique().numel() > 1
    with pytest.raises(ValueError, match="must divide the number of processes, got 3 of 2"):
        fine_tune(network, [batch()], sp_size=3)


class Heads(Tiny):
    """A network with a transformer to be spread."""

    def __init__(self) -> None:
        from drivedit.models import DiTStudent

        super().__init__()
        self.trunk = DiTStudent(3, 8, 1, 2)


def test_processes_that_share_a_clip_have_the_same_levels(tmp_path):
    run_processes(2, levels_of_two, str(tmp_path))
    with pytest.raises(ValueError, match="must divide the number of processes, got 2 of 1"):
        fine_tune(Tiny(), [batch()], sp_size=2)


# -- distillation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("points", "phases"), [(50, 1), (50, 4), (10, 2), (4, 4)])
def test_on_straight_paths_the_exact_field_has_no_loss(points, phases):
    exact = Exact()
    loss, _, norms = distil(
        exact, exact, None, [batch(16, constant=0.3)], num_euler_timesteps=points, multiphase=phases
    )
    assert loss < 1e-6 and set(norms) == {"fro", "largest singular value", "absolute mean", "absolute max"}
    wrong, _, _ = distil(
        Exact(0.5), exact, exact, [batch(16, constant=0.3)], num_euler_timesteps=points, multiphase=phases
    )
    assert wrong > 1e-3


def test_without_guidance_the_teacher_is_asked_once_and_a_scale_of_none_is_none():
    outcomes, asked = [], []
    ways: list[dict[str, Any]] = [{"not_apply_cfg_solver": True, "distill_cfg": 3.0}, {}, {"distill_cfg": 3.0}]
    for changes in ways:
        teacher = Tiny(1)
        outcomes.append(distil(Tiny(), teacher, Tiny(2), [batch()], **changes)[0])
        asked.append(len(teacher.calls))
    assert asked == [1, 1, 2] and outcomes[0] == outcomes[1] != outcomes[2]
    with pytest.raises(ValueError, match=r"distill_cfg = 3.0 needs uncond_prompt_embed"):
        distil(Tiny(), Tiny(), None, [batch()], distill_cfg=3.0, uncond_prompt_embed=None)


def test_guidance_is_extra():
    """With w the teacher's velocity is `c + w (c - u)`: the scale of Ho and Salimans is w + 1."""

    class OfWords(Exact):
        def forward(self, latents, text, t):
            return text.mean((1, 2))[:, None, None, None, None].expand_as(latents) + 0 * self.weight

    student, latents = OfWords(), torch.zeros(1, *LATENTS)
    words, plain, told = torch.ones(1, *TEXT), torch.full(TEXT, 0.25), []

    class Watched(EulerSolver):
        def euler_step(self, sample, model_pred, timestep_index):
            told.append(model_pred.flatten()[0].item())
            return super().euler_step(sample, model_pred, timestep_index)

    solver = Watched(training_levels(1000), 1000, 50)
    distill.distill_one_step(
        student, "mochi", student, None, torch.optim.SGD(student.parameters(), 0.0), None, iter([(latents, words)]),
        None, solver, torch.Generator(), 1, 1, 1.0, plain, None, 50, 1, False, 2.0, 0.9, 0.0, "l1", False,
    )  # fmt: skip
    assert told == [pytest.approx(1 + 2 * (1 - 0.25))]


def test_the_average_follows_the_step_and_nothing_else_moves():
    student, target, teacher = Tiny(), Tiny(1), Tiny(2)
    before, was = copy.deepcopy(target.state_dict()), copy.deepcopy(teacher.state_dict())
    old = copy.deepcopy(student.state_dict())
    _, norm, _ = distil(student, teacher, target, [batch()], lr=0.1, ema_decay=0.9)
    assert norm > 0 and not torch.equal(student.of_text.weight, old["of_text.weight"])
    for name, value in target.state_dict().items():
        assert torch.allclose(value, 0.9 * before[name] + 0.1 * student.state_dict()[name], atol=1e-6)
    assert all(torch.equal(value, was[name]) for name, value in teacher.state_dict().items())
    assert all(weight.grad is None for network in (teacher, target) for weight in network.parameters())


def test_without_an_average_the_student_is_its_own_aim_without_gradient():
    student = Tiny()
    distil(student, Tiny(1), None, [batch()])
    assert len(student.calls) == 2
    told, later = student.calls  # at a point, and one point nearer to data
    assert (later < told).all()


def test_the_decay_pulls_predictions_to_zero():
    student, exact = Exact(), Exact()
    plain, _, norms = distil(student, exact, exact, [batch(2, constant=0.3)])
    for kind, size in (("l1", 0.3), ("l2", 0.09)):
        loss, _, _ = distil(
            student, exact, exact, [batch(2, constant=0.3)], pred_decay_weight=0.5, pred_decay_type=kind
        )
        assert loss - plain == pytest.approx(0.5 * size, rel=1e-3)
    assert norms["absolute mean"] == pytest.approx(0.3, rel=1e-3) == norms["absolute max"]
    assert norms["fro"] == pytest.approx(0.3 * 4, rel=1e-3) == norms["largest singular value"]  # of 4 x 4 times .3
    with pytest.raises(ValueError, match="must be 'l1' or 'l2', got 'huber'"):
        distil(student, exact, exact, [batch(2)], pred_decay_type="huber")


def test_phases_and_points_have_to_fit():
    with pytest.raises(ValueError, match="from 1 to 4 phases of 4 points, got 8"):
        distil(Tiny(), Tiny(), None, [batch()], num_euler_timesteps=4, multiphase=8)
    solver = EulerSolver(training_levels(1000), 1000, 50)
    with pytest.raises(ValueError, match="must be the 50 points of the solver, got 40"):
        distill.distill_one_step(
            Tiny(), "mochi", Tiny(), None, torch.optim.SGD(Tiny().parameters(), 0.1), None, repeat(batch()), None,
            solver, torch.Generator(), 1, 1, 1.0, None, None, 40, 1, True, 0.0, 0.9, 0.0, "l1", False,
        )  # fmt: skip


def test_accumulated_distillation_is_that_of_one_batch():
    latents, text = batch(4)
    whole, parts = Tiny(), Tiny()
    one = distil(whole, Tiny(1), Tiny(2), [(latents, text)], lr=0.1)
    split = [(latents[:2], text[:2]), (latents[2:], text[2:])]
    two = distil(parts, Tiny(1), Tiny(2), split, lr=0.1, gradient_accumulation_steps=2)
    assert one[0] == pytest.approx(two[0], rel=1e-5)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_told_guidance_is_for_the_hunyuan_family_and_can_be_left_out():
    class Told(Tiny):
        def forward(self, latents, text, t, guidance=None):
            self.guidance: Any = guidance
            return super().forward(latents, text, t)

    for kind, disabled, wanted in (("hunyuan", False, [6, 6]), ("hunyuan", True, None), ("mochi", False, None)):
        student, teacher = Told(), Told()
        distil(student, teacher, None, [batch(2)], model_type=kind, hunyuan_teacher_disable_cfg=disabled)
        for network in (student, teacher):
            assert (network.guidance if wanted is None else network.guidance.tolist()) == wanted


# -- adversarial losses ----------------------------------------------------------------------------------------------


def test_adversarial_losses_of_two_scales_have_the_published_values():
    zero, one = torch.zeros(2, 4, 4), torch.ones(2, 4, 4)
    assert gan_d_loss(zero, zero, 1.0) == 2 and gan_d_loss(one, -one, 1.0) == 0
    assert gan_d_loss(zero, zero, 0.5, zero, zero, 0.25) == 1.5 and gan_d_loss(zero, zero, 0.5, zero, zero) == 2
    assert gan_g_loss(one, 0.1, None) == pytest.approx(-0.1) and gan_g_loss(one, 0.1, 3 * one) == pytest.approx(-0.4)
    assert gan_g_loss(zero, 0.1, zero, saturating=True) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="both"):
        gan_d_loss(zero, zero, 1.0, zero)
    assert pooled_scores(torch.ones(1, 1, 64, 48)).shape == (1, 1, 32, 32) and pooled_scores(zero).shape == (2, 4, 4)


def test_the_next_points_level_is_told_to_the_aim():
    student, target = Tiny(), Tiny(1)
    distil(student, Tiny(2), target, [batch(8)], num_euler_timesteps=4)
    grid = 1000 * EulerSolver(training_levels(1000, 3.0), 1000, 4).grid
    for told, later in zip(student.calls[0], target.calls[0], strict=True):
        at = (grid - told).abs().argmin()
        assert torch.isclose(grid[at], told) and torch.isclose(grid[at - 1], later)
