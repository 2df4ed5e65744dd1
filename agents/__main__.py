"""Command line of the agents: `python -m drivedit.agents drive | train | curves | test | plan | judge`."""

from __future__ import annotations

import sys

from drivedit.utils.commands import run

HERE = "drivedit.agents.commands"
COMMANDS = {
    "drive": (f"{HERE}:drive_agent", "an agent drives and is filmed"),
    "train ALGORITHM": (
        "drivedit.agents.learning.train:train",
        "an agent learns; an interrupted run goes on with the same command",
    ),
    "curves RUNS": ("drivedit.agents.learning.curves:draw_curves", "draws the learning curves of runs of `train`"),
    "test": (f"{HERE}:score_agent", "whole episodes as they are scored in public, with their own reward"),
    "plan": (f"{HERE}:plan_ahead", "a planner drives that tries futures in the dream"),
    "judge": (f"{HERE}:judge_policies", "policies drive in dream and reality: can the dream be trusted to rank them?"),
}


def _policies() -> list[str]:
    from drivedit.agents.drivers.policies import policy_names

    return policy_names()


def main(words: list[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    known = {"agent": _policies, "policies": _policies}
    about = "Agents drive, learn, are judged."
    return run(COMMANDS, words, program="python -m drivedit.agents", about=about, known=known)


if __name__ == "__main__":
    sys.exit(main())
