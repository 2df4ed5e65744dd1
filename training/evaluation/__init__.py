"""Metrics and benchmarks of a world against recordings."""

from typing import TYPE_CHECKING

from drivedit.utils.lazy import lazily

if TYPE_CHECKING:
    from drivedit.evaluation.evaluators import SequenceEvaluator, compute_all_metrics
    from drivedit.evaluation.metrics.driving import ControlMetrics, PhysicsMetrics
    from drivedit.evaluation.metrics.video import TemporalConsistencyMetrics, VideoMetrics
    from drivedit.evaluation.suites.performance import PerformanceBenchmark
    from drivedit.evaluation.suites.world_benchmark import WorldModelBenchmark
else:
    __getattr__, __dir__ = lazily(__name__)

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
