"""`python -m tests.fuzz`: environments under random calls, readers under damaged files; ends with 1 if anything is bad.

A call must be taken, and the next step work, or be refused with the error that is promised and change nothing. Of a
damaged file must come what it said before the damage, or a refusal with a reason.
"""

from __future__ import annotations

import argparse
import time

from . import agents, calls, recordings, states, tables, worlds

OF_FILES = {"agents": agents.run, "recordings": recordings.run, "states": states.run, "tables": tables.run,
            "worlds": worlds.run}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Runs the fuzzers and prints a line for each; returns how many outcomes were bad."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--calls", type=int, default=10_000, help="calls of environments (default: %(default)s)")
    parser.add_argument("--files", type=int, default=5_000, help="damaged files, all kinds (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="decides every call and every file (default: %(default)s)")
    options = parser.parse_args(argv)
    wanted = {"calls": (calls.run, options.calls)}
    wanted |= {name: (run, options.files // len(OF_FILES)) for name, run in OF_FILES.items()}
    bad = 0
    for name, (run, number) in wanted.items():
        began = time.monotonic()
        outcomes, lines = run(number, options.seed)
        told = ", ".join(f"{value} {key}" for key, value in sorted(outcomes.items()))
        print(f"{name:<12} {number:>7} in {time.monotonic() - began:.0f} s: {told}; {len(lines)} bad", flush=True)
        print(*(f"  {line}" for line in lines[:20]), sep="\n", end="\n" if lines else "")
        bad += len(lines)
    return bad


if __name__ == "__main__":
    raise SystemExit(bool(main()))
