"""Who drives: scripted drivers that see pixels only, and the loop that lets them drive an environment."""

from drivedit.agents.lane_keeper import LaneKeeper, Skill

__all__ = ["LaneKeeper", "Skill"]
