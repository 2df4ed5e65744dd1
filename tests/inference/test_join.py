"""The published pieces join: data, trainers, rollouts, worlds and environments, with what each gives by default."""

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from helpers.films import write_drive
from helpers.worlds import make_world

from drivedit.config import InferenceConfig, Quantity, StudentConfig, StudentStageConfig, get_small_config
from drivedit.data import VideoDataset, VideoLoader
from drivedit.inference import StreamingRollout
from drivedit.models import VAE3D, DiTStudent, DiTTeacher, DiTWorld, Scene
from drivedit.training import DistillationTrainer, SelfForcingTrainer
from drivedit.training.methods.energy import ForcingThenEnergy


@pytest.fixture(scope="module")
def loader(tmp_path_factory) -> VideoLoader:
    folder = tmp_path_factory.mktemp("drives")
    write_drive(folder / "train" / "a", 8)
    data = VideoDataset(folder, sequence_length=4, image_size=(64, 64))
    return VideoLoader(data, batch_size=2, num_workers=0)


def preset():
    """The small preset with thinner networks; what joins them stays."""
    config = get_small_config()
    config.vae.hidden_dims, config.student.d_model, config.student.n_layers = [8, 8, 8, 16], 16, 1
    config.teacher.d_model, config.teacher.n_layers, config.student.n_heads, config.teacher.n_heads = 16, 1, 2, 2
    return config


def test_from_video_dataset_over_a_preset_to_a_rollout_and_an_environment(loader, tmp_path):
    config = preset()
    student, vae = DiTStudent.from_config(config.student), VAE3D.from_config(config.vae)
    teacher = DiTTeacher.from_config(config.teacher)
    models = {"student_model": student, "vae_model": vae, "device": "cpu"}
    losses = SelfForcingTrainer.from_config(config.training, **models).train_epoch(loader)
    losses |= DistillationTrainer.from_config(config.training, teacher_model=teacher, **models).train_epoch(loader)
    assert all(np.isfinite(value) for value in losses.values())
    rollout = StreamingRollout(student, vae, InferenceConfig(sampling_steps=2), "cpu")
    batch = next(iter(loader))
    assert batch["controls"].shape == (2, 4, 4)  # steering, acceleration and a goal
    made = rollout.generate_sequence(batch["frames"][:, :2], batch["controls"], 2)["generated_frames"]
    assert made.shape == (2, 2, 3, 64, 64)

    frames = (batch["frames"][0] * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    seen = {rollout.world.spec.picture: frames}
    rollout.world.scenes = [Scene(seen, batch["controls"][0, :3, :2].numpy())]
    drive(rollout.world, tmp_path / "world")


def drive(world: DiTWorld, path: Path) -> None:
    """A drive in the environment; what is seen at a reset is the last frame of the scene, as the world codes it."""
    world.save_pretrained(path)
    env = gym.make("drivedit_env:DriveDiT-v0", world=str(path), device="cpu", compile=False)
    seen, _ = env.reset(seed=0, options={"scene": 0})
    kept = DiTWorld.from_pretrained(path, device="cpu")
    coded = kept.decode(kept.encode(kept.scenes[0].frames[None, -1:])[:, 0])[0]
    assert np.abs(seen.astype(int) - coded).max() <= 1  # packed for speed
    before = seen
    for _ in range(3):
        seen, reward, *_ = env.step(np.array([0.3, 0.5], np.float32))
        assert not np.array_equal(seen, before) and np.isfinite(float(reward))
        before = seen
    state = env.unwrapped.get_state()  # type: ignore[attr-defined]
    after = env.step(np.zeros(2, np.float32))[0]
    env.unwrapped.set_state(state)  # type: ignore[attr-defined]
    assert np.array_equal(env.step(np.zeros(2, np.float32))[0], after)
    env.close()


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("width", [0, 2, 7])
def test_a_world_that_is_not_told_the_frames_before_is_played(tmp_path, width, clean):
    config = make_world().config
    assert StudentConfig().history == 0
    settings = {**config.student.to_dict(), "history": 0, "control_dim": width, "route_dim": 0, "map_dim": 0}
    config.student, config.clean_cache, config.end_threshold = StudentConfig.from_dict(settings), clean, 1.0
    scene = make_world().scenes[0]
    world = DiTWorld(config, [Scene(scene.observations, scene.controls)])
    for weight in world.parameters():
        weight.data.add_(0.05 * torch.randn(weight.shape))
    drive(world.eval(), tmp_path / "world")


@pytest.mark.parametrize(
    ("width", "history", "given", "names"),
    [
        (2, 0, None, ["steering", "throttle"]),
        (7, 1, None, ["steering", "throttle"]),  # these, the ones before, the ego-motion
        (3, 1, [Quantity("steering"), Quantity("gas"), Quantity("brake")], ["steering", "gas", "brake"]),
        (9, 1, None, ["control_1", "control_2", "control_3"]),
        (5, 1, None, ["control_1"]),
        (9, 1, [Quantity("push", -2, 2), Quantity("turn"), Quantity("gas", 0.5, 1)], ["push", "turn", "gas"]),
    ],
)
def test_a_rollout_has_the_controls_of_its_network(width, history, given, names):
    config = preset()
    sizes = {**config.student.to_dict(), "control_dim": width, "history": history}
    student, vae = DiTStudent.from_config(StudentConfig.from_dict(sizes)), VAE3D.from_config(config.vae)
    for weight in student.parameters():
        weight.data.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    one = StreamingRollout(student, vae, InferenceConfig(sampling_steps=1), "cpu", controls=given)
    assert one.world.spec.names("controls") == names
    frames, controls = torch.full((1, 2, 3, 64, 64), 0.5), torch.full((1, 4, len(names)), 0.5)
    still = one.generate_sequence(frames, max_new_frames=2, return_intermediates=True)["intermediates"]["latents"]
    other = controls.clone()
    other[:, 1, -1] = 1.0  # the last control matters, from the next frame on
    told = []
    for driven in (controls, other):
        one.reset_state()
        done = one.generate_sequence(frames, driven, 2, return_intermediates=True)
        told.append(done["intermediates"]["latents"])
    assert torch.isfinite(still).all() and not torch.allclose(*told, atol=1e-4)
    with pytest.raises(ValueError, match=rf"{names[-1]} in \[.*, 1\]; scale them"):
        one.generate_sequence(frames, 3 * controls, 2)
    one.reset_state()
    alone = one.generate_sequence(frames[:, :1], max_new_frames=2, return_intermediates=True)
    assert torch.isfinite(alone["intermediates"]["latents"]).all()


def test_controls_that_do_not_fit_a_network_or_a_world_are_refused():
    config, world = preset(), make_world()
    student, vae = DiTStudent.from_config(config.student), VAE3D.from_config(config.vae)
    with pytest.raises(ValueError, match=r"of 3 controls a student needs control_dim 0 \(none\), 3 \(these\), or 9"):
        StreamingRollout(student, vae, InferenceConfig(), "cpu", controls=[Quantity(name) for name in "abc"])
    with pytest.raises(ValueError, match="this world has the controls"):
        StreamingRollout(world, None, InferenceConfig(), "cpu", controls=[Quantity("turn")])


def test_the_stage_that_needs_the_frames_before_says_so():
    config = make_world().config
    config.student.history = 0
    with pytest.raises(ValueError, match=r"world.student.history must be at least 1, got 0"):
        ForcingThenEnergy(DiTWorld(config), StudentStageConfig())
