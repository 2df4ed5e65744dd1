"""How fast the street is: `python -m drivedit.data.domains.street` prints a table, in seconds of one core."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from drivedit.data.domains.street.drivers import LaneKeeper
from drivedit.data.domains.street.roads import KINDS
from drivedit.data.domains.street.twin import StreetTwin
from drivedit.utils.commands import run


def _rate(call: Callable[[], Any], seconds: float) -> float:
    """Calls per second of CPU time."""
    call()
    begin, count = time.process_time(), 0
    while time.process_time() - begin < seconds:
        call()
        count += 1
    return count / (time.process_time() - begin)


def speed(seconds: float = 2.0) -> None:
    """Prints how many steps and resets the street takes in a second of one core.

    Args:
        seconds: CPU time for each figure.
    """
    kinds = {"camera": "camera", "range": "range", "both": ("camera", "range")}
    print("| road, dense traffic | " + " | ".join(f"{name}, steps/s" for name in kinds) + " | resets/s |")
    print("|---" * (len(kinds) + 2) + "|")
    for road in KINDS:
        options = {"attributes": {"road": road, "weather": "clear", "time": "day", "traffic": "dense"}}
        cells = []
        for shown in kinds.values():
            env, driver = StreetTwin(shown), LaneKeeper(np.random.default_rng(0))

            def begin(env: StreetTwin = env, options: dict[str, Any] = options) -> None:
                env.reset(seed=1, options=options)

            def step(env: StreetTwin = env, driver: LaneKeeper = driver, begin: Callable[[], None] = begin) -> None:
                if env.step(driver.act(env.truth()))[2]:
                    begin()

            begin()
            cells.append(f"{_rate(step, seconds):.0f}")
        print(f"| {road} | {' | '.join(cells)} | {_rate(begin, seconds):.1f} |", flush=True)


def main(words: list[str] | None = None) -> int:
    """Measures by the options of a command line; returns the exit status."""
    return run(speed, words, program="python -m drivedit.data.domains.street")


if __name__ == "__main__":
    raise SystemExit(main())
