"""Settings of worlds that older versions wrote, as they are written now."""

from __future__ import annotations

from typing import Any

from drivedit.config.models import WorldConfig
from drivedit.config.spec import Modality, Quantity, RewardTerm, Rule, WorldSpec

MOVED = ("image_size", "fps", "telemetry", "telemetry_scale", "constant_reward", "end_reward", "reward_scale")


def upgraded(world: dict[str, Any]) -> dict[str, Any]:
    """Settings of a world of formats 1 and 2, in which the spec was scattered over `MOVED`.

    Raises:
        KeyError: A setting is missing or unknown.
        ValueError: A value has the wrong type or range.
    """
    if not isinstance(world, dict):
        raise ValueError(f"the settings of a world are a dictionary, got {type(world).__name__}")
    told = {name: world[name] for name in MOVED}
    rest = {name: value for name, value in world.items() if name not in MOVED}
    if not all(isinstance(told[name], dict) for name in ("constant_reward", "end_reward")):
        raise ValueError(f"reward terms are dictionaries, got {told}")
    student = rest.get("student")
    routed = isinstance(student, dict) and bool(student.get("route_dim"))
    try:
        telemetry = list(zip(told["telemetry"], told["telemetry_scale"], strict=True))
        spec = WorldSpec(
            observations={"camera": Modality((*told["image_size"], 3))},
            controls=[Quantity("steering"), Quantity("throttle")],
            telemetry=[Quantity(name, -1e9, 1e9, scale) for name, scale in telemetry],
            rewards=_rewards(told),
            conditions=["route"] if routed else [],
            dt=1 / told["fps"],
            endings={"ended": "the episode ended in the recordings"} if rest.get("end_threshold", 0) < 1 else {},
        )
    except (TypeError, ZeroDivisionError) as error:
        raise ValueError(f"the settings are damaged ({error})") from error
    return WorldConfig.from_dict({"spec": spec.to_dict(), **rest}).to_dict()


def _rewards(told: dict[str, Any]) -> dict[str, RewardTerm]:
    rules: list[tuple[Rule, dict[str, float]]] = [("constant", told["constant_reward"]), ("on_end", told["end_reward"])]
    rewards = {"progress": RewardTerm("learned", told["reward_scale"])}
    for kind, terms in rules:
        for name, value in terms.items():
            if name in rewards:
                raise ValueError(f"every reward term has one rule, {name} has two")
            rewards[name] = RewardTerm(kind, value)
    return rewards
