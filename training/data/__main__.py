"""Command line of the recordings: `python -m drivedit.data COMMAND`, which `--help` lists."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TypeAlias

from drivedit.config import DEFAULT_WORLD, all_domains

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    parser = argparse.ArgumentParser(prog="python -m drivedit.data", description="Record drives, convert recordings.")
    commands = parser.add_subparsers(dest="command", required=True)
    for add in (_add_collect, _add_import, _add_sheet, _add_upgrade, _add_export_minari, _add_import_minari):
        add(commands)
    return parser


def _add_collect(commands: Commands) -> None:
    """Recording drives in a simulator."""
    command = commands.add_parser("collect", help="record drives in a simulator; run again to go on after a stop")
    command.add_argument(
        "--domain", default=DEFAULT_WORLD, help=f"the simulator: {', '.join(all_domains())} (default: %(default)s)"
    )
    command.add_argument("--out", type=Path, required=True, help="folder of the recording (needed)")
    command.add_argument(
        "--steps", type=int, default=350_000, help="steps to record, rounded up to whole shards (default: 350000)"
    )
    command.add_argument("--workers", type=int, default=2, help="processes that drive at once (default: 2)")
    command.add_argument("--seed", type=int, default=0, help="seed of tracks, starts and drivers (default: 0)")
    command.add_argument("--episode-steps", type=int, default=300, help="most steps of an episode (default: 300)")
    command.add_argument(
        "--shard-steps", type=int, default=None, help="steps of a shard, which is one file (default: 20 episodes)"
    )
    command.add_argument(
        "--held-out", action="store_true", help="mark as kept for judging; trainers refuse the folder (default: no)"
    )
    command.add_argument(
        "--policies", nargs="+", default=(), metavar="NAME",
        help="agents that drive, as `python -m drivedit.agents` knows them (default: the scripted drivers)",
    )  # fmt: skip


def _add_import(commands: Commands) -> None:
    """Writing filmed drives as a recording."""
    command = commands.add_parser(
        "import",
        help="write videos with tables of controls, or folders of pictures, as a recording",
        description="Writes filmed drives as a recording: --video and --controls, or --images. A table is a CSV file "
        "with the columns time (s), steering and throttle in [-1, 1] (+1: right, -1: full brake), and where known "
        "speed (m/s), x and y (m), yaw (rad), reward (earned since the line before), terminated (1 where a drive "
        "ended) and others, which become telemetry. Pictures lie in <images>/<drive>/*.png with controls.json beside "
        "them. What is done to the film is said in one line.",
    )
    command.add_argument(
        "--video",
        type=Path,
        nargs="+",
        default=[],
        help="video files; what their compression lost stays lost (default: none)",
    )
    command.add_argument(
        "--controls",
        type=Path,
        nargs="+",
        default=[],
        help="CSV files, one per video in the same order (default: none)",
    )
    command.add_argument(
        "--control", dest="further", nargs="+", default=[], metavar="NAME",
        help="further columns of the tables that are controls, after steering and throttle (default: none)",
    )  # fmt: skip
    command.add_argument(
        "--images", type=Path, default=None, help="folder of drives as pictures, instead of videos (default: none)"
    )
    command.add_argument("--out", type=Path, required=True, help="folder of the recording, new or empty (needed)")
    command.add_argument(
        "--fps", type=float, default=None,
        help="frames per second of the recording, at most the film's; 10 to 20 are enough to drive by; of pictures, "
        "the rate at which they were taken (default: every frame of the film; 10 of pictures)",
    )  # fmt: skip
    command.add_argument(
        "--size", type=int, nargs=2, default=None, metavar=("HEIGHT", "WIDTH"),
        help="pixels of the recording's pictures, multiples of 16 (default: 64 for the shorter side, the longer one "
        "by the film's aspect, so 64 x 112 for a film of 16:9)",
    )  # fmt: skip
    command.add_argument(
        "--fit", choices=("crop", "letterbox", "stretch"), default="crop",
        help="what happens to a film of another aspect than the size: its edges are cut off, it gets black bars, or it "
        "is distorted (default: crop)",
    )  # fmt: skip
    command.add_argument("--episode-steps", type=int, default=300, help="steps of an episode, about (default: 300)")
    command.add_argument(
        "--offset", type=float, default=0.0, help="time in the table at the first frame, in seconds (default: 0)"
    )
    command.add_argument(
        "--held-out", action="store_true", help="mark as kept for judging; trainers refuse the folder (default: no)"
    )


def _add_sheet(commands: Commands) -> None:
    """A picture of a recording."""
    command = commands.add_parser("sheet", help="a picture of random clips of a recording")
    command.add_argument("folder", type=Path, help="folder of the recording (needed)")
    command.add_argument(
        "--out", type=Path, default=Path("sheet.png"), help="picture to write, PNG (default: sheet.png)"
    )
    command.add_argument("--rows", type=int, default=16, help="clips, one below the other (default: 16)")
    command.add_argument("--every", type=int, default=4, help="steps between two frames of a clip (default: 4)")
    command.add_argument("--seed", type=int, default=0, help="seed of which clips are drawn (default: 0)")


def _add_upgrade(commands: Commands) -> None:
    """Renewing a recording."""
    command = commands.add_parser("upgrade", help="write a recording of an earlier version in the format of today")
    command.add_argument("--from", dest="source", type=Path, required=True, help="folder of the recording (needed)")
    command.add_argument("--to", dest="out", type=Path, required=True, help="folder to be, new or empty (needed)")


def _add_export_minari(commands: Commands) -> None:
    """Writing a Minari dataset."""
    command = commands.add_parser("export-minari", help="write a recording as a Minari dataset")
    command.add_argument("folder", type=Path, help="folder of the recording (needed)")
    command.add_argument("--dataset", required=True, help=f"name, for example drivedit/{DEFAULT_WORLD}-v0 (needed)")


def _add_import_minari(commands: Commands) -> None:
    """Reading a Minari dataset."""
    command = commands.add_parser("import-minari", help="write a Minari dataset of export-minari as a recording")
    command.add_argument("--dataset", required=True, help=f"name, for example drivedit/{DEFAULT_WORLD}-v0 (needed)")
    command.add_argument("--out", type=Path, required=True, help="folder of the recording (needed)")


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    options = vars(_parser().parse_args(arguments))
    command = options.pop("command")
    try:
        if command == "collect":
            from drivedit.data.collect import collect_recordings

            collect_recordings(**options)
        elif command == "import":
            from drivedit.data.exchange.films import Plan, import_drives

            size = options.pop("size")
            rest = {name: options.pop(name) for name in ("fps", "fit", "episode_steps", "offset")}
            plan = Plan(size=tuple(size) if size else None, controls=tuple(options.pop("further")), **rest)
            import_drives(videos=options.pop("video"), plan=plan, **options)
        elif command == "sheet":
            from drivedit.data.sheet import write_sheet

            print(write_sheet(**options))
        elif command == "upgrade":
            from drivedit.data.upgrade import upgrade_recordings

            upgrade_recordings(**options)
        elif command == "export-minari":
            from drivedit.data.exchange.minari import export_minari

            print(export_minari(**options))
        else:
            from drivedit.data.exchange.minari import import_minari

            import_minari(**options)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
