"""How fast the street is: `python -m drivedit.data.domains.street` prints a table, in seconds of one core."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from drivedit.data.domains.street.drivers import LaneKeeper
from drivedit.data.domains.street.roads import KINDS
from drivedit.data.domains.street.twin import StreetTwin


def _rate(call: Callable[[], Any], seconds: float) -> float:
    """Calls per second of CPU time."""
    call()
    begin, count = time.process_time(), 0
    while time.process_time() - begin < seconds:
        call()
        count += 1
    return count / (time.process_time() - begin)


def main(arguments: list[str] | None = None) -> int:
    """Prints the table; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m drivedit.data.domains.street", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="of CPU time for each figure (default: 2)")
    seconds = parser.parse_args(arguments).seconds
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
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
