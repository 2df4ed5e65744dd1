"""The streaming rollout: the world that the env steps, every setting has its effect, and errors name what is wrong."""

import copy
import inspect
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from drivedit.inference import InferenceConfig, StreamingRollout, rollout, tune
from drivedit.models import DiTWorld, Sampling
from drivedit.utils import noise, truncate

EXACT = {"mixed_precision": False}


def make(world: DiTWorld, **settings) -> StreamingRollout:
    return StreamingRollout(world, None, InferenceConfig(**{**EXACT, **settings}), device="cpu")


def latents_of(one: StreamingRollout, *arguments, **options) -> torch.Tensor:
    """What is dreamed, before it is rounded to pictures: `[B, Tg, c, h, w]`."""
    return one.generate_sequence(*arguments, **options, return_intermediates=True)["intermediates"]["latents"]


@pytest.fixture(scope="module")
def context(tiny_world) -> torch.Tensor:
    """Three rows of three frames, as a recording has them."""
    frames = np.stack([scene.frames[-3:] for scene in tiny_world.scenes])
    return torch.from_numpy(frames).permute(0, 1, 4, 2, 3).float() / 255


@pytest.fixture(scope="module")
def controls() -> torch.Tensor:
    return torch.rand(3, 40, 2, generator=torch.Generator().manual_seed(5)) * 2 - 1


# -- the same world ----------------------------------------------------------------------------------------------


def test_a_rollout_is_what_the_world_dreams_step_by_step(tiny_world, context, controls):
    done = make(tiny_world, temperature=0.7, top_p=None).generate_sequence(
        context, controls, 5, return_intermediates=True
    )
    frames = (context * 255).round().byte().permute(0, 1, 3, 4, 2).numpy()
    scenes = [{"frames": row, "controls": before} for row, before in zip(frames, controls[:, :2].numpy(), strict=True)]
    state = tiny_world.start(scenes, done["metadata"]["seeds"])
    for index in range(5):
        state, _ = tiny_world.step(state, controls[:, 2 + index], sampling=Sampling(temperature=0.7))
        assert torch.equal(state.latents[:, 0], done["intermediates"]["latents"][:, index])
        pictures = tiny_world.observe(state, ["camera"])["camera"].permute(0, 3, 1, 2)
        assert torch.allclose(pictures / 255, done["generated_frames"][:, index], atol=1.01 / 255)


def test_the_hook_leaves_the_world_bit_for_bit(tiny_world):
    start = tiny_world.start(tiny_world.scenes, [1, 2, 3])
    zeros = torch.zeros(3, 2)
    own = tiny_world.config.temperature
    plain, same, other = (
        tiny_world.step(start.clone(), zeros, sampling=sampling)[0].latents
        for sampling in (None, Sampling(temperature=own, top_p=1.0), Sampling(temperature=0.5 * own))
    )
    assert torch.equal(plain, same) and not torch.equal(plain, other)


def test_shapes_and_the_context_in_front(tiny_world, context, controls):
    done = make(tiny_world).generate_sequence(context, controls, 7)
    assert done["generated_frames"].shape == (3, 7, 3, 64, 64)
    assert torch.equal(done["full_sequence"], torch.cat([context, done["generated_frames"]], 1))
    assert 0 <= done["generated_frames"].min() and done["generated_frames"].max() <= 1
    assert set(done) == {"generated_frames", "full_sequence", "metadata", "performance"}
    told = make(tiny_world).generate_sequence(context, controls, 7, return_intermediates=True)["intermediates"]
    assert told["latents"].shape == (3, 7, *tiny_world.latent_shape()) and told["telemetry"].shape == (3, 7, 4)
    performance = done["performance"]
    assert performance["frames_per_second"] == pytest.approx(21 / performance["total_time_s"])


def test_reset_state_makes_two_calls_the_same_and_without_it_they_differ(tiny_world, context):
    one = make(tiny_world)
    first, other = latents_of(one, context, max_new_frames=4), latents_of(one, context, max_new_frames=4)
    one.reset_state()
    again = latents_of(one, context, max_new_frames=4)
    assert torch.equal(first, again) and not torch.allclose(first, other, atol=1e-3)


def test_a_row_is_the_same_alone_and_in_a_batch(tiny_world, context, controls):
    together = latents_of(make(tiny_world), context, controls, 6)
    for row in range(3):
        pick = slice(row, row + 1)
        alone = latents_of(make(tiny_world), context[pick], controls[pick], 6)
        assert torch.allclose(alone[0], together[row], atol=2e-5)


def test_equal_contexts_in_a_batch_have_different_futures(tiny_world, context):
    done = make(tiny_world).generate_sequence(context[[0, 0]], max_new_frames=2, return_intermediates=True)
    assert len(set(done["metadata"]["seeds"])) == 2
    assert not torch.allclose(*done["intermediates"]["latents"], atol=1e-3)


def test_controls_lead_from_their_frame_to_the_next(tiny_world, context, controls):
    def latents(change_at: int | None) -> torch.Tensor:
        changed = controls.clone()
        if change_at is not None:
            changed[:, change_at] = -changed[:, change_at]
        return latents_of(make(tiny_world), context, changed, 4)

    plain = latents(None)
    assert torch.equal(latents(6), plain)  # the control at the last frame leads nowhere
    late = latents(4)  # leads to the third generated frame
    assert torch.equal(late[:, :2], plain[:, :2]) and not torch.allclose(late[:, 2], plain[:, 2])
    assert not torch.allclose(latents(0), plain)  # the context's controls matter
    wide = torch.cat([controls, torch.ones(3, 40, 2)], -1)  # a goal behind them changes nothing
    assert torch.equal(latents_of(make(tiny_world), context, wide, 4), plain)


def test_one_frame_of_context_is_enough(tiny_world, context):
    done = make(tiny_world).generate_sequence(context[:, :1], max_new_frames=2)
    still = make(tiny_world).generate_sequence(context[:, [0, 0]], max_new_frames=2)
    assert done["full_sequence"].shape[1] == 3 and torch.isfinite(done["generated_frames"]).all()
    assert done["metadata"]["context_frames"] == 1 and still["metadata"]["context_frames"] == 2


# -- every setting has its effect --------------------------------------------------------------------------------


def test_temperature_scales_the_noise_and_the_argument_wins(tiny_world, context):
    def spread(config_says: float, argument: float | None) -> float:
        """How far the futures of four equal contexts lie apart."""
        one = make(tiny_world, temperature=config_says, top_p=None)
        given: dict[str, Any] = {} if argument is None else {"temperature": argument}
        return float(latents_of(one, context[[0] * 4, -2:], max_new_frames=1, **given).std(0).mean())

    assert spread(0.8, None) > 1.5 * spread(0.2, None) > 0
    assert spread(0.8, 0.2) == spread(0.2, None) and spread(0.2, 0.8) == spread(0.8, None)  # .8 given, not left out
    assert spread(0.8, 1e-6) < 1e-5


def test_top_p_is_the_truncated_normal_distribution():
    drawn = noise([3], "test", [0], (20_000,))[0]
    kept = truncate(drawn, 0.9)
    edge = stats.norm.ppf(0.95)
    assert kept.abs().max() <= edge
    assert (kept[drawn.argsort()].diff() >= 0).all()  # every number keeps its rank
    expected = stats.truncnorm(-edge, edge)
    assert float(kept.std()) == pytest.approx(expected.std(), abs=0.02)
    assert stats.kstest(kept.numpy(), expected.cdf).pvalue > 1e-3  # seeded: no false alarm
    assert truncate(drawn, None) is drawn and truncate(drawn, 1.0) is drawn
    with pytest.raises(ValueError, match=r"top_p must be in \(0, 1\], got 0"):
        truncate(drawn, 0)


def test_top_p_reaches_the_dream(tiny_world, context):
    def latents(top_p: float | None) -> torch.Tensor:
        return latents_of(make(tiny_world, top_p=top_p), context[[0] * 4, -2:], max_new_frames=1)

    assert torch.equal(latents(None), latents(1.0))
    assert latents(0.1).std(0).mean() < 0.5 * latents(1.0).std(0).mean()


def test_the_cache_changes_the_work_and_not_the_dream(tiny_world, context, controls, monkeypatch):
    steps = []
    step = DiTWorld.step
    monkeypatch.setattr(
        DiTWorld, "step", lambda self, *args, **options: steps.append(1) or step(self, *args, **options)
    )
    with_cache = make(tiny_world).generate_sequence(context, controls, 4)
    assert len(steps) == 4
    without = make(tiny_world, use_kv_cache=False).generate_sequence(context, controls, 4)
    assert len(steps) == 4 + 10
    assert torch.equal(with_cache["generated_frames"], without["generated_frames"])


def test_only_the_context_window_is_seen(tiny_world, context, controls):
    early, late = context.clone(), context.clone()
    early[:, 0], late[:, 1] = 1 - early[:, 0], 1 - late[:, 1]

    def generated(frames: torch.Tensor) -> torch.Tensor:
        return make(tiny_world, context_window=2).generate_sequence(frames, controls, 3)["generated_frames"]

    assert torch.equal(generated(context), generated(early))
    assert not torch.allclose(generated(context), generated(late))


def test_offloading_bounds_what_stays_on_the_device(tiny_world, context, monkeypatch):
    batches = []
    decode = DiTWorld.decode
    monkeypatch.setattr(DiTWorld, "decode", lambda self, z: batches.append(len(z)) or decode(self, z))
    often = make(tiny_world, memory_offload_freq=2).generate_sequence(context[:2], max_new_frames=5)
    assert batches == [4, 4, 2] and often["performance"]["offloads"] == 3
    batches.clear()
    once = make(tiny_world, memory_offload_freq=99).generate_sequence(context[:2], max_new_frames=5)
    assert batches == [10]
    assert torch.allclose(once["generated_frames"], often["generated_frames"], atol=1.01 / 255)


def test_sequences_have_a_longest_length(tiny_world, context):
    one = make(tiny_world, max_sequence_length=5)
    assert one.generate_sequence(context, max_new_frames=2)["full_sequence"].shape[1] == 5
    with pytest.raises(ValueError, match="max_sequence_length = 5"):
        one.generate_sequence(context, max_new_frames=3)


def test_mixed_precision_computes_in_bfloat16(tiny_world, context, monkeypatch):
    monkeypatch.setattr(rollout, "fast_dtype", lambda device: torch.bfloat16)
    seen = []
    hook = tiny_world.dynamics.head.register_forward_hook(lambda module, inputs, out: seen.append(out.dtype))
    try:
        exact = latents_of(make(tiny_world), context, max_new_frames=3)
        mixed = latents_of(make(tiny_world, mixed_precision=True), context, max_new_frames=3)
    finally:
        hook.remove()
    assert set(seen) == {torch.float32, torch.bfloat16}
    assert 0 < (exact - mixed).abs().max() < 0.2
    monkeypatch.setattr(rollout, "fast_dtype", lambda device: torch.float32)  # hardware without it
    assert torch.equal(latents_of(make(tiny_world, mixed_precision=True), context, max_new_frames=3), exact)


def test_a_tuned_world_rolls_out_and_says_when_it_is_not_exact(tiny_world, context):
    fast = tune(copy.deepcopy(tiny_world))
    done = latents_of(make(fast, mixed_precision=True), context, max_new_frames=2)
    assert torch.allclose(done, latents_of(make(tiny_world), context, max_new_frames=2), atol=0.2)
    if fast.dtype == torch.bfloat16:
        with pytest.raises(ValueError, match="from_pretrained"):
            make(fast)


# -- errors ------------------------------------------------------------------------------------------------------


def test_the_published_signatures():
    arguments = list(inspect.signature(StreamingRollout).parameters)
    assert arguments[:4] == ["world_model", "vae_model", "config", "device"]
    generate = inspect.signature(StreamingRollout.generate_sequence).parameters
    assert list(generate)[1:] == [
        "context_frames", "control_sequence", "max_new_frames", "temperature", "return_intermediates"
    ]  # fmt: skip
    defaults = [generate[name].default for name in list(generate)[2:]]
    assert (
        defaults == [None, 16, 0.8, False]
        and inspect.signature(StreamingRollout).parameters["device"].default == "cuda"
    )
    assert InferenceConfig() == InferenceConfig(256, 16, 0.8, None, 0.9, True, True, 10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0, got 0"),
        ({"top_p": 1.5}, "top_p must be in"),
        ({"context_window": 0}, "context_window must be at least 1"),
        ({"memory_offload_freq": 0}, "memory_offload_freq must be at least 1"),
        ({"sampling_steps": 0}, "sampling_steps must be at least 1"),
        ({"max_sequence_length": 1}, "max_sequence_length must be at least 2"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        InferenceConfig(**settings)
    with pytest.raises(ValueError, match=message):
        InferenceConfig.from_dict(settings)


def test_top_k_needs_a_codebook(tiny_world):
    with pytest.raises(ValueError, match="discrete codebook"):
        make(tiny_world, top_k=50)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context_frames": torch.zeros(3, 64, 64)}, r"context_frames must be \[B, Tc >= 1, 3, 64, 64\]"),
        ({"context_frames": torch.zeros(1, 2, 3, 32, 64)}, "context_frames must be"),
        ({"context_frames": torch.full((1, 2, 3, 64, 64), 1.5)}, r"in \[0, 1\], got torch.float32 from 1.5"),
        ({"context_frames": torch.full((1, 2, 3, 64, 64), torch.nan)}, r"in \[0, 1\]"),
        ({"context_frames": torch.zeros(1, 2, 3, 64, 64, dtype=torch.uint8)}, "got torch.uint8"),
        ({"control_sequence": torch.zeros(3, 6, 2)}, r"control_sequence must be \[3, >= 7, >= 2\]"),
        ({"control_sequence": torch.zeros(3, 10, 1)}, "control_sequence must be"),
        ({"control_sequence": torch.full((3, 10, 2), 2.0)}, r"in \[-1, 1\]"),
        ({"control_sequence": torch.full((3, 10, 2), torch.nan)}, "finite"),
        ({"max_new_frames": 0}, "max_new_frames must be at least 1"),
        ({"temperature": -1.0}, "temperature must be above 0 and finite, got -1"),
        ({"temperature": torch.inf}, "temperature must be above 0 and finite, got inf"),
    ],
)
def test_bad_input_is_named(tiny_world, context, change, message):
    arguments = {"context_frames": context, "control_sequence": None, "max_new_frames": 4, **change}
    with pytest.raises(ValueError, match=message):
        make(tiny_world).generate_sequence(**arguments)


def recover(one: StreamingRollout, context_frames: torch.Tensor) -> torch.Tensor | None:
    """The error handling that the API reference shows."""
    try:
        result = one.generate_sequence(context_frames, max_new_frames=16)
    except RuntimeError as e:
        if "out of memory" in str(e):
            torch.cuda.empty_cache()
            result = one.generate_sequence(context_frames, max_new_frames=8)
        else:
            raise e
    except ValueError as e:
        print(f"Invalid input: {e}")
        return None
    return result["generated_frames"]


def test_the_error_handling_of_the_reference_works(tiny_world, context, monkeypatch, capsys):
    one, untouched = make(tiny_world), make(tiny_world)
    step, count = DiTWorld.step, []

    def small(self, *arguments, **options):
        count.append(1)
        if len(count) == 12:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return step(self, *arguments, **options)

    monkeypatch.setattr(DiTWorld, "step", small)
    frames = recover(one, context)
    assert frames is not None and frames.shape[1] == 8 and len(count) == 12 + 8
    expected = untouched.generate_sequence(context, max_new_frames=8)["generated_frames"]
    assert torch.equal(frames, expected)  # the call that failed left nothing behind
    assert recover(one, torch.zeros(1, 2, 3, 9, 9)) is None and "Invalid input: context" in capsys.readouterr().out

    def greedy(self, latents):
        return torch.empty(len(latents) << 50) if len(latents) > 3 * 8 else decode(self, latents)

    decode = DiTWorld.decode
    monkeypatch.setattr(DiTWorld, "step", step)
    monkeypatch.setattr(DiTWorld, "decode", greedy)  # the CPU's own allocator refuses
    frames = recover(make(tiny_world, memory_offload_freq=16), context)
    assert frames is not None and torch.equal(frames, expected)

    def broken(self, *arguments, **options):
        raise RuntimeError("device-side assert")

    monkeypatch.setattr(DiTWorld, "step", broken)
    with pytest.raises(RuntimeError, match="device-side"):
        recover(one, context)
