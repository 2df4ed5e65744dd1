"""Self-forcing and distillation: what they compute, that they learn, and that resuming is exact."""

import pytest
import torch
from torch.utils.data import DataLoader

from drivedit.config import TrainingConfig
from drivedit.models import VAE3D, DiTStudent, DiTTeacher
from drivedit.training import DistillationTrainer, SelfForcingTrainer, steps
from drivedit.training.methods.method import Frozen
from drivedit.training.methods.velocity import softened_distance


def vae() -> VAE3D:
    """Codes a frame of 16 x 16 as 2 x 2 cells of 2 channels, each with its own size."""
    torch.manual_seed(0)
    net = VAE3D(3, 2, [4, 4, 8, 8], 1, False, temporal_kernel=1)
    for p in net.parameters():
        p.data.mul_(2)
    return net


def student(**changes) -> DiTStudent:
    torch.manual_seed(1)
    options = dict(latent_dim=2, d_model=16, n_layers=1, n_heads=2, dropout=0.0, tokens_per_frame=4, control_dim=2)
    net = DiTStudent(**{**options, "max_seq_len": 24, **changes})
    for p in net.parameters():
        p.data.add_(0.05 * torch.randn(p.shape))
    return net


def teacher(**changes) -> DiTTeacher:
    torch.manual_seed(2)
    options = dict(latent_dim=2, d_model=16, n_layers=1, n_heads=2, tokens_per_frame=4, control_dim=2)
    net = DiTTeacher(**{**options, **changes})
    for p in net.parameters():
        p.data.add_(0.05 * torch.randn(p.shape))
    return net


def loader(clips: int = 16, frames: int = 4, batch: int = 4, seed: int = 0) -> DataLoader:
    """Frames of one shade that the control moves up or down."""
    g = torch.Generator().manual_seed(seed)
    controls = torch.rand(clips, frames, 2, generator=g) * 2 - 1
    shade = 0.5 + 0.15 * torch.cat([torch.zeros(clips, 1), controls[:, :-1, 0]], 1).cumsum(1).clamp(-3, 3)
    pictures = shade[:, :, None, None, None].expand(-1, -1, 3, 16, 16).contiguous()
    return DataLoader([{"frames": f, "controls": c} for f, c in zip(pictures, controls, strict=True)], batch)  # type: ignore[arg-type]


def self_forcing(net: DiTStudent | None = None, lr: float = 3e-3, **changes) -> SelfForcingTrainer:
    net = student() if net is None else net
    options = dict(device="cpu", mixed_precision=False, epochs=2, sampling_steps=2)
    return SelfForcingTrainer(net, vae(), torch.optim.Adam(net.parameters(), lr), **{**options, **changes})


def distillation(net: DiTStudent | None = None, lr: float = 3e-3, **changes) -> DistillationTrainer:
    net = student() if net is None else net
    options = dict(teacher_model=teacher(), device="cpu", mixed_precision=False)
    optimizer = torch.optim.Adam(net.parameters(), lr)
    return DistillationTrainer(student_model=net, vae_model=vae(), optimizer=optimizer, **{**options, **changes})


def weights(net: torch.nn.Module) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(net.parameters()).detach().clone()


@pytest.mark.parametrize("history", [0, 1])
def test_a_rollout_is_what_one_pass_over_the_clip_says(history):
    """The states of the last denoising steps, seen again with gradient, give the very frames of the rollout."""
    trainer = self_forcing(student(history=history))
    trainer.student.eval()
    clean, control = trainer.method.tokens(next(iter(loader())))
    own = torch.rand(4, 4) < 0.7
    rng = torch.Generator().manual_seed(0)
    context, states = trainer.method.roll_out(clean, control, own, torch.tensor([1.0, 0.5]), rng)
    assert torch.equal(context[:, 0], clean[:, 0])
    kept = ~own
    kept[:, 0] = True
    assert torch.equal(context[kept], clean[kept]) and not torch.isclose(context[~kept], clean[~kept]).all(-1).any()
    level = torch.full((4, 3), 0.5)
    first, second = trainer.method.estimates(context, control, states, [level, level])
    made = own[:, 1:]
    assert torch.allclose(first[made], context[:, 1:][made], atol=1e-5)
    assert not torch.allclose(first, second)
    assert not context.requires_grad and not states[0].requires_grad and first.requires_grad


def test_the_share_of_self_made_context_grows():
    trainer = self_forcing(epochs=5)
    shares = []
    for _ in range(7):
        shares.append(trainer.ratio())
        trainer.epoch += 1
    assert shares == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 0.8, 0.8])
    first, second = (self_forcing(lr=0.0), self_forcing(lr=0.0, self_forcing_ratio=0.0))
    data = loader()
    assert first.train_epoch(data) == second.train_epoch(data)  # no self-made context in the first epoch
    assert "rollout" in first.train_epoch(data) and "rollout" not in second.train_epoch(data)


def test_self_forcing_learns_what_the_control_does():
    data, net = loader(clips=32, batch=8), student(d_model=32)
    trainer = self_forcing(net, lr=1e-2, epochs=4, seed=3)
    before = trainer.validate_epoch(data)
    assert before == trainer.validate_epoch(data)  # the same noise every time
    for _ in range(16):
        means = trainer.train_epoch(data)
    after = trainer.validate_epoch(data)
    assert set(means) == {"flow", "rollout", "loss", "grad_norm"} and set(after) == {"flow", "rollout", "loss"}
    assert after["flow"] < 0.1 * before["flow"] and after["rollout"] < 0.2 * before["rollout"]
    clean, control = trainer.method.tokens(next(iter(data)))
    assert control is not None
    dreamed, straight = (
        net.eval().generate(
            clean[:, :1].flatten(1, 2), 12, temperature=0.01, control=c, generator=torch.Generator().manual_seed(0)
        )
        for c in (control, torch.zeros_like(control))
    )
    truth = clean.flatten(1, 2)
    assert (dreamed - truth)[:, 4:].square().mean() < 0.6 * (straight - truth)[:, 4:].square().mean()


def test_the_autoencoder_and_the_teacher_stay_as_they_are():
    for trainer in (self_forcing(), distillation()):
        method = trainer.method
        frozen = [net.network for net in vars(method).values() if isinstance(net, Frozen)]
        assert len(frozen) == 1 + isinstance(trainer, DistillationTrainer)
        before, own = [weights(net) for net in frozen], weights(trainer.student)
        trainer.train_epoch(loader())
        assert all(torch.equal(weights(net), old) for net, old in zip(frozen, before, strict=True))
        assert not torch.equal(weights(trainer.student), own)
        own = weights(trainer.student)
        trainer.validate_epoch(loader())
        assert torch.equal(weights(trainer.student), own) and trainer.student.training


def test_a_student_that_is_the_teacher_has_no_soft_loss():
    """The velocity of the bridge, for a student that computes the same function of the same state."""
    net = student()

    class Mirror(DiTTeacher):
        def velocity(self, x, timesteps, control=None, **told):
            level = self.sigma(timesteps)[:, None].expand(-1, 4).to(x)
            clean, _ = net(x, sigma=level, control=control)
            return (x - clean) / level[:, :1, None]

    mirror = Mirror(2, 16, 1, 2, tokens_per_frame=4, control_dim=2)
    trainer = distillation(net, teacher_model=mirror, distillation_alpha=1.0)
    means = trainer.validate_epoch(loader())
    assert means["soft"] == pytest.approx(0, abs=1e-8) and means["loss"] == means["soft"] and means["hard"] > 0.1


def test_alpha_weighs_teacher_and_data():
    data, parts = loader(), {}
    for alpha in (0.0, 0.3, 1.0):
        parts[alpha] = distillation(distillation_alpha=alpha).validate_epoch(data)
    soft, hard = parts[0.3]["soft"], parts[0.3]["hard"]
    assert parts[0.3]["loss"] == pytest.approx(0.3 * soft + 0.7 * hard, rel=1e-5)
    assert parts[0.0]["loss"] == hard and parts[1.0]["loss"] == soft
    trainer = distillation(student(d_model=32), lr=1e-2)
    before = trainer.validate_epoch(data)
    for _ in range(10):
        trainer.train_epoch(data)
    after = trainer.validate_epoch(data)
    assert after["soft"] < 0.7 * before["soft"] and after["hard"] < 0.7 * before["hard"]


def test_temperature_does_nothing_to_gaussian_outputs():
    a, b = torch.randn(2, 5), torch.randn(2, 5)
    assert softened_distance(a, b, 1.0).item() == pytest.approx((a - b).square().mean().item(), rel=1e-6)
    assert softened_distance(a, b, 7.3).item() == pytest.approx(softened_distance(a, b, 1.0).item(), rel=1e-5)
    hot, cold = distillation(temperature=8.0), distillation(temperature=1.0)
    assert hot.train_epoch(loader()) == pytest.approx(cold.train_epoch(loader()), rel=1e-5)
    assert torch.allclose(weights(hot.student), weights(cold.student), atol=1e-6)


@pytest.mark.parametrize("make", [self_forcing, distillation])
def test_resuming_equals_going_through(make, tmp_path):
    data = loader()
    whole = make(student(dropout=0.1))
    for _ in range(2):
        whole.train_epoch(data)
    stopped = make(student(dropout=0.1))
    stopped.train_epoch(data)
    stopped.save_checkpoint(str(tmp_path / "run.pt"), 1, 0.25, note="half way")
    resumed = make(student(dropout=0.1))
    torch.rand(7)  # the global generator stands elsewhere
    assert resumed.load_checkpoint(tmp_path / "run.pt") == {"epoch": 1, "best_metric": 0.25, "note": "half way"}
    resumed.train_epoch(data)
    assert torch.equal(weights(whole.student), weights(resumed.student))


def test_checkpoints_are_whole_and_checked(tmp_path, monkeypatch):
    trainer, file = self_forcing(), tmp_path / "run.pt"
    trainer.save_checkpoint(file)
    before = file.read_bytes()
    with pytest.raises(ValueError, match="another name"):
        trainer.save_checkpoint(file, optimizer="adam")

    def full(*_args, **_kw):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="previous one is untouched"):
        patch.setattr(torch, "save", full)
        trainer.save_checkpoint(file)
    assert file.read_bytes() == before and [f.name for f in tmp_path.iterdir()] == ["run.pt"]
    with pytest.raises(RuntimeError, match=r"run.pt is damaged or of another student"):
        self_forcing(student(d_model=32)).load_checkpoint(file)
    (tmp_path / "bad.pt").write_bytes(b"rubbish")
    with pytest.raises(RuntimeError, match=r"bad.pt is damaged"):
        trainer.load_checkpoint(tmp_path / "bad.pt")
    with pytest.raises(FileNotFoundError):
        trainer.load_checkpoint(tmp_path / "none.pt")


def test_mixed_precision_and_students_without_controls(monkeypatch):
    data = [{"frames": batch["frames"]} for batch in loader(clips=4)]

    def loss(mixed: bool, hardware: torch.dtype) -> float:
        monkeypatch.setattr(steps, "fast_dtype", lambda device: hardware)
        trainer = self_forcing(student(control_dim=0), mixed_precision=mixed)
        trainer.train_epoch(data)  # type: ignore[arg-type]
        return trainer.train_epoch(data)["loss"]  # type: ignore[arg-type]

    exact = loss(False, torch.bfloat16)
    mixed = loss(True, torch.bfloat16)
    assert mixed != exact and mixed == pytest.approx(exact, rel=0.05)
    assert loss(True, torch.float32) == exact  # a processor without it takes ten times as long in it


def test_from_config_passes_every_setting_on():
    config = TrainingConfig(lr=2e-4, epochs=3, grad_clip=0.5, self_forcing_ratio=0.6, distillation_alpha=0.2, seed=9)
    made = SelfForcingTrainer.from_config(config, student_model=student(), vae_model=vae(), device="cpu")
    assert (made.epochs, made.grad_clip, made.method.ratio, made.seed) == (3, 0.5, 0.6, 9)
    assert made.optimizer.param_groups[0]["lr"] == 2e-4 and made.mixed_precision
    other = DistillationTrainer.from_config(
        config, teacher_model=teacher(), student_model=student(), vae_model=vae(), device="cpu"
    )
    assert other.method.total.loss_weights == {"soft": 0.2, "hard": 0.8} and other.method.temperature == 4.0


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        ({"controls": torch.zeros(1, 4, 2)}, KeyError, "must have 'frames'"),
        ({"frames": torch.zeros(1, 4, 3, 16, 16)}, KeyError, "needs 'controls'"),
        ({"frames": torch.zeros(1, 1, 3, 16, 16)}, ValueError, "T of at least 2"),
        ({"frames": torch.zeros(1, 4, 3, 16, 16, dtype=torch.uint8)}, ValueError, "torch.uint8"),
        ({"frames": torch.full((1, 4, 3, 16, 16), 255.0)}, ValueError, r"in \[0, 1\], got 255 to 255"),
        ({"frames": torch.zeros(1, 4, 3, 32, 32)}, ValueError, "32 x 32 make 16 tokens each"),
        ({"frames": torch.zeros(1, 4, 3, 16, 16), "controls": torch.zeros(1, 4, 1)}, ValueError, "controls must be"),
    ],
)
def test_batches_that_do_not_fit_are_named(batch, error, message):
    with pytest.raises(error, match=message):
        self_forcing().train_epoch([batch])  # type: ignore[arg-type]


def test_wrong_networks_and_settings_are_named():
    net = student()
    optimizer = torch.optim.Adam(net.parameters())
    with pytest.raises(ValueError, match="a DiTStudent and a VAE3D are needed, got VAE3D"):
        SelfForcingTrainer(vae(), vae(), optimizer, "cpu")
    with pytest.raises(ValueError, match="token of width 6 is no square of latent cells of 2 channels"):
        self_forcing(student(latent_dim=6))
    with pytest.raises(ValueError, match="one tokens_per_frame, got 1 and 4"):
        distillation(teacher_model=teacher(tokens_per_frame=1))
    with pytest.raises(ValueError, match="control_dim must be 0 or the student's 2, got 3"):
        distillation(teacher_model=teacher(control_dim=3))
    with pytest.raises(ValueError, match=r"distillation_alpha must be in \[0, 1\]"):
        distillation(distillation_alpha=1.5)
    with pytest.raises(ValueError, match="gave no batch"):
        self_forcing().train_epoch([])  # type: ignore[arg-type]


def test_a_loss_that_is_not_finite_leaves_the_weights_alone():
    trainer = self_forcing()
    with torch.no_grad():
        trainer.student.head.bias[0] = torch.nan
    before = weights(trainer.student)
    with pytest.raises(FloatingPointError, match="step 0: the loss is nan"):
        trainer.train_epoch(loader())
    assert torch.equal(weights(trainer.student).nan_to_num(), before.nan_to_num())


def test_wandb_is_asked_for_by_name(monkeypatch):
    import accelerate.utils

    monkeypatch.setattr(accelerate.utils, "is_wandb_available", lambda: False)
    with pytest.raises(ImportError, match="pip install wandb"):
        self_forcing(use_wandb=True)


def test_every_epoch_is_logged():
    class Tracker:
        def __init__(self) -> None:
            self.rows = []

        def log(self, values, step):
            self.rows.append((step, values))

    trainer = self_forcing()
    trainer.tracker = Tracker()
    train, check = trainer.train_epoch(loader()), trainer.validate_epoch(loader())
    assert trainer.tracker.rows == [
        (0, {f"train/{k}": v for k, v in train.items()}),
        (1, {f"val/{k}": v for k, v in check.items()}),
    ]
