"""Policies by name: 28 scripted drivers of widely different skill.

They see frames only, so they drive a dream and the simulator alike. Together they span what a judge of policies has to
tell apart: from fast and clean, over slow, late, shaky and lopsided, to standing still.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from drivedit.data.blind_policies import Erratic, Fixed
from drivedit.data.domains.carracing.lane_keeper import LaneKeeper, Skill

Policy = Callable[[np.ndarray], Any]

SKILLS: dict[str, Skill] = {
    "lane_keeper": Skill(),
    "brisk": Skill(target_speed=42.0, grip=75.0),
    "racer": Skill(target_speed=55.0, grip=90.0),
    "reckless": Skill(target_speed=70.0, grip=200.0),
    "calm": Skill(target_speed=27.0),
    "careful": Skill(target_speed=20.0),
    "slow": Skill(target_speed=14.0),
    "crawling": Skill(target_speed=8.0),
    "creeping": Skill(target_speed=4.0),
    "soft_hands": Skill(gain=0.5),
    "limp_hands": Skill(gain=0.2),
    "nervous": Skill(gain=2.5),
    "late": Skill(delay=3),
    "very_late": Skill(delay=6),
    "asleep": Skill(delay=12),
    "slow_and_late": Skill(delay=6, target_speed=15.0),
    "shaky": Skill(noise=0.1),
    "drunk": Skill(noise=0.25),
    "slow_drunk": Skill(noise=0.25, target_speed=15.0),
    "wild": Skill(noise=0.6),
    "pulls_left": Skill(bias=-0.05),
    "pulls_right": Skill(bias=0.12),
    "veers_left": Skill(bias=-0.25),
    "short_sighted": Skill(lookahead=4.5, lookahead_time=0.0),
    "far_sighted": Skill(lookahead=24.0),
}


def _keeper(skill: Skill) -> Callable[[int], Policy]:
    return lambda seed: LaneKeeper(skill, seed)


POLICIES: dict[str, Callable[[int], Policy]] = {
    **{name: _keeper(skill) for name, skill in SKILLS.items()},
    "straight_on": lambda seed: Fixed((0.0, 0.2)),
    "parked": lambda seed: Fixed((0.0, 0.0)),
    "fumbling": Erratic,
}
