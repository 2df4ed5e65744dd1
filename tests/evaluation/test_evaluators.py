"""Evaluators and benchmarks judge what a model makes, and tell its speed from the clock."""

import inspect
import json
import math

import numpy as np
import pytest
import torch

from drivedit.evaluation import PerformanceBenchmark, SequenceEvaluator, WorldModelBenchmark, compute_all_metrics
from drivedit.evaluation.suites import performance
from drivedit.inference import InferenceConfig, StreamingRollout
from drivedit.models import VAE3D, DiTStudent, DiTWorld


def copy_last(context: torch.Tensor, controls: torch.Tensor | None, count: int) -> torch.Tensor:
    """The baseline that keeps the last frame."""
    return context[:, -1:].expand(-1, count, -1, -1, -1)


@pytest.fixture(scope="module")
def clips() -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return {"frames": torch.rand(3, 6, 3, 64, 64, generator=rng), "controls": torch.rand(3, 6, 2, generator=rng)}


@pytest.fixture(scope="module")
def student() -> tuple[DiTStudent, VAE3D]:
    torch.manual_seed(1)
    network = DiTStudent(16, 16, 1, 2, dropout=0.0, tokens_per_frame=16, window=4, history=1, control_dim=7)
    return network, VAE3D(latent_dim=4, hidden_dims=[8] * 4, num_res_blocks=1, use_attention=False)


# -- sequences ---------------------------------------------------------------------------------------------------


def test_a_model_that_knows_the_future_is_perfect_and_the_copy_is_what_it_is(clips):
    context, target = clips["frames"][:, :2], clips["frames"][:, 2:]
    knows = SequenceEvaluator(lambda context, controls, count: target, device="cpu")
    found = knows.evaluate_sequence(context, target, return_generated=True)
    assert found["mse"] == 0 and math.isinf(found["psnr"]) and found["ssim"] == pytest.approx(1)
    assert torch.equal(found["generated_frames"], target) and len(found["psnr_per_frame"]) == 4
    copied = SequenceEvaluator(copy_last, device="cpu", compute_expensive_metrics=False)
    found = copied.evaluate_sequence(context, target)
    assert found["mse"] == pytest.approx(float((target - context[:, -1:]).square().mean()))
    assert found["temporal_mse"] == 0 and found["fps"] == pytest.approx(12 / found["generation_time_s"])
    assert "ssim" not in found and "generated_frames" not in found


def test_the_psnr_of_each_frame_tells_where_it_goes_wrong(clips):
    target = 0.5 * clips["frames"][:, 2:]

    def worse_and_worse(context, controls, count):
        return target + 0.1 * torch.arange(1, count + 1)[:, None, None, None]

    found = SequenceEvaluator(worse_and_worse, device="cpu").evaluate_sequence(clips["frames"][:, :2], target)
    assert found["psnr_per_frame"] == pytest.approx([-20 * math.log10(0.1 * k) for k in range(1, 5)], rel=1e-4)


def test_a_world_is_judged_by_what_it_dreams(tiny_world, clips):
    evaluator = SequenceEvaluator(tiny_world, device="cpu")
    context, target = clips["frames"][:, :2], clips["frames"][:, 2:]
    found = evaluator.evaluate_sequence(context, target, clips["controls"], return_generated=True)
    again = evaluator.evaluate_sequence(context, target, clips["controls"])
    config = InferenceConfig(temperature=tiny_world.config.temperature, top_p=None)
    rollout = StreamingRollout(tiny_world, None, config, "cpu")
    made = rollout.generate_sequence(context, clips["controls"], 4)["generated_frames"]
    assert torch.equal(made, found["generated_frames"]) and found["psnr"] == again["psnr"]
    assert found["ssim"] == pytest.approx(float(compute_all_metrics(made, target)["ssim"]))


def test_batches_are_cut_into_context_and_target(clips):
    cuts = []

    def watch(context, controls, count):
        cuts.append((context.shape[1], count, None if controls is None else controls.shape[1]))
        return copy_last(context, controls, count)

    evaluator = SequenceEvaluator(watch, device="cpu", compute_expensive_metrics=False)
    evaluator.evaluate_batch(clips)
    for ratio in (0.01, 0.99):
        evaluator.evaluate_batch({"frames": clips["frames"]}, context_ratio=ratio)
    assert cuts == [(3, 3, 6), (1, 5, None), (5, 1, None)]
    with pytest.raises(KeyError, match="'frames', got .'video'"):
        evaluator.evaluate_batch({"video": clips["frames"]})
    with pytest.raises(ValueError, match="context_ratio must be between 0 and 1, got 1"):
        evaluator.evaluate_batch(clips, 1.0)
    with pytest.raises(ValueError, match=r"T >= 2"):
        evaluator.evaluate_batch({"frames": clips["frames"][:, :1]})


def test_a_student_needs_its_autoencoder(student, clips):
    network, vae = student
    found = SequenceEvaluator(network, vae, "cpu", False).evaluate_batch({"frames": clips["frames"][:1, :4]})
    assert math.isfinite(found["psnr"])
    with pytest.raises(ValueError, match="give its VAE3D"):
        SequenceEvaluator(network, device="cpu")
    with pytest.raises(ValueError, match="autoencoder of a DiTStudent"):
        SequenceEvaluator(copy_last, vae, "cpu")
    with pytest.raises(ValueError, match="function of frames, got <class 'int'>"):
        SequenceEvaluator(3, device="cpu")


def test_models_that_make_something_else_are_named(clips):
    context, target = clips["frames"][:, :2], clips["frames"][:, 2:]
    short = SequenceEvaluator(lambda context, controls, count: context, device="cpu")
    with pytest.raises(ValueError, match=r"must make finite frames \(3, 4, 3, 64, 64\), got \(3, 2"):
        short.evaluate_sequence(context, target)
    wild = SequenceEvaluator(lambda context, controls, count: target * torch.nan, device="cpu")
    with pytest.raises(ValueError, match="finite"):
        wild.evaluate_sequence(context, target)
    with pytest.raises(ValueError, match="alike but for T"):
        wild.evaluate_sequence(context[..., :32], target)


def test_the_published_signatures():
    def names(call) -> list[str]:
        return [p.name for p in inspect.signature(call).parameters.values() if p.kind == p.POSITIONAL_OR_KEYWORD]

    assert names(SequenceEvaluator) == ["model", "vae_model", "device", "compute_expensive_metrics"]
    assert names(SequenceEvaluator.evaluate_sequence)[1:] == [
        "context_frames", "target_frames", "controls", "return_generated"
    ]  # fmt: skip
    assert names(PerformanceBenchmark) == ["model", "device"]
    assert names(WorldModelBenchmark) == ["model", "vae_model", "device", "save_path"]
    run = inspect.signature(WorldModelBenchmark.run_full_benchmark).parameters
    assert list(run)[1:] == ["test_data", "sequence_lengths", "batch_sizes", "num_iterations"]
    assert [p.default for p in run.values()][2:] == [(8, 16, 32), (1, 4, 8), 10]
    assert names(compute_all_metrics) == [
        "pred_frames", "target_frames", "pred_controls", "target_controls", "pred_depth", "target_depth", "positions"
    ]  # fmt: skip


# -- speed -------------------------------------------------------------------------------------------------------


def test_speed_is_told_from_the_clock(tiny_world, monkeypatch):
    """A clock that only the world moves: a step of B worlds takes 10 + B ms, a start 5 ms, nothing else takes time."""
    now = [0.0]
    step, start = DiTWorld.step, DiTWorld.start

    def slow_step(self, state, controls):
        now[0] += 0.010 + 0.001 * len(state)
        return step(self, state, controls)

    def slow_start(self, scenes, seeds):
        now[0] += 0.005
        return start(self, scenes, seeds)

    monkeypatch.setattr(DiTWorld, "step", slow_step)
    monkeypatch.setattr(DiTWorld, "start", slow_start)
    monkeypatch.setattr(performance.time, "perf_counter", lambda: now[0])
    suite = PerformanceBenchmark(tiny_world, "cpu", batch_sizes=(1, 3), sequence_lengths=(2, 4), iterations=6)
    found = suite.run_performance_suite()
    assert found["latency"] == pytest.approx({"mean_ms": 11, "median_ms": 11, "p95_ms": 11, "max_ms": 11})
    assert found["throughput"] == pytest.approx({1: 1 / 0.011, 3: 3 / 0.013})
    assert found["scalability"]["time_s"] == pytest.approx({2: 0.027, 4: 0.049})
    assert found["scalability"]["exponent"] == pytest.approx(math.log(49 / 27, 2))
    parameters = sum(p.numel() for p in tiny_world.parameters())
    assert found["memory"]["parameters_mb"] == pytest.approx(4 * parameters / 2**20, rel=0.1)
    ring = 2 * 1 * 2 * 4 * 16 * 16 * 4 / 2**20  # keys and values: layers, heads, window, tokens, width, bytes
    assert ring < found["memory"]["state_mb"] < 3 * ring and found["memory"]["peak_mb"] is None


def test_a_student_is_timed_inside_a_rollout(student):
    network, vae = student
    rollout = StreamingRollout(network, vae, InferenceConfig(), "cpu")
    suite = PerformanceBenchmark(rollout, "cpu", batch_sizes=(2,), sequence_lengths=(2,), iterations=2)
    found = suite.run_performance_suite()
    assert found["throughput"][2] > 0 and math.isnan(found["scalability"]["exponent"])
    with pytest.raises(ValueError, match="must be a World, or a StreamingRollout"):
        PerformanceBenchmark(copy_last, "cpu")


# -- the whole benchmark -----------------------------------------------------------------------------------------


def test_the_benchmark_draws_the_same_clips_in_every_run_and_skips_what_does_not_fit(clips, tmp_path):
    path = tmp_path / "reports" / "benchmark.json"
    benchmark = WorldModelBenchmark(copy_last, device="cpu", save_path=str(path))
    found = benchmark.run_full_benchmark(clips, [2, 4, 9], [1, 3, 5], num_iterations=4)
    assert [(row["sequence_length"], row["batch_size"]) for row in found["results"]] == [(2, 1), (2, 3), (4, 1), (4, 3)]
    assert len(found["skipped"]) == 5 and found["performance"] is None
    reasons = {(row["sequence_length"], row["batch_size"]): row["reason"] for row in found["skipped"]}
    assert reasons[9, 1] == "clips of 9 frames, the data has 6"
    assert reasons[2, 5] == "batches of 5, the data has 3 sequences"
    again = benchmark.run_full_benchmark(clips, [4], [1], num_iterations=4)["results"][0]
    assert again["mean"]["mse"] == found["results"][2]["mean"]["mse"]
    one, three = found["results"][2], found["results"][3]
    assert (
        0.1 < one["mean"]["mse"] < 0.25 and one["std"]["mse"] > three["std"]["mse"] > 0
    )  # of independent uniforms: 1/6
    stored = json.loads(path.read_text())
    assert stored["results"][0]["mean"]["mse"] == again["mean"]["mse"]
    assert [file.name for file in path.parent.iterdir()] == ["benchmark.json"]


def test_the_benchmark_of_a_world_has_its_speed(tiny_world, clips, monkeypatch, tmp_path):
    monkeypatch.setattr(PerformanceBenchmark, "run_performance_suite", lambda self: {"of": self.world})
    found = WorldModelBenchmark(tiny_world, device="cpu").run_full_benchmark(clips, [4], [2], 1)
    assert found["performance"] == {"of": tiny_world} and math.isfinite(found["results"][0]["mean"]["psnr"])
    benchmark = WorldModelBenchmark(copy_last, device="cpu")
    with pytest.raises(KeyError, match="'frames'"):
        benchmark.run_full_benchmark({})
    with pytest.raises(ValueError, match="at least 2"):
        benchmark.run_full_benchmark(clips, [1])
    with pytest.raises(ValueError, match=r"controls \[N, T, K\]"):
        benchmark.run_full_benchmark({**clips, "controls": clips["controls"][:, :3]})
    with pytest.raises(ValueError, match="is a folder"):
        WorldModelBenchmark(copy_last, device="cpu", save_path=str(tmp_path))


def test_infinite_figures_are_null_in_the_file(clips, tmp_path):
    still = {"frames": clips["frames"][:, :1].expand(-1, 4, -1, -1, -1)}
    path = tmp_path / "benchmark.json"
    WorldModelBenchmark(copy_last, device="cpu", save_path=str(path)).run_full_benchmark(still, [4], [1], 2)
    row = json.loads(path.read_text())["results"][0]
    assert row["mean"]["mse"] == 0 and row["mean"]["psnr"] is None and np.isfinite(row["mean"]["ssim"])
