"""Agents by name: what a command line can let drive."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, cast

from drivedit.agents.drive import Agent
from drivedit.agents.lane_keeper import LaneKeeper
from drivedit.agents.policy import Policy


def load_agent(name: str, seed: int = 0) -> Agent:
    """Finds an agent.

    Args:
        name: `lane_keeper`; a file `PATH.safetensors` that training wrote; a file `PATH.zip` of Stable-Baselines3,
            which is read without unpickling; or `module:callable` of your own: a class, which is called without
            arguments to make an agent, or a function that takes a frame and returns an action.
        seed: Of the lane keeper.

    Raises:
        ValueError: There is no such agent, or it cannot be called.
        FileNotFoundError: There is no such file.
    """
    if name == "lane_keeper":
        return LaneKeeper(seed=seed)
    if Path(name).suffix in (".safetensors", ".zip"):
        return Policy.load(name)
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ValueError(f"an agent is lane_keeper, PATH.safetensors, PATH.zip or module:callable, got {name!r}")
    try:
        found: Any = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"the agent {name!r} cannot be imported: {error}") from error
    agent = found() if isinstance(found, type) else found
    if not callable(agent):
        raise ValueError(f"the agent {name!r} cannot be called with a frame, it is a {type(agent).__name__}")
    return cast(Agent, agent)
