"""Command line of the stages: `python -m drivedit.training student --config carracing.yaml --train.lr 3e-4`."""

from __future__ import annotations

import logging
import sys
from importlib import resources
from pathlib import Path

from drivedit.config import DEFAULT_WORLD
from drivedit.utils.commands import run

HERE, STAGES = "drivedit.training", "drivedit.training.stages"
COMMANDS = {
    "vae": (f"{STAGES}:vae", "pictures and their latents: first of all"),
    "student": (f"{STAGES}:student", "how latents go on, reward and ending: after vae, in the same --out"),
    "teacher": (f"{STAGES}:teacher", "a bidirectional teacher of whole clips, for `distill` with `matching`"),
    "distill": (f"{STAGES}:distill", "a student that is right in few network passes, out of a trained world"),
    "adapt": (f"{HERE}.adapting:adapt", "a small file that turns a trained world into one of other recordings"),
    "methods": (f"{HERE}.equal_time:compare_methods", "every method of `distill`, in equal time, and what it brings"),
    "decoder": (f"{STAGES}:decoder", "a narrower, faster decoder for a trained world"),
    "memory": (f"{HERE}.memory_study:compare", "a student with memory and one without: what they dream"),
    "share": (f"{HERE}.sharing_study:share", "memory and time of processes that share long clips, beside one alone"),
    "stream": (f"{HERE}.stream_study:stream", "memory and speed of recordings that are read as a stream"),
    "agents": (f"{HERE}.agents:agents", "a reader of who is where, off pictures; with --regression its rival"),
    "range": (f"{HERE}.range_stage:range_world", "a world of LiDAR scans in continuous time, in one training"),
    "bev": (f"{HERE}.bev_stage:bev_world", "a world of a camera in a car, which keeps the ground around it"),
    "pixel": (f"{HERE}.pixel_stage:pixel", "a generator of start scenes, drawn pixel by pixel under attributes"),
    "ksin": (f"{HERE}.ksin_study:ksin", "sets whose answer is known: couplings, equivariance and solver steps"),
    "ship": (f"{HERE}.ship:ship", "writes a trained world together with its card"),
}
ABOUT = (
    "Trains worlds on recordings. Sizes, steps and learning rates come from a preset, which `--config` names; options "
    f"change single values of it: `python -m drivedit.training vae --config {DEFAULT_WORLD}.yaml --data.root "
    "runs/recordings`."
)


def main(words: list[str] | None = None) -> int:
    """Runs a stage; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    words = sys.argv[1:] if words is None else words
    presets = Path(str(resources.files("drivedit.training"))) / "presets" / "".join(words[:1])
    known = {"config": lambda: sorted(path.name for path in presets.glob("*.yaml"))}
    found = [_preset(word, presets) for word in words]
    return run(COMMANDS, found, program="python -m drivedit.training", about=ABOUT, known=known, dotted=True)


def _preset(word: str, presets: Path) -> str:
    """Replaces the bare name of a preset by its path, unless a file of that name is here."""
    name = word.removeprefix("--config=")
    shipped = name.endswith(".yaml") and not Path(name).exists() and (presets / name).is_file()
    return word.replace(name, str(presets / name)) if shipped else word


if __name__ == "__main__":
    sys.exit(main())
