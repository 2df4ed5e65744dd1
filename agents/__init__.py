"""Who drives: scripted drivers that see pixels only, a planner that tries futures in the dream, and their judge.

`drivedit.agents.judging.judge` compares how policies drive in a dream and in reality.
"""

from importlib import import_module
from typing import Any

from drivedit.agents.load import load_agent
from drivedit.agents.planning.planner import Planner, Search
from drivedit.config import DEFAULT_WORLD, find_domain

__all__ = ["Planner", "Search", "load_agent"]


def __getattr__(name: str) -> Any:
    """Imports a class of the default world's policies, which stand in its domain: `LaneKeeper` and its `Skill`."""
    found = None
    if name[:1].isupper():
        found = getattr(import_module(find_domain(DEFAULT_WORLD).policies.partition(":")[0]), name, None)
    if found is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return found
