"""CarRacing from above: what a world of it is about, and the simulator that records it."""

from __future__ import annotations

import math

from drivedit.config.spec import Modality, Quantity, RewardTerm, WorldSpec

ENV_ID = "CarRacingTwin-v0"  # Gymnasium's name of the simulator
SIMULATOR = "drivedit.data.domains.carracing.twin:CarRacingTwin"
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
