"""Consistency in phases (PCM, Wang et al. 2024, arXiv 2405.18407): each phase of the path has an end of its own.

A student of P phases is asked to be right within a phase only, which is easier, and makes data in P passes. A schedule
may begin with many phases and end with few. The distance is the pseudo-Huber one, which outliers pull less.
"""

from __future__ import annotations

from torch import Tensor

from drivedit.config import DistillConfig
from drivedit.models import DiTWorld
from drivedit.models.flow.phases import check_phases, phases_at
from drivedit.training.losses import pseudo_huber
from drivedit.training.methods.consistency import Consistency


class Phased(Consistency):
    """Trains a student on the steps of its teacher, to the end of each phase.

    Args:
        world: The student, and the teacher as it is now.
        config: The loss.

    Raises:
        ValueError: The schedule cannot be read, or has more phases than the grid has points.
    """

    def __init__(self, world: DiTWorld, config: DistillConfig) -> None:
        super().__init__(world, config)
        check_phases(config.phases, config.grid)

    def phases(self, step: int) -> int:
        """Those of the schedule, whose steps are counted from 1."""
        return phases_at(self.distill.phases, step + 1)

    def distance(self, out: Tensor, aim: Tensor) -> Tensor:
        """The pseudo-Huber distance."""
        return pseudo_huber(out - aim, self.distill.huber)
