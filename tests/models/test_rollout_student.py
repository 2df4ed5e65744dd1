"""A published student and its autoencoder rolled out: the world around them dreams what the student generates."""

import numpy as np
import pytest
import torch

from drivedit.config import StudentConfig, VAEConfig
from drivedit.inference import InferenceConfig, StreamingRollout
from drivedit.models import VAE3D, DiTState, DiTStudent


def make_student(**changes) -> DiTStudent:
    torch.manual_seed(1)
    settings = {
        "latent_dim": 16, "d_model": 16, "n_layers": 1, "n_heads": 2, "dropout": 0.1, "tokens_per_frame": 4,
        "window": 4, "history": 1, "control_dim": 7,
    }  # fmt: skip
    student = DiTStudent(**{**settings, **changes})
    for weight in student.parameters():
        weight.data.add_(0.1 * torch.randn_like(weight))
    return student


def make_vae() -> VAE3D:
    torch.manual_seed(2)
    return VAE3D(latent_dim=4, hidden_dims=[8, 8, 8, 8], num_res_blocks=1, use_attention=False)


def test_a_student_and_an_autoencoder_make_a_world():
    student, vae = make_student(), make_vae()
    before = torch.get_rng_state()
    one = StreamingRollout(student, vae, InferenceConfig(), device="cpu")
    assert torch.equal(torch.get_rng_state(), before)
    assert one.world.dynamics is student and one.world.vae is vae and one.world.config.image_size == (32, 32)
    context = torch.rand(2, 3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    controls = torch.rand(2, 7, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1
    student.train()
    done = one.generate_sequence(context, controls, 4, return_intermediates=True)
    assert not student.training and done["full_sequence"].shape == (2, 7, 3, 32, 32)
    one.reset_state()
    steered = one.generate_sequence(context, -controls, 4, return_intermediates=True)
    assert not torch.allclose(done["intermediates"]["latents"], steered["intermediates"]["latents"])
    assert (done["intermediates"]["reward"] == 0).all()
    wide = StreamingRollout(student, vae, InferenceConfig(), device="cpu", image_size=(16, 64))
    done = wide.generate_sequence(torch.rand(1, 2, 3, 16, 64), max_new_frames=1)
    assert done["generated_frames"].shape == (1, 1, 3, 16, 64)


@pytest.mark.parametrize(("history", "steps"), [(0, 4), (0, 1), (2, 4)])
def test_a_student_is_rolled_out_as_it_generates(history, steps):
    """Without noise both are deterministic: the world's cache, controls and passes are those of `generate`."""
    student, vae = make_student(history=history, control_dim=2, dropout=0.0, n_layers=2), make_vae()
    one = StreamingRollout(student, vae, InferenceConfig(mixed_precision=False, sampling_steps=steps), "cpu")
    pick = torch.Generator().manual_seed(0)
    context = (torch.rand(2, 4, 3, 32, 32, generator=pick) * 255).round() / 255
    controls = torch.rand(2, 10, 2, generator=pick) * 2 - 1
    done = one.generate_sequence(context, controls, 6, temperature=1e-9, return_intermediates=True)
    with torch.no_grad():
        mean, _ = vae.encode(context.transpose(1, 2) * 2 - 1)
    led = torch.cat([torch.zeros(2, 1, 2), controls[:, :-1]], 1)  # what led to each frame
    tokens = one.world.tokens(mean.transpose(1, 2)).flatten(1, 2)
    whole = student.generate(tokens, 6 * 4, 1e-9, sampling_steps=steps, control=led)
    made = one.world.tokens(done["intermediates"]["latents"]).flatten(1, 2)
    assert torch.allclose(made, whole[:, 4 * 4 :], atol=1e-5)
    still = student.generate(tokens, 6 * 4, 1e-9, sampling_steps=steps)
    assert not torch.allclose(whole, still, atol=1e-3)  # the controls are told


def test_the_state_of_a_student_without_history_is_whole():
    """A snapshot goes on bit for bit although there are no past latents in it: all of the past is in the cache."""
    student = make_student(history=0, control_dim=2, dropout=0.0)
    world = StreamingRollout(student, make_vae(), InferenceConfig(mixed_precision=False), "cpu").world
    frames = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), dtype=np.uint8)
    state = world.start([{"frames": frames, "controls": np.zeros((2, 2), np.float32)}], [1])
    again = DiTState.from_bytes(state.to_bytes("me"), "me")
    emptied = state.clone()
    emptied.v.zero_()
    outs = [world.step(s, torch.ones(1, 2))[0].latents[:, 0] for s in (state, again, emptied)]
    assert torch.equal(outs[0], outs[1]) and not torch.allclose(outs[0], outs[2], atol=1e-4)


def test_the_context_window_slides_over_what_is_dreamed():
    """A student without a window would be full after four frames; it sees what one with that window sees."""
    settings = {"history": 0, "control_dim": 2, "max_seq_len": 16}
    endless, short = make_student(**settings, window=None), make_student(**settings, window=3)
    context = torch.rand(1, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    far, near, two = (
        StreamingRollout(
            student, make_vae(), InferenceConfig(mixed_precision=False, context_window=window), "cpu"
        ).generate_sequence(context, return_intermediates=True)["intermediates"]["latents"]
        for student, window in ((endless, 16), (short, 16), (endless, 2))
    )
    assert torch.equal(near, two) and not torch.allclose(far[:, -1], two[:, -1], atol=1e-4)
    assert endless.window is None and short.window == 3 and endless.capacity == 4  # the model itself stays as it was
    with pytest.raises(ValueError, match="do not fit into a cache of 4"):
        endless.generate(torch.zeros(1, 8, 16), 16 * 4)


def test_configurations_of_networks_rebuild_them():
    student, vae = make_student(), make_vae()
    assert student.config == StudentConfig(16, 16, 1, 2, dropout=0.1, tokens_per_frame=4, window=4, history=1,
                                           control_dim=7)  # fmt: skip
    assert vae.config == VAEConfig(latent_dim=4, hidden_dims=[8] * 4, num_res_blocks=1, use_attention=False)
    DiTStudent.from_config(student.config).load_state_dict(student.state_dict())
    VAE3D.from_config(vae.config).load_state_dict(vae.state_dict())
    narrow = VAEConfig(latent_dim=4, hidden_dims=[8] * 4, num_res_blocks=1, decoder_dims=[4] * 4, temporal_kernel=1)
    assert VAE3D.from_config(narrow).config == narrow


@pytest.mark.parametrize(
    ("student", "size", "message"),
    [
        ({"latent_dim": 12}, None, "token of width 12 is no square of latent cells of 4"),
        ({"tokens_per_frame": 6}, None, "32 x 32 do not make the student's 6 tokens"),
        ({}, (48, 32), "48 x 32 do not make"),
        ({"history": 0}, None, "got control_dim 7 with history 0"),
        ({"control_dim": 4}, None, "got control_dim 4 with history 1"),
        ({"route_dim": 9}, None, "route_dim and map_dim must be 0"),
    ],
)
def test_students_that_are_no_world_are_named(student, size, message):
    with pytest.raises(ValueError, match=message):
        StreamingRollout(make_student(**student), make_vae(), InferenceConfig(), "cpu", image_size=size)


def test_wrong_models_are_named(tiny_world):
    with pytest.raises(ValueError, match="DiTStudent with NoneType"):
        StreamingRollout(make_student(), None, InferenceConfig(), "cpu")
    with pytest.raises(ValueError, match="autoencoder of its own"):
        StreamingRollout(tiny_world, make_vae(), InferenceConfig(), "cpu")
    with pytest.raises(ValueError, match="got image_size"):
        StreamingRollout(tiny_world, tiny_world.vae, InferenceConfig(), "cpu", image_size=(8, 8))
