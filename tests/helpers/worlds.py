"""Specs of worlds for tests."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch

from drivedit.config import Modality, Quantity, RewardTerm, WorldSpec
from drivedit.config.domains.carracing import SPEC
from drivedit.models import DiTState, StepOutput


def spec_of(height: int = 64, width: int = 64, **changes) -> WorldSpec:
    """The spec of CarRacing with pictures of another size, and other changes."""
    return replace(SPEC, observations={"camera": Modality((height, width, 3))}, **changes)


def film_spec(height: int = 64, width: int = 64, telemetry: tuple[str, ...] = (), **changes) -> WorldSpec:
    """The spec of a film: pictures and controls, some telemetry, no reward."""
    told = [Quantity(name, -1e9, 1e9) for name in telemetry]
    return spec_of(height, width, **{"telemetry": told, "rewards": {"progress": RewardTerm("learned")}, **changes})


def told(state: DiTState, out: StepOutput) -> Any:
    """What a step gave, with the latents and the telemetry as one array each."""
    values = torch.stack([*out.telemetry.values()], 1) if out.telemetry else torch.zeros(len(state), 0)
    return SimpleNamespace(
        **{**vars(out), "latent": state.latents[:, 0].clone(), "telemetry": values, "reward": out.reward}
    )
