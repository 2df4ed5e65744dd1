"""Command line of the evaluation: `python -m drivedit.evaluation world --world carracing`."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import shlex
import sys
from pathlib import Path

from drivedit.config import DEFAULT_WORLD, all_domains
from drivedit.evaluation.sizes import Sizes
from drivedit.evaluation.sources import Sources

MODULE = "drivedit.evaluation"


def _parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    parser = argparse.ArgumentParser(prog="python -m drivedit.evaluation", description="Judge a world.")
    commands = parser.add_subparsers(dest="command", required=True)
    full, judged = Sizes(), ", ".join(name for name, domain in all_domains().items() if domain.probes)
    world = commands.add_parser(
        "world",
        help="a world on drives that it has not learned from",
        description=f"Judges a world on held-out drives: beside its simulator if it has one ({judged}), or else, with "
        "--held-out, by recorded drives alone, of any size. The table, pictures and a plot go to --out.",
    )
    world.add_argument(
        "--world", default=DEFAULT_WORLD, help="shipped name, folder or hub:NAME/WORLD (default: %(default)s)"
    )
    world.add_argument(
        "--out", type=Path, default=Path("runs/evaluation"), help="folder of the report (default: %(default)s)"
    )
    world.add_argument(
        "--held-out", metavar="FOLDER",
        help="recording that was kept for judging (import --held-out, collect --held-out), or a Minari dataset of one "
        "(default: the simulator is driven now)",
    )  # fmt: skip
    world.add_argument(
        "--write-card",
        action="store_true",
        help="put the table into the CARD.md of --world (default: it stays as it is)",
    )
    world.add_argument("--clips", type=int, help=f"held-out clips (default: {full.clips}; with --quick 4)")
    world.add_argument("--sampling-steps", type=int, help="network passes per frame (default: the world's own number)")
    world.add_argument(
        "--driver",
        default=Sources.driver,
        help="who drives in closed loop: a policy of the domain, or module:name (default: the one its probes name)",
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
    _add_ablation(commands, full)
    return parser


def _add_ablation(commands: argparse._SubParsersAction[argparse.ArgumentParser], full: Sizes) -> None:
    """The command `ablation` and its options."""
    ablation = commands.add_parser("ablation", help="several worlds at several numbers of sampling steps: one table")
    ablation.add_argument(
        "--worlds", nargs="+", required=True, metavar="NAME=FOLDER", help="names for the table, and worlds (needed)"
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


def _ablation(options: argparse.Namespace) -> int:
    """Runs the command `ablation`."""
    from drivedit.evaluation.suites.ablation import ablate, as_table

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
        _check_counts(options)
        if options.command == "ablation":
            return _ablation(options)
        return _world(options, sys.argv[1:] if arguments is None else arguments)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _check_counts(options: argparse.Namespace) -> None:
    """Raises ValueError for a number of things that is less than one."""
    for name in ("clips", "drives", "workers", "sampling_steps"):
        value = getattr(options, name, None)
        if value is not None and min(value if isinstance(value, list) else [value]) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}")


def _world(options: argparse.Namespace, words: list[str]) -> int:
    """Runs the command `world`; `words` are what was typed."""
    from drivedit.evaluation.reports.card import card_of, write_card
    from drivedit.evaluation.reports.report import as_text
    from drivedit.evaluation.suites.benchmark import evaluate_world, load_world
    from drivedit.evaluation.suites.recorded_benchmark import as_markdown

    sizes = Sizes.quick() if options.quick else Sizes()
    if options.clips is not None:
        sizes = dataclasses.replace(sizes, clips=options.clips)
    sources = Sources(driver=options.driver, seed=options.seed, workers=options.workers)
    world = load_world(options.world, sources)
    card = card_of(options.world, world) if options.write_card else None
    report = evaluate_world(
        world,
        options.out,
        name=options.world,
        held_out=options.held_out,
        sizes=sizes,
        sources=sources,
        sampling_steps=options.sampling_steps,
        compile=options.compile,
    )
    recorded = "left_out" in report
    table = as_markdown(report) if recorded else as_text(report)
    print(table)
    names = "report.md, sheet.png, horizon.png, steering.png and beside.webp" if recorded else (
        "sheet.png, horizon.png, beside.webp and dream.mp4"
    )  # fmt: skip
    print(f"\nreport.json, {names} are in {options.out}")
    if card is not None:
        typed = shlex.join(["python", "-m", MODULE, *words])
        write_card(card, table if recorded else f"```\n{table}\n```", typed, report["fingerprint"])
        print(f"the table is in {card}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
