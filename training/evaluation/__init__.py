"""Metrics and benchmarks of a world against recordings."""

from drivedit.evaluation.driving_metrics import ControlMetrics, PhysicsMetrics
from drivedit.evaluation.evaluators import SequenceEvaluator, compute_all_metrics
from drivedit.evaluation.performance import PerformanceBenchmark
from drivedit.evaluation.video_metrics import TemporalConsistencyMetrics, VideoMetrics
from drivedit.evaluation.world_benchmark import WorldModelBenchmark

__all__ = [
    "ControlMetrics",
    "PerformanceBenchmark",
    "PhysicsMetrics",
    "SequenceEvaluator",
    "TemporalConsistencyMetrics",
    "VideoMetrics",
    "WorldModelBenchmark",
    "compute_all_metrics",
]
