"""What of a world recordings can teach: its spec, without what they do not know."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from drivedit.config import RewardTerm, WorldSpec
from drivedit.data.recordings import joint_spec

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Facts:
    """What recordings know, as far as a world's configuration depends on it.

    Attributes:
        spec: What they are about.
        states: How many there are.
        drives: How many there are.
        telemetry: Names, and whether it is finite in every state.
        squares: Sums of the squares of rewards over all states, by name; not finite where one is not known.
        paid: Sums of rewards over the states that end, by name.
        ended: States that end.
        routed: Whether a drive has a route.
        peopled: Whether the others on the road are known in a drive.
        moved: Sums of the squares of the ego-motion (forward, right, turn) over all states.
    """

    spec: WorldSpec
    states: int
    drives: int
    telemetry: dict[str, bool]
    squares: dict[str, float]
    paid: dict[str, float]
    ended: int
    routed: bool
    peopled: bool
    moved: list[float]

    @classmethod
    def together(cls, parts: Sequence[Facts]) -> Facts:
        """Those of several recordings, one at least, as one."""
        rewards, told = ({name for part in parts for name in getattr(part, of)} for of in ("squares", "telemetry"))

        def sums(of: str) -> dict[str, float]:
            return {name: sum(getattr(part, of).get(name, math.nan) for part in parts) for name in rewards}

        return cls(
            spec=joint_spec(list({id(part.spec): part.spec for part in parts}.values())),
            telemetry={name: all(part.telemetry.get(name, False) for part in parts) for name in told},
            squares=sums("squares"),
            paid=sums("paid"),
            routed=any(part.routed for part in parts),
            peopled=any(part.peopled for part in parts),
            moved=np.sum([part.moved for part in parts], 0).tolist(),
            **{name: sum(getattr(part, name) for part in parts) for name in ("states", "drives", "ended")},
        )


def the_picture(spec: WorldSpec, name: str | None = None) -> str:
    """Name of the picture, uint8 `[H, W, 1 or 3]`, that a world learns of what was recorded.

    Args:
        spec: Of the recordings; a single kind of observation is the one.
        name: Of the picture; None: the only one that there is.

    Raises:
        ValueError: There is no picture, or not that one, or there are several and none is named.
    """
    kinds = spec.observations
    if name is None and len(kinds) == 1:
        return spec.picture
    if name is None:
        found = [
            each for each, kind in kinds.items()
            if kind.dtype == "uint8" and len(kind.shape) == 3 and kind.shape[2] in (1, 3)
        ]  # fmt: skip
        if len(found) != 1:
            seen = {each: f"{kind.dtype} {list(kind.shape)}" for each, kind in kinds.items()}
            raise ValueError(
                f"a world learns one picture, uint8 [H, W, 1 or 3], the recordings have {found or 'none'} of {seen}"
                + ("; say which one: --data.picture NAME" if found else "")
            )
        name = found[0]
    spec.only([name])  # is it there?
    if len(kinds) > 1:
        log.info("the world learns %s; left out: %s", name, ", ".join(each for each in kinds if each != name))
    return name


def seen_spec(wanted: WorldSpec, facts: Facts, name: str | None = None) -> WorldSpec:
    """The spec that is wanted, or without one that of the recordings with one picture, which may be named.

    Raises:
        ValueError: The spec that is wanted is not that of the recordings, or they have several pictures and none is
            named.
    """
    seen = facts.spec.only([the_picture(facts.spec, wanted.picture if wanted.observations else name)])
    if not wanted.observations:
        return seen
    wanted.check_same(seen, "the world", "the recordings", ("observations", "controls", "learned"))
    return replace(wanted, dt=seen.dt)


def known_spec(spec: WorldSpec, facts: Facts, routed: bool, others: int) -> WorldSpec:
    """A spec without what recordings do not know; what they lack is told once.

    Args:
        spec: Of a world with one picture.
        facts: What the recordings know.
        routed: Whether the world is told the route.
        others: How many others it would be told.

    Raises:
        ValueError: The spec has telemetry that was not recorded.
    """
    unknown = set(spec.names("telemetry")) - set(facts.telemetry)
    if unknown:
        raise ValueError(
            f"the recordings have the telemetry {list(facts.telemetry)}, the world wants {sorted(unknown)}"
        )
    rewards, ending, peopled = fit_rewards(spec, facts), facts.ended > 0, others > 0 and facts.peopled
    lacking = [value.name for value in spec.telemetry if not facts.telemetry.get(value.name)]
    told = (
        ("reward", any(term.value for term in rewards.values())),
        ("endings", ending),
        ("route", facts.routed),
        ("layout", peopled or not others),
    )
    lacking += [name for name, there in told if not there]
    if lacking:
        log.info("the world will not know what these recordings lack: %s", ", ".join(lacking))
    return replace(
        spec,
        telemetry=[value for value in spec.telemetry if facts.telemetry.get(value.name)],
        rewards=rewards,
        conditions=["route"] * routed + ["layout"] * peopled,
        any_dt=False,
        endings=spec.endings if ending else {},
    )


def fit_rewards(spec: WorldSpec, facts: Facts) -> dict[str, RewardTerm]:
    """The reward terms, learned ones in the units of the recordings; only these, of value 0, where none is known.

    A world tells that it ends, and not why: of several terms that are paid at an end, each is paid as on average.
    """
    units = {}
    for name in spec.learned():
        mean = facts.squares.get(name, math.nan) / facts.states
        units[name] = (spec.rewards[name].value or math.sqrt(mean)) if math.isfinite(mean) else 0.0
    learned = {name: RewardTerm("learned", unit) for name, unit in units.items()}
    ends = [name for name, term in spec.rewards.items() if term.kind == "on_end"]
    if len(ends) > 1 and facts.ended:
        paid = {name: facts.paid.get(name, math.nan) / facts.ended for name in ends}
        learned |= {name: RewardTerm("on_end", value) for name, value in paid.items() if math.isfinite(value)}
    return spec.rewards | learned if any(units.values()) else {name: learned[name] for name in units}
