"""Agents by name: what a command line can let drive."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any, cast

from drivedit.agents.drive import Agent
from drivedit.agents.drivers.policies import find_policy, make_policy, policy_names
from drivedit.agents.drivers.policy import Policy
from drivedit.agents.drivers.zips import read_zip


def load_agent(name: str, seed: int = 0, world: str | None = None) -> Agent:
    """Finds an agent.

    Args:
        name: Of a policy (`drivedit.agents.drivers.policies.policy_names`), or `DOMAIN/NAME`; a file
            `PATH.safetensors` that training wrote; a file `PATH.zip` of Stable-Baselines3, which is read without
            unpickling; or `module:callable` of your own: a function that takes an observation and returns an action, or
            a class of such (with an argument `seed` it gets the seed).
        seed: Of the agent's own chance.
        world: Where the world is whose latents a trained agent sees, if it sees such; None: where training had it
            (a zip does not say).

    Raises:
        ValueError: There is no such agent, there are several, or it cannot be called.
        FileNotFoundError: There is no such file.
    """
    if found := find_policy(name):
        return make_policy(*found, seed)
    if Path(name).suffix == ".zip":
        return read_zip(name, world=world)
    if Path(name).suffix == ".safetensors":
        return Policy.load(name, world)
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        names = ", ".join(policy_names())
        raise ValueError(f"an agent is one of {names}, PATH.safetensors, PATH.zip or module:callable; got {name!r}")
    try:
        agent: Any = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"the agent {name!r} cannot be imported: {error}") from error
    if isinstance(agent, type):
        agent = agent(seed=seed) if "seed" in inspect.signature(agent).parameters else agent()
    if not callable(agent):
        raise ValueError(f"the agent {name!r} cannot be called with a frame, it is a {type(agent).__name__}")
    return cast(Agent, agent)
