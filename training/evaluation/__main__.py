"""Command line of the evaluation: `python -m drivedit.evaluation world --world carracing`."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from pathlib import Path

from drivedit.evaluation.sizes import Sizes
from drivedit.evaluation.sources import Sources


def _parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    parser = argparse.ArgumentParser(prog="python -m drivedit.evaluation", description="Judge a world.")
    commands = parser.add_subparsers(dest="command", required=True)
    full = Sizes()
    world = commands.add_parser("world", help="a dreamed world against its simulator on held-out tracks")
    world.add_argument("--world", default="carracing", help="name of a shipped world, or a folder (default: carracing)")
    world.add_argument(
        "--out", type=Path, default=Path("runs/evaluation"), help="folder of the report (default: %(default)s)"
    )
    world.add_argument("--held-out", type=Path, help="recording to take the clips from (default: they are driven now)")
    world.add_argument("--clips", type=int, help=f"held-out clips (default: {full.clips}; with --quick 4)")
    world.add_argument("--sampling-steps", type=int, help="network passes per frame (default: the world's own number)")
    world.add_argument(
        "--driver", default=Sources.driver, help='who drives in closed loop, "module:name" (default: %(default)s)'
    )
    world.add_argument("--seed", type=int, default=0, help="seed of everything drawn (default: %(default)s)")
    world.add_argument(
        "--workers", type=int, default=Sources.workers, help="processes that drive the simulator (default: %(default)s)"
    )
    world.add_argument(
        "--compile", action="store_true", help="judge the world as it is stepped when compiled (default: as it is not)"
    )
    world.add_argument(
        "--quick",
        action="store_true",
        help="tiny sizes, to see that everything runs (default: sizes that mean something)",
    )
    ablation = commands.add_parser("ablation", help="several worlds at several numbers of sampling steps: one table")
    ablation.add_argument(
        "--worlds", nargs="+", required=True, metavar="NAME=FOLDER", help="names for the table, and folders (needed)"
    )
    ablation.add_argument(
        "--sampling-steps", nargs="+", type=int, default=[1, 2, 4], metavar="STEPS",
        help="network passes per frame (default: 1 2 4)",
    )  # fmt: skip
    ablation.add_argument(
        "--out", type=Path, default=Path("runs/ablation"), help="folder of the report (default: %(default)s)"
    )
    ablation.add_argument("--drives", type=int, help=f"long drives of each (default: {full.drives}; with --quick 2)")
    ablation.add_argument(
        "--quick",
        action="store_true",
        help="tiny sizes, to see that everything runs (default: sizes that mean something)",
    )
    return parser


def _ablation(options: argparse.Namespace) -> int:
    """Runs the command `ablation`."""
    from drivedit.evaluation.ablation import ablate, as_table

    pairs = [pair.partition("=") for pair in options.worlds]
    if not all(name and folder for name, _, folder in pairs):
        raise ValueError(f"--worlds takes NAME=FOLDER ..., got {' '.join(options.worlds)}")
    worlds = {name: folder for name, _, folder in pairs}
    sizes = Sizes.quick() if options.quick else Sizes()
    if options.drives is not None:
        sizes = dataclasses.replace(sizes, drives=options.drives)
    print(as_table(ablate(worlds, options.sampling_steps, options.out, sizes)))
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = _parser().parse_args(arguments)
    try:
        if options.command == "ablation":
            return _ablation(options)
        from drivedit.evaluation.benchmark import evaluate_world, load_world
        from drivedit.evaluation.report import as_text

        sizes = Sizes.quick() if options.quick else Sizes()
        if options.clips is not None:
            sizes = dataclasses.replace(sizes, clips=options.clips)
        sources = Sources(driver=options.driver, seed=options.seed, workers=options.workers)
        report = evaluate_world(
            load_world(options.world, sources),
            options.out,
            name=options.world,
            held_out=options.held_out,
            sizes=sizes,
            sources=sources,
            sampling_steps=options.sampling_steps,
            compile=options.compile,
        )
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(as_text(report))
    print(f"\nreport.json, sheet.png, horizon.png, beside.webp and dream.mp4 are in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
