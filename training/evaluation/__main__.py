"""Command line of the evaluation: `python -m drivedit.evaluation world --world carracing`."""

from __future__ import annotations

import logging
import sys

from drivedit.config import all_domains
from drivedit.utils.commands import run

HERE = "drivedit.evaluation.commands"
COMMANDS = {
    "world": (f"{HERE}:judge_world", "a world on drives that it has not learned from"),
    "agents": (f"{HERE}:judge_agents", "a reader of who is where, on recordings that know it"),
    "ablation": (f"{HERE}:compare_worlds", "several worlds at several numbers of sampling steps: one table"),
}


def main(words: list[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    judged = ", ".join(name for name, domain in all_domains().items() if domain.probes)
    about = f"Judge worlds, beside the simulator where that can be asked ({judged}), or else by recorded drives."
    return run(COMMANDS, words, program="python -m drivedit.evaluation", about=about)


if __name__ == "__main__":
    sys.exit(main())
