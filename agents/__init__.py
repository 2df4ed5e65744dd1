"""Who drives: scripted drivers that see pixels only, a planner that tries futures in the dream, and their judge.

`drivedit.agents.judging.judge` compares how policies drive in a dream and in reality.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from drivedit.config import DEFAULT_WORLD, find_domain
from drivedit.utils.lazy import lazily

if TYPE_CHECKING:
    from drivedit.agents.load import load_agent
    from drivedit.agents.planning.planner import Planner, Search

__all__ = ["Planner", "Search", "load_agent"]


def _policy(name: str) -> Any:
    """A class of the default world's policies, which stand in its domain: `LaneKeeper` and its `Skill`."""
    if not name[:1].isupper():
        return None
    return getattr(import_module(find_domain(DEFAULT_WORLD).policies.partition(":")[0]), name, None)


__getattr__, __dir__ = lazily(__name__, _policy)
