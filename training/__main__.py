"""Command line of the stages: `python -m drivedit.training student --config carracing.yaml --train.lr 3e-4`."""

from __future__ import annotations

import logging
import sys
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drivedit.config import (
    DEFAULT_WORLD,
    BaseConfig,
    ClipConfig,
    DataConfig,
    DistillConfig,
    LoopConfig,
    MemoryStudyConfig,
    StudentStageConfig,
    VAEStageConfig,
    WorldConfig,
)

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

STAGES = {
    "vae": "pictures and their latents: first of all",
    "student": "how latents go on under the controls, reward and ending: after vae, in the same --out",
    "teacher": "a bidirectional teacher of whole clips, for `distill` with `matching`",
    "distill": "a student that is right in few network passes, out of a trained world",
    "decoder": "a narrower, faster decoder for a trained world",
    "memory": "trains a student with memory and one without, and compares what they dream",
    "ship": "writes a trained world together with its card",
}
ABOUT = (
    "Trains worlds on recordings. Sizes, steps and learning rates come from a preset, which `--config` names; options \
change single values of it: "
    f"`python -m drivedit.training vae --config {DEFAULT_WORLD}.yaml --data.root runs/recordings`."
)
TRAINED = f"runs/{DEFAULT_WORLD}/student/world"
LOSSES = {
    "vae": VAEStageConfig, "student": StudentStageConfig, "teacher": ClipConfig, "distill": DistillConfig,
    "decoder": VAEStageConfig,
}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Parses the command line and runs a stage; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    words = argv or sys.argv[1:]
    parser = _parser()
    arguments = parser.parse_args([_preset(word, words) for word in words])
    options = parser.instantiate(arguments)[arguments.stage]
    try:
        _run(arguments.stage, options)
    except (ValueError, OSError, ImportError, RuntimeError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> ArgumentParser:
    """The stages and the commands beside them, with their options."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="python -m drivedit.training", description=ABOUT)
    stages = parser.add_subcommands(required=True, dest="stage")
    for name, loss in LOSSES.items():
        sub = ArgumentParser(description=_about(name))
        _add_stage(sub, name, loss)
        stages.add_subcommand(name, sub, help=STAGES[name])
    memory = ArgumentParser(description="Trains a student with memory and one without, and compares what they dream.")
    _add_memory(memory)
    stages.add_subcommand("memory", memory, help=STAGES["memory"])
    ship = ArgumentParser(description="Writes a trained world together with its card.")
    _add_ship(ship)
    stages.add_subcommand("ship", ship, help=STAGES["ship"])
    return parser


def _add_stage(parser: ArgumentParser, name: str, loss: type[BaseConfig]) -> None:
    """The options of a stage that trains on recordings."""
    parser.add_argument("--config", action="config", help="YAML file, or the name of a shipped preset (see above)")
    parser.add_argument(
        "--out", type=str, default=f"runs/{DEFAULT_WORLD}", help="folder of the run; an interrupted run goes on"
    )
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, ...")
    known = "its world: folder, shipped name or hub:NAME/WORLD"
    if name == "distill":
        parser.add_argument("--teacher", type=str, default="runs/base/student/world", help=known)
        parser.add_argument("--real_score", type=str | None, help="file of a bidirectional teacher, for `matching`")
    elif name in ("teacher", "decoder"):
        parser.add_argument("--world", type=str, default=TRAINED, help=known)
    else:
        parser.add_class_arguments(WorldConfig, "world")
    if name == "decoder":
        parser.add_argument(
            "--inner", type=list[int], required=True, help="widths inside its residual blocks, at the four sizes"
        )
    parser.add_class_arguments(LoopConfig, "train")
    parser.add_class_arguments(DataConfig, "data")
    parser.add_class_arguments(loss, "loss")


def _add_memory(parser: ArgumentParser) -> None:
    """The options of the memory study."""
    parser.add_argument("--config", action="config", help="YAML file, or the name of a shipped preset (landmarks.yaml)")
    parser.add_argument("--out", type=str, default="runs/memory", help="folder of the study, which can be resumed")
    parser.add_class_arguments(MemoryStudyConfig, "size")
    parser.add_class_arguments(LoopConfig, "train")


def _add_ship(parser: ArgumentParser) -> None:
    """The options of `ship`."""
    parser.add_argument(
        "--world", type=str, default=TRAINED, help="trained world: folder, shipped name or hub:NAME/WORLD"
    )
    parser.add_argument("--report", type=str, default="runs/evaluation", help="folder of its evaluation")
    parser.add_argument(
        "--to",
        type=str,
        required=True,
        help="folder to write (needed); one with anything else than a world is refused",
    )
    parser.add_argument("--template", type=str, default=f"{DEFAULT_WORLD}_card.md", help="text of the card")


def _about(stage: str) -> str:
    """The head of the help of a stage, with the presets that are shipped for it."""
    folder = resources.files("drivedit.training") / "presets" / stage
    names = " or ".join(sorted(path.name for path in folder.iterdir()))
    text = STAGES[stage]
    return f"{text[0].upper()}{text[1:]}. Meant to be run with --config {names}; defaults alone make another network."


def _run(stage: str, options: Any) -> None:
    """Runs a stage, or a command beside them, with its options."""
    if stage == "ship":
        from drivedit.training.ship import ship as write

        write(options.world, options.report, options.to, options.template)
        return
    if stage == "memory":
        from drivedit.training.memory_study import study

        study(options.size, options.train, options.out)
        print((Path(options.out) / "memory.md").read_text(), end="")
        return
    from drivedit.training import stages as run

    rest = options.train, options.data, options.loss, options.out, options.device
    if stage == "distill":
        run.distill(options.teacher, *rest, options.real_score)
    elif stage == "decoder":
        run.decoder(options.world, options.inner, *rest)
    elif stage == "teacher":
        run.teacher(options.world, *rest)
    else:
        {"vae": run.vae, "student": run.student}[stage](options.world, *rest)


def _preset(argument: str, argv: list[str]) -> str:
    """Replaces the bare name of a preset by its path, unless a file of that name is here."""
    name = argument.removeprefix("--config=")
    if not name.endswith(".yaml") or Path(name).exists():
        return argument
    path = resources.files("drivedit.training") / "presets" / argv[0] / name
    return argument.replace(name, str(path)) if path.is_file() else argument


if __name__ == "__main__":
    sys.exit(main())
