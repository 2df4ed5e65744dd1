"""What a world of the plane is about, and where its parts are."""

from drivedit.config import DomainConfig, Modality, Quantity, RewardTerm, WorldSpec

DOMAIN = DomainConfig(
    spec=WorldSpec(
        domain="plane",
        observations={"map": Modality((16, 32, 1))},
        controls=[Quantity("push", -2, 2), Quantity("turn"), Quantity("brake", 0)],
        telemetry=[Quantity("speed", 0, 20, 2.0, "m/s"), Quantity("height", -8, 8, 4.0, "m")],
        rewards={"near": RewardTerm("learned"), "out": RewardTerm("on_end", -5.0)},
        dt=0.2,
        endings={"out": "the point left the plane"},
        steering="turn",
    ),
    env_id="PlaneSimulator-v0",
    simulator="plane_world.simulator:Plane",
    drivers="plane_world.drivers:make_driver",
    judging_starts={"speed": (0.0, 2.0)},
    steady={"height": (-7.0, 7.0)},
    policies="plane_world.drivers:POLICIES",
    run_up="climber",
)
