"""Command line of the recordings: `python -m drivedit.data COMMAND`, which `--help` lists."""

from __future__ import annotations

import logging
import sys

from drivedit.config import all_domains
from drivedit.utils.commands import run

COMMANDS = {
    "collect": (
        "drivedit.data.collect:collect_recordings",
        "record drives in a simulator; run again to go on after a stop",
    ),
    "import": (
        "drivedit.data.exchange.films:import_films",
        "write videos with tables of controls, or folders of pictures, as a recording",
    ),
    "sheet FOLDER": ("drivedit.data.sheet:write_sheet", "a picture of random clips of a recording"),
    "upgrade": ("drivedit.data.upgrade:upgrade", "write a recording of an earlier version in the format of today"),
    "export-minari FOLDER": ("drivedit.data.exchange.minari:export_minari", "write a recording as a Minari dataset"),
    "import-minari": (
        "drivedit.data.exchange.minari:import_minari",
        "write a Minari dataset of export-minari as a recording",
    ),
}


def main(words: list[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    about = "Record drives, convert recordings."
    return run(COMMANDS, words, program="python -m drivedit.data", about=about, known={"domain": all_domains})


if __name__ == "__main__":
    sys.exit(main())
