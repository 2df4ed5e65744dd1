"""The commands of `python -m drivedit.evaluation`; what is slow to import is imported where it is used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from drivedit.config import DEFAULT_WORLD
from drivedit.evaluation.sizes import Sizes
from drivedit.evaluation.sources import Sources
from drivedit.utils.commands import typed

NAMES = {  # of what is written beside report.json, with and without a simulator
    True: "report.md, sheet.png, horizon.png, steering.png and beside.webp",
    False: "sheet.png, horizon.png, beside.webp and dream.mp4",
}


def judge_world(
    world: str = DEFAULT_WORLD, out: Path = Path("runs/evaluation"), held_out: str | None = None,
    write_card: bool = False, clips: int | None = None, sampling_steps: int | None = None, driver: str = Sources.driver,
    seed: int = Sources.seed, workers: int = Sources.workers, compile: bool = False, quick: bool = False,
    adapter: Path | None = None, guidance: float = 1.0,
) -> None:  # fmt: skip
    """Judges a world on held-out drives.

    They come from its simulator, if it has one that can be asked, or else, with --held-out, from a recording of any
    size. The table, pictures and a plot go to --out.

    Args:
        world: Shipped name, folder or hub:NAME/WORLD.
        out: Folder of the report.
        held_out: Folder that was kept for judging (import --held-out, collect --held-out), or a Minari dataset of one;
            None: the simulator is driven now.
        write_card: Whether to put the table into the CARD.md of --world.
        clips: Held-out clips; None: 48, with --quick 4.
        sampling_steps: Network passes per frame; None: the world's own number.
        driver: Who drives in closed loop: a policy of the domain, or module:name; none: the one its probes name.
        seed: Seed of everything drawn.
        workers: Processes that drive the simulator.
        compile: Whether to judge the world as it is stepped when compiled.
        quick: Whether the sizes are tiny, to see that everything runs; the figures mean nothing then.
        adapter: File of an adapter of the world; None: the world as it is.
        guidance: Scale of the guidance on the controls, for worlds that have learned it; 1: none.
    """
    from drivedit.evaluation.reports import card as cards
    from drivedit.evaluation.reports.report import as_text
    from drivedit.evaluation.suites.benchmark import evaluate_world, load_world
    from drivedit.evaluation.suites.recorded_benchmark import as_markdown
    from drivedit.evaluation.suites.scan_benchmark import as_markdown as scan_table
    from drivedit.inference import under_guidance

    _check_counts(workers=workers, sampling_steps=sampling_steps)
    if adapter is not None and write_card:
        raise ValueError("the card belongs to the world as it is: leave out --adapter or --write-card")
    if guidance != 1 and (compile or write_card):
        raise ValueError(f"under guidance {guidance:g} a world is neither compiled nor given a card: leave that out")
    sources, sizes = Sources(driver=driver, seed=seed, workers=workers), Sizes.of(quick, clips=clips)
    judged = load_world(world, sources, adapter)
    card = cards.card_of(world, judged) if write_card else None
    with under_guidance(judged, guidance):
        report = evaluate_world(
            judged, out, name=world if guidance == 1 else f"{world}, guidance {guidance:g}", held_out=held_out,
            sizes=sizes, sources=sources, sampling_steps=sampling_steps, compile=compile,
        )  # fmt: skip
    if report.get("kind") == "scans":
        recorded, table, names = True, scan_table(report), "report.md and sheet.png"
    else:
        recorded = "left_out" in report
        table = as_markdown(report) if recorded else as_text(report)
        names = NAMES[recorded]
    print(f"{table}\n\nreport.json, {names} are in {out}")
    if card is not None:
        cards.write_card(card, table if recorded else f"```\n{table}\n```", typed.get(), report["fingerprint"])
        print(f"the table is in {card}")


def compare_worlds(
    worlds: Sequence[str], sampling_steps: Sequence[int] = (1, 2, 4), out: Path = Path("runs/ablation"),
    drives: int | None = None, clips: int | None = None, quick: bool = False,
) -> str:  # fmt: skip
    """Judges several worlds at several numbers of sampling steps, beside the simulator, and prints one table.

    Args:
        worlds: NAME=WORLD of each: its name in the table; its shipped name, folder or hub:NAME/WORLD.
        sampling_steps: Network passes per frame.
        out: Folder of the report; what is measured there already stays.
        drives: Long drives of each; None: 16, with --quick 2.
        clips: Held-out clips; None: 48, with --quick 4.
        quick: Whether the sizes are tiny, to see that everything runs; the figures mean nothing then.
    """
    from drivedit.evaluation.suites.ablation import ablate, as_table

    _check_counts(sampling_steps=min(sampling_steps))
    sizes = Sizes.of(quick, drives=drives, clips=clips)
    pairs = [pair.partition("=") for pair in worlds]
    if not all(name and folder for name, _, folder in pairs):
        raise ValueError(f"--worlds takes NAME=WORLD ..., got {' '.join(worlds)}")
    named = {name: folder for name, _, folder in pairs}
    return as_table(ablate(named, sampling_steps, out, sizes))


def judge_agents(
    reader: Path, held_out: str, rival: Path | None = None, world: str | None = None,
    out: Path = Path("runs/evaluation"), pictures: int = 2000, samples: int = 16, steps: int = 4,
    ambiguous: Sequence[str] = (),
) -> str:  # fmt: skip
    """Judges a reader of agents on held-out recordings that know who was there, and prints a table.

    Args:
        reader: Its file, agents.safetensors.
        held_out: Folder that was kept for judging (collect --held-out).
        rival: File of another one, which is judged on the same pictures.
        world: A world whose dreams of these drives are read as well: how far their agents are from the true ones.
        out: Folder of the report.
        pictures: How many are judged, at most.
        samples: Sets drawn of each.
        steps: Steps of the solver.
        ambiguous: Attributes of drives whose pictures leave much open, NAME=VALUE ..., as weather=fog time=night.
    """
    from drivedit.evaluation.suites.agents import as_table, judge_readers, write_report
    from drivedit.evaluation.suites.semantic_drift import drift_table, judge_drift

    _check_counts(pictures=pictures, samples=samples, steps=steps)
    readers = {"reader": reader} | ({} if rival is None else {"rival": rival})
    options = {"pictures": pictures, "samples": samples, "steps": steps, "ambiguous": list(ambiguous)}
    found = judge_readers(readers, held_out, **options)
    about = {"held_out": held_out, **{name: str(path) for name, path in readers.items()}, **options}
    tables = [as_table(found)]
    if world is not None:
        about |= {"world": world, "drift": judge_drift(world, reader, held_out, samples=samples, steps=steps)}
        tables.append(drift_table(about["drift"]))
    write_report(out, found, about, tables)
    return "\n\n".join([*tables, f"agents.json and agents.md are in {out}"])


def _check_counts(**counts: int | None) -> None:
    """Raises ValueError for a number of things that is less than one."""
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
