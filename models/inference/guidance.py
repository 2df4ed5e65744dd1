"""A world whose every step is guided, for those who step it without asking how."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor

from drivedit.models import Sampling, World


@contextmanager
def under_guidance(world: World, scale: float) -> Iterator[World]:
    """Within it `step` of the world dreams under guidance on the controls; a scale of 1 is none.

    Raises:
        ValueError: The world takes no such guidance.
    """
    scale, step = world.check_guidance(scale), world.step

    def guided(state: Any, controls: Tensor, dt: Tensor | None = None, *, sampling: Sampling | None = None) -> Any:
        return step(state, controls, dt, sampling=replace(sampling or Sampling(), guidance=scale))

    try:
        if scale != 1:
            vars(world)["step"] = guided
        yield world
    finally:
        vars(world).pop("step", None)
