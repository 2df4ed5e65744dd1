"""What methods share that learn from a frozen world: its clean estimates, under guidance on the controls.

Legend: B clips, T frames, P tokens per frame, D token width.
"""

from __future__ import annotations

from torch import Tensor

from drivedit.config import DistillConfig
from drivedit.models import DiTWorld
from drivedit.models.dit.networks import without_controls
from drivedit.models.flow.sampler import guided
from drivedit.training.methods.clips import Given
from drivedit.training.methods.dynamics import DynamicsMethod, predict_clean
from drivedit.training.methods.method import Frozen


class TaughtMethod(DynamicsMethod):
    """Trains a student by a world that was trained on recordings.

    Args:
        world: The student, and the teacher as it is now.
        config: The loss.

    Raises:
        ValueError: Guidance is asked of a teacher that never learned to dream without its controls.
    """

    hot = ("run", "predict_clean")

    def __init__(self, world: DiTWorld, config: DistillConfig) -> None:
        super().__init__(world, config)
        world.check_guidance(config.guidance)
        self.distill = config
        self.predict_clean = predict_clean
        self.teacher = Frozen(self.dynamics)

    def teach(self, noisy: Tensor, sigma: Tensor, given: Given) -> Tensor:
        """The teacher's clean estimate `[B, T, P, D]` of frames at levels `[B, T]`, under guidance."""
        scale = self.distill.guidance
        plain = given if scale == 1 else (without_controls(given[0], self.null_control), *given[1:])
        return guided(self._estimate, scale, plain)(noisy, sigma, given)

    def _estimate(self, x: Tensor, sigma: Tensor, given: Given) -> Tensor:
        return self.predict_clean(self.teacher.network, x, sigma, *given)[0]
