"""Few-step students: the losses have the known optimum where there is one, and the stage makes a world."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers.gaussian import MEAN, SPREAD, make_rngs, posterior, transport
from helpers.training import make_batch, make_episode
from helpers.worlds import make_world

from drivedit.config import ClipConfig, DataConfig, DistillConfig, LoopConfig, StudentStageConfig, VAEStageConfig
from drivedit.data.clips import Drives
from drivedit.data.recordings import write_shard
from drivedit.models import DiTTeacher, DiTWorld
from drivedit.models.flow.path import noise_levels
from drivedit.models.flow.sampler import sample
from drivedit.training.calibration import calibrate
from drivedit.training.methods import METHODS
from drivedit.training.methods.clip_matching import ClipDistributionMatching
from drivedit.training.methods.clips import MOTION, Clip
from drivedit.training.methods.consistency import Consistency
from drivedit.training.methods.matching import DistributionMatching, dmd_gradient
from drivedit.training.methods.method import Progress
from drivedit.training.methods.teacher import TeacherMethod, before_clip, teacher_figures
from drivedit.training.optimizers import make_optimizers
from drivedit.training.stages import decoder, distill, student, teacher, vae
from drivedit.training.steps import Steps


def matching(**changes) -> DistributionMatching:
    return DistributionMatching(make_world(), DistillConfig(clip_frames=4, rollout=0, **changes)).eval()


def test_small_steps_along_a_perfect_teacher_carry_noise_to_data():
    x = torch.randn(8, 500, 1, 4, generator=torch.Generator().manual_seed(0))
    data = sample(lambda x, sigma, given: posterior(x, sigma[:, None], MEAN, SPREAD), x, noise_levels(400))
    assert torch.allclose(data, transport(x, torch.ones(x.shape[:2])), atol=0.02)


def test_distribution_matching_pulls_samples_to_the_teachers_mean_and_spread():
    """The critic here knows the samples' own Gaussian; the pull has to vanish only where both agree."""
    method, rngs = matching(), make_rngs()
    rows = torch.randn(64, 16, 1, 16, generator=rngs.own)
    samples = -0.5 + 1.2 * rows
    for _ in range(400):
        own = samples.mean().item(), samples.std().item()

        def score(net, x, sigma, *_, own=own):
            return posterior(x, sigma, *((MEAN, SPREAD) if net is method.teacher.network else own)), None

        method.predict_clean = score  # type: ignore[assignment]
        empty: Any = torch.zeros(0)
        samples = samples - 0.02 * dmd_gradient(samples, *method.scores(samples, (empty, empty, empty), rngs))
    assert abs(samples.mean().item() - MEAN) < 0.05 and abs(samples.std().item() - SPREAD) < 0.08


def test_consistency_is_least_for_the_flow_of_the_teacher():
    """The quantile map agrees with itself along the teacher's steps; the mean, a blurred student, does not."""
    method = Consistency(make_world(), DistillConfig(clip_frames=4, method="consistency", grid=64)).eval()
    method.config.head_weight = 0.0
    tokens = MEAN + SPREAD * torch.randn(32, 2 + 4, 16, 32, generator=torch.Generator().manual_seed(1))
    batch = {
        "motion": torch.zeros(32, 4, 3), "telemetry": torch.zeros(32, 4, 4), "reward": torch.zeros(32, 4, 1),
        "ended": torch.zeros(32, 4),
    }  # fmt: skip

    def loss(student) -> float:
        def score(net, x, sigma, *_):
            return (posterior(x, sigma, MEAN, SPREAD) if net is method.teacher.network else student(x, sigma)), None

        def run(x, sigma, *_):
            return student(x, sigma), method.heads(torch.zeros(*x.shape[:3], method.dynamics.d_model))

        method.predict_clean, method.run = score, run  # type: ignore[assignment]
        clip = Clip(tokens, tokens[:, 2:], torch.zeros(0), torch.zeros(0), batch)
        return method.clip_loss(clip, Progress(0, 0.0), make_rngs())[1]["consistency"].item()

    right = loss(transport)
    blurred = loss(lambda x, sigma: posterior(x, sigma, MEAN, SPREAD))
    wide = loss(lambda x, sigma: MEAN + 1.5 * (transport(x, sigma) - MEAN))
    assert right < 1e-4 and blurred > 5 * right and wide > 2 * right


def test_only_the_student_is_trained_and_its_average_follows():
    method = matching().train()
    before, teacher = copy.deepcopy(method.target.state_dict()), method.teacher.network
    with torch.no_grad():
        for weight in method.dynamics.parameters():
            weight.add_(1.0)
    method.after_step()
    for name, value in method.target.state_dict().items():
        assert torch.allclose(value, before[name] + 0.01, atol=1e-5)
    assert not any(weight.requires_grad for weight in [*teacher.parameters(), *method.target.parameters()])
    assert all(weight.requires_grad for weight in method.critic.parameters())
    assert not {id(weight) for weight in teacher.parameters()} & {id(weight) for weight in method.parameters()}


def test_the_critic_takes_more_steps_than_the_student(run):
    folder, loop, data = run
    start = DiTWorld.from_pretrained(folder / "student" / "world", device="cpu")
    method = DistributionMatching(start, DistillConfig(clip_frames=6, rollout=1, critic_steps=3))
    latents = torch.randn(2, 2 + 6, start.config.vae.latent_dim, 8, 8, generator=torch.Generator().manual_seed(0))
    shapes = {"control": (6, 7), "route": (6, start.config.student.route_dim), "motion": (6, 3), "telemetry": (6, 4)}
    batch = {name: torch.zeros(2, *shape) for name, shape in shapes.items()}
    batch |= {"latents": latents, "reward": torch.zeros(2, 6, 1), "ended": torch.zeros(2, 6)}
    optimizers = make_optimizers(method.groups(0), LoopConfig(lr=1e-3))
    steps = Steps(method, optimizers, clip=1.0, seed=0, bf16=False, device=torch.device("cpu"))
    moved = []
    for step in range(4):
        before = [net.position.detach().clone() for net in (method.dynamics, method.critic)]
        steps.loss(batch, Progress(step, step / 4), "")[0].backward()
        steps.norms(step)
        steps.take(step)
        steps.clear()
        now = method.dynamics.position, method.critic.position
        moved.append([not torch.equal(a, b) for a, b in zip(now, before, strict=True)])
    assert moved == [[True, True], [False, True], [False, True], [True, True]]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with an autoencoder and a student that learned from recordings for a few steps."""
    folder = tmp_path_factory.mktemp("run")
    write_shard(folder / "recordings" / "shard-00000.h5", [make_episode(30, 0), make_episode(25, 1)])
    loop = LoopConfig(steps=4, batch_size=2, bf16=False, warmup=1, log_every=1)
    data = DataConfig(str(folder / "recordings"), validation_fraction=0.5)
    world = make_world().config
    vae(world, loop, data, VAEStageConfig(), str(folder), "cpu")
    student(world, loop, data, StudentStageConfig(clip_frames=6, few_step_from=1.0), str(folder), "cpu")
    return folder, loop, data


@pytest.mark.parametrize(
    "method", ["forcing", "consistency", "phased", "adversarial", "continuous", "matching", "energy"]
)
def test_every_method_makes_a_world(run, method):
    folder, loop, data = run
    loss = DistillConfig(clip_frames=6, rollout=2, method=method, exits=2)
    start = folder / "student" / "world"
    distill(str(start), train_=loop, data=data, loss=loss, out=str(folder), device="cpu")
    made, before = (DiTWorld.from_pretrained(f, device="cpu") for f in (folder / method / "world", start))
    assert any(
        not torch.equal(a, b) for a, b in zip(made.dynamics.parameters(), before.dynamics.parameters(), strict=True)
    )
    assert torch.equal(made.vae.to_frame.conv.weight, before.vae.to_frame.conv.weight)
    told = made.error_range.clone()  # of the errors of this world's own dreams, whatever taught it
    drives = Drives.open(data.root)
    calibrate(made, drives, drives.split(data.validation_fraction)[1], 3)
    assert torch.allclose(made.error_range, told, atol=2e-2) and not torch.equal(told, before.error_range)
    assert [f"## Stage `{name}`" in made.card for name in ("vae", "student", method)] == [True] * 3
    state, _ = made.step(made.start(made.scenes[:1], [0]), torch.zeros(1, 2))
    assert torch.isfinite(state.latents).all()


def test_a_method_is_a_line_of_the_registry_and_an_unknown_one_is_answered_by_those_there_are(run, monkeypatch):
    folder, loop, data = run
    monkeypatch.setitem(METHODS, "mine", "drivedit.training.methods.forcing:DiffusionForcing")
    trained, rest = (
        str(folder / "student" / "world"),
        {"train_": loop, "data": data, "out": str(folder), "device": "cpu"},
    )
    distill(trained, loss=DistillConfig(clip_frames=6, method="mine"), **rest)
    assert "## Stage `mine`" in DiTWorld.from_pretrained(folder / "mine" / "world", device="cpu").card
    with pytest.raises(
        ValueError,
        match="one of forcing, consistency, phased, adversarial, continuous, matching, energy, mine, got 'moon'",
    ):
        distill(trained, loss=DistillConfig(method="moon"), **rest)
    assert not (folder / "moon").exists()


def test_rollouts_may_be_longer_than_what_the_world_was_trained_on(run):
    folder, loop, data = run
    start = folder / "student" / "world"
    limit = DiTWorld.from_pretrained(start, device="cpu").dynamics
    frames = limit.max_seq_len // limit.tokens_per_frame + 4
    loss = DistillConfig(clip_frames=frames, rollout=frames, method="energy")
    distill(str(start), train_=replace(loop, steps=1), data=data, loss=loss, out=str(folder / "long"), device="cpu")
    made = DiTWorld.from_pretrained(folder / "long" / "energy" / "world", device="cpu")
    assert made.config.student.max_seq_len == limit.max_seq_len


def test_a_world_may_have_got_another_decoder_since(run, tmp_path):
    folder, loop, data = run
    decoder(
        str(folder / "student" / "world"),
        inner=[4, 4, 8, 8],
        train_=loop,
        data=data,
        loss=VAEStageConfig(),
        out=str(tmp_path),
        device="cpu",
    )
    start = tmp_path / "decoder" / "world"
    made = distill(
        str(start),
        train_=loop,
        data=data,
        loss=DistillConfig(clip_frames=6, method="forcing"),
        out=str(tmp_path),
        device="cpu",
    )
    assert made.config.vae.decoder_inner == [4, 4, 8, 8]


def test_a_world_that_learned_without_its_controls_takes_guidance(run, tmp_path):
    folder, loop, data = run
    start, once = str(folder / "student" / "world"), replace(loop, steps=1)
    loss = DistillConfig(clip_frames=6, method="forcing", drop_control=0.5)
    taught = distill(start, train_=once, data=data, loss=loss, out=str(tmp_path), device="cpu")
    assert taught.guidable and not DiTWorld.from_pretrained(start, device="cpu").guidable
    assert DiTWorld.from_pretrained(tmp_path / "forcing" / "world", device="cpu").check_guidance(1.5) == 1.5


# -- a bidirectional teacher -----------------------------------------------------------------------------------------


def make_teacher(frames: int = 4) -> DiTTeacher:
    torch.manual_seed(0)
    net = DiTTeacher(
        16, 16, 1, 2, max_seq_len=16 * frames, tokens_per_frame=16, control_dim=7, history=2, route_dim=321, map_dim=16
    )  # fmt: skip
    for weight in net.parameters():
        weight.data.add_(0.05 * torch.randn(weight.shape))
    return net


def test_a_bidirectional_network_is_told_nothing_that_comes_later():
    control, past = torch.randn(2, 4, 7), torch.randn(2, 4, 16, 32)
    told, before = before_clip(control, past)
    later, other = control.clone(), past.clone()
    later[:, 1:, MOTION] += 1  # each frame's motion shows what the frame before it was
    other[:, 1:] += 1
    assert all(torch.equal(*pair) for pair in zip((told, before), before_clip(later, other), strict=True))
    assert torch.equal(told[..., : MOTION.start], control[..., : MOTION.start])
    assert before.shape == (2, 64, 32) and torch.equal(before[:, 48:], past[:, 0])


def test_whole_clips_are_rollouts():
    """The frames that are judged stand on each other: as a past they give themselves again."""
    method = ClipDistributionMatching(
        make_world(), DistillConfig(clip_frames=4, context_noise=0.0, drop_past=0.0), make_teacher()
    )
    batch = make_batch(4)
    tokens = method.to_tokens(batch["latents"])
    given, noise = method.own_rollout(Clip(tokens, tokens[:, 2:], batch["control"], batch["route"], batch), make_rngs())
    made, read = method.run(noise, torch.ones(2, 4), *given)
    assert torch.allclose(method.past(torch.cat([tokens[:, :2], made], 1)), given[2], atol=1e-5)
    assert torch.allclose(read.motion[:, :-1], given[0][:, 1:, MOTION], atol=1e-5)
    assert not torch.allclose(made, tokens[:, 2:], atol=0.1)


def test_whole_clips_are_pulled_to_the_teachers_mean_and_spread():
    method, rngs = ClipDistributionMatching(make_world(), DistillConfig(clip_frames=4), make_teacher()), make_rngs()
    samples = -0.5 + 1.2 * torch.randn(128, 4, 1, 16, generator=rngs.own)
    for _ in range(400):
        own = samples.mean().item(), samples.std().item()

        def clean(net, noisy, steps, *_, own=own):
            sigma = net.sigma(steps).float()[:, None].expand(noisy.shape[:2])
            return posterior(noisy, sigma, *((MEAN, SPREAD) if net is method.real.network else own))

        method.predict_clip = clean  # type: ignore[assignment]
        empty: Any = torch.zeros(0)
        samples = samples - 0.02 * dmd_gradient(samples, *method.scores(samples, (empty, empty, empty), rngs))
    assert abs(samples.mean().item() - MEAN) < 0.05 and abs(samples.std().item() - SPREAD) < 0.08


def test_its_clean_estimate_is_exact_where_it_knows_the_noise():
    method = ClipDistributionMatching(make_world(), DistillConfig(clip_frames=4), make_teacher())
    truth, real = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(0)), method.real.network
    noisy, steps = method.renoised_clips(truth, make_rngs())
    sigma = real.sigma(steps)
    assert ((sigma >= 0.02) & (sigma <= 0.98)).all() and len(steps.unique()) > 1
    wanted = (noisy - truth) / sigma.float()[:, None, None, None]
    real.velocity = lambda *_, **__: wanted.flatten(1, 2)  # type: ignore[method-assign]
    out = method.predict_clip(
        real, noisy, steps, (torch.zeros(3, 4, 7), torch.zeros(3, 4, 321), torch.zeros(3, 4, 16, 32))
    )
    assert torch.allclose(out, truth, atol=1e-4)


def test_a_teacher_of_clips_learns_what_is_before_them():
    """Clips that stand still: who knows the frame before can tell them from noise, and only then."""
    method = TeacherMethod(make_world(), make_teacher(), ClipConfig(4, drop_past=0.0, context_noise=0.0))
    optimizer = torch.optim.Adam(method.parameters(), 3e-3)
    for step in range(150):
        batch = make_batch(4, rows=8, seed=step)
        batch["latents"] = batch["latents"][:, :1].expand(-1, 6, -1, -1, -1)
        loss, _ = method.loss(batch, Progress(0, 0.0), torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    apart = batch["latents"].clone()
    apart[:, :2] = apart[:, :2].roll(1, 0)  # another clip's frames before
    still, other = (teacher_figures(method, {**batch, "latents": x})["mse_0.75"] for x in (batch["latents"], apart))
    assert still < 0.5 * other


def test_a_student_is_distilled_from_whole_clips(run, tmp_path):
    folder, loop, data = run
    start, path = folder / "student" / "world", tmp_path / "teacher" / "teacher.safetensors"
    made = teacher(str(start), train_=loop, data=data, loss=ClipConfig(clip_frames=6), out=str(tmp_path), device="cpu")
    assert made.config == DiTTeacher.load(path).config and made.config.route_dim == 321
    curve = (tmp_path / "teacher" / "curve.jsonl").read_text()
    assert "velocity_mse" in curve and "val/mse_0.5" in curve
    loss = DistillConfig(clip_frames=6)
    distill(str(start), train_=loop, data=data, loss=loss, out=str(tmp_path), device="cpu", real_score=str(path))
    world, before = (DiTWorld.from_pretrained(f, device="cpu") for f in (tmp_path / "matching" / "world", start))
    assert not torch.equal(world.dynamics.position, before.dynamics.position)
    for wrong in (dict(clip_frames=7), dict(method="energy"), dict(exits=2)):
        with pytest.raises(ValueError, match="needs method = matching, exits = 1 and clip_frames of at most 6"):
            distill(
                str(start),
                train_=loop,
                data=data,
                loss=replace(loss, **wrong),
                out=str(tmp_path),
                device="cpu",
                real_score=str(path),
            )
    other = DiTTeacher(16, 16, 1, 2, max_seq_len=16 * 6, tokens_per_frame=16, control_dim=7, history=2)
    other.save(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"must have the student's .*'route_dim': 321.* got .*'route_dim': 0"):
        distill(
            str(start),
            train_=loop,
            data=data,
            loss=loss,
            out=str(tmp_path),
            device="cpu",
            real_score=str(tmp_path / "other.safetensors"),
        )
    with pytest.raises(FileNotFoundError, match="no file"):
        distill(
            str(start),
            train_=loop,
            data=data,
            loss=loss,
            out=str(tmp_path),
            device="cpu",
            real_score=str(tmp_path / "none"),
        )
