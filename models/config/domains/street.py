"""A street with traffic, from the driver's seat and by LiDAR: what a world of it is about, and what records it."""

from __future__ import annotations

import math

from drivedit.config.domain import DomainConfig
from drivedit.config.spec import Modality, Quantity, RewardTerm, WorldSpec

SPEC = WorldSpec(
    domain="street",
    observations={
        "camera": Modality((64, 128, 3)),
        "range": Modality((32, 256, 2), "float32", 0.0, 85.0, "m"),
    },
    controls=[Quantity("steering"), Quantity("throttle")],
    telemetry=[
        Quantity("speed", 0.0, 60.0, 10.0, "m/s"),
        Quantity("lateral_offset", -60.0, 60.0, 2.0, "m"),
        Quantity("heading_error", -math.pi, math.pi, 0.3, "rad"),
        Quantity("gap", 0.0, 100.0, 30.0, "m"),
        Quantity("closing_speed", -60.0, 60.0, 5.0, "m/s"),
        Quantity("lane", 0.0, 1.0, 1.0, "index"),
        Quantity("wheels_on_road", 0.0, 1.0, 0.5, "share"),
    ],
    rewards={
        "progress": RewardTerm("learned", 0.15),
        "lane": RewardTerm("learned", 0.1),
        "time": RewardTerm("constant", -0.05),
        "collision": RewardTerm("on_end", -20.0),
        "off_road": RewardTerm("on_end", -20.0),
        "wrong_way": RewardTerm("on_end", -20.0),
    },
    conditions=["route"],
    attributes={
        "road": ["town", "rural", "highway"],
        "weather": ["clear", "fog", "rain", "snow"],
        "time": ["day", "dusk", "night"],
        "traffic": ["none", "light", "dense"],
    },
    dt=0.1,
    any_dt=True,
    endings={
        "collision": "the car hit another one, or what stands beside the road",
        "off_road": "the car left the road and its verge",
        "wrong_way": "the car turned against its direction",
    },
)

_HERE = "drivedit.data.domains.street"
DOMAIN = DomainConfig(
    spec=SPEC,
    env_id="StreetTwin-v0",
    simulator=f"{_HERE}.twin:StreetTwin",
    drivers=f"{_HERE}.drivers:make_driver",
    recording_starts=f"{_HERE}.drivers:draw_good_start",
    judging_starts={"track_position": (0.0, 1.0), "speed": (5.0, 12.0)},
    judging_attributes={"traffic": "dense"},  # where others are, policies differ by how they drive among them
    steady={"lateral_offset": (-1.0, 1.0), "heading_error": (-0.15, 0.15), "wheels_on_road": (1.0, 1.0)},
    policies=f"{_HERE}.policies:POLICIES",
    on_road="wheels_on_road",
    run_up="cautious",
    probes=f"{_HERE}.probes:PROBES",
)
