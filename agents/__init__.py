"""Who drives: scripted drivers that see pixels only, a planner that tries futures in the dream, and their judge.

`drivedit.agents.judging.judge` compares how policies drive in a dream and in reality.
"""

from drivedit.agents.drivers.lane_keeper import LaneKeeper, Skill
from drivedit.agents.load import load_agent
from drivedit.agents.planning.planner import Planner, Search

__all__ = ["LaneKeeper", "Planner", "Search", "Skill", "load_agent"]
