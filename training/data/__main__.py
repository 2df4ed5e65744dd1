"""Command line of the recordings: `python -m drivedit.data COMMAND`, which `--help` lists."""

from __future__ import annotations

import logging
import sys

from drivedit.config import all_domains
from drivedit.utils.commands import run

HERE = "drivedit.data"
COMMANDS = {
    "collect": (f"{HERE}.collect:collect_recordings", "record drives in a simulator; run again to go on after a stop"),
    "import": (f"{HERE}.exchange.films:import_films", "write films with controls, or pictures, as a recording"),
    "sheet FOLDER": (f"{HERE}.sheet:write_sheet", "a picture of random clips of a recording"),
    "upgrade": (f"{HERE}.upgrade:upgrade_recordings", "write an older recording in the format of today"),
    "synth": (f"{HERE}.synth:write_synth_files", "write notes of a small synthesizer, parameters and spectrograms"),
    "export-minari FOLDER": (f"{HERE}.exchange.minari:export_minari", "write a recording as a Minari dataset"),
    "import-minari": (f"{HERE}.exchange.minari:import_minari", "write a dataset of export-minari as a recording"),
}


def main(words: list[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    about = "Record drives, convert recordings."
    return run(COMMANDS, words, program="python -m drivedit.data", about=about, known={"domain": all_domains})


if __name__ == "__main__":
    sys.exit(main())
