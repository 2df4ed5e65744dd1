"""Command line of clips and scenes: `python -m drivedit.inference COMMAND`, which `--help` lists."""

from __future__ import annotations

import logging
import sys

from drivedit.utils.commands import run

HERE, SHEETS = "drivedit.inference.generate", "drivedit.inference.scene_sheets"
COMMANDS = {
    "generate": (f"{HERE}:generate", "film clips of a driving world; run again to go on after a stop"),
    "scenes": (f"{SHEETS}:scenes", "draw start scenes of words, and a sheet of them"),
    "video": (f"{HERE}:generate_video", "film a clip of a text, of a model of your own"),
}


def _worlds() -> list[str]:
    from drivedit.models import shipped_worlds

    return [*shipped_worlds()]


def main(words: list[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    about = "Film clips that a network makes, and draw scenes that they can begin with."
    return run(COMMANDS, words, program="python -m drivedit.inference", about=about, known={"world": _worlds})


if __name__ == "__main__":
    sys.exit(main())
