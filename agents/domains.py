"""What agents need to know of domains: where they drive if nothing is said, and which domain an environment is of."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from drivedit.config import DEFAULT_WORLD, DomainConfig, all_domains, domain_of, find_domain
from drivedit.config.rooms import SHIPS

DEFAULT = find_domain(DEFAULT_WORLD)
SIMULATOR = f"{SHIPS}:{DEFAULT.env_id}"
PUBLIC = f"{SHIPS}:{next(iter(DEFAULT.public))}"


def domain_behind(env: gym.Env | gym.vector.VectorEnv) -> DomainConfig | None:
    """The domain that a dream's world is about, or whose simulator an environment is; None: it is of no domain."""
    inside: Any = getattr(env.unwrapped, "envs", [env])[0]  # one of those that a vector environment has
    world = getattr(inside.unwrapped, "world", None)  # of a dream; a simulator may have a world of its own kind
    about = getattr(getattr(world, "spec", None), "domain", None)
    if about is not None:
        return all_domains().get(about)
    return None if inside.spec is None else domain_of(inside.spec.id)


def on_road_of(env: gym.Env | gym.vector.VectorEnv) -> str:
    """Name of the telemetry value that is the share of the car on the road, the default domain's where none is known.

    It is empty where the environment's domain has no such value.
    """
    return (domain_behind(env) or DEFAULT).on_road
