"""Who drives: scripted drivers that see pixels only, a planner that tries futures in the dream, and their judge.

`drivedit.agents.judging.judge` compares how policies drive in a dream and in reality.
"""

from importlib import import_module
from typing import Any

from drivedit.agents.load import load_agent
from drivedit.agents.planning.planner import Planner, Search
from drivedit.config import DEFAULT_WORLD, find_domain

LaneKeeper: Any  # these two live with the policies of the default world's domain, see `__getattr__`
Skill: Any

__all__ = ["LaneKeeper", "Planner", "Search", "Skill", "load_agent"]


def __getattr__(name: str) -> Any:
    """Imports a public name that lives with the policies of the default world's domain."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(find_domain(DEFAULT_WORLD).policies.partition(":")[0]), name)


def __dir__() -> list[str]:
    """The public names."""
    return __all__
