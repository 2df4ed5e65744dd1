"""What the viewer and the bench need to know of the domain that a world is of."""

from __future__ import annotations

import numpy as np

from drivedit.config import DomainConfig, all_domains
from drivedit.models import World
from drivedit.utils import load_object

GENTLE = 0.1  # share of what the controls allow


def domain_of_world(world: World) -> DomainConfig | None:
    """The domain that a world is of; None: it is of none, as that of a film."""
    return all_domains().get(world.spec.domain)


def gentle_controls(world: World) -> np.ndarray:
    """Ranges of controls under which little happens, `[2, C]`: the domain's own where it has such."""
    domain = domain_of_world(world)
    if domain is not None and domain.probes:
        return np.asarray(load_object(domain.probes).gentle)
    return GENTLE * np.array([(each.low, each.high) for each in world.spec.controls]).T
