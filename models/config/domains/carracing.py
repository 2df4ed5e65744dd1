"""CarRacing from above: what a world of it is about, and the simulator that records it."""

from __future__ import annotations

import math

from drivedit.config.domain import DomainConfig
from drivedit.config.spec import Modality, Quantity, RewardTerm, WorldSpec

SPEC = WorldSpec(
    domain="carracing",
    observations={"camera": Modality((64, 64, 3))},
    controls=[Quantity("steering"), Quantity("throttle")],
    telemetry=[
        Quantity("speed", -200.0, 200.0, 20.0, "m/s"),
        Quantity("lateral_offset", -1000.0, 1000.0, 10.0, "m"),
        Quantity("heading_error", -math.pi, math.pi, 1.0, "rad"),
        Quantity("wheels_on_road", 0.0, 1.0, 0.5, "share"),
    ],
    rewards={
        "progress": RewardTerm("learned", 3.5),
        "time": RewardTerm("constant", -0.3),
        "left": RewardTerm("on_end", -100.0),
    },
    conditions=["route"],
    dt=1 / (1 / 0.06),  # three ticks of the simulator; of 1 / 0.06 frames per second
    endings={"left": "the car left the playfield"},
)

_HERE = "drivedit.data.domains.carracing"
DOMAIN = DomainConfig(
    spec=SPEC,
    env_id="CarRacingTwin-v0",
    simulator=f"{_HERE}.twin:CarRacingTwin",
    drivers=f"{_HERE}.drivers:make_driver",
    recording_starts=f"{_HERE}.drivers:draw_good_start",
    judging_starts={"track_position": (0.0, 1.0), "speed": (20.0, 40.0)},
    steady={"lateral_offset": (-4.0, 4.0), "heading_error": (-0.3, 0.3), "wheels_on_road": (1.0, 1.0)},
    policies=f"{_HERE}.policies:POLICIES",
    on_road="wheels_on_road",
    run_up="lane_keeper",
    probes=f"{_HERE}.probes:PROBES",
    landmarks=f"{_HERE}.landmarks:LANDMARKS",
    public={"CarRacingReal-v0": f"{_HERE}.real:CarRacingReal"},
    solved=900.0,
)
