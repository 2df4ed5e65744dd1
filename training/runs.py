"""The folder of a training run: one training at a time, no leftovers, and a note of what the run is made of."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from drivedit.config import LoopConfig
from drivedit.utils import extra, find_files, locked, write_atomically

log = logging.getLogger(__name__)
FREE = {  # what a resumed run may have otherwise: it goes on from the same weights, batches and noise
    "lr", "warmup", "cooldown", "steps", "minutes", "weight_decay", "clip", "ema", "compile", "bf16", "shard",
    "sequence_parallel", "checkpointing", "offload", "save_every_s", "log_every",
}  # fmt: skip
FREE |= {"data.fingerprint", "data.drives"}  # it learns on with other recordings
FREE |= {"world.temperature", "world.sampling_steps", "world.end_threshold"}  # no training depends on them


@contextmanager
def run_folder(run: str | Path, device: torch.device | str) -> Iterator[Path]:
    """Keeps the folder of a run to one training and clears away what killed ones left there.

    The processes of one training share it: the first one holds it.

    Raises:
        RuntimeError: Another training works in it.
        OSError: It cannot be written.
    """
    with extra("train", "training"):
        from accelerate import PartialState

    run = Path(run)
    if not PartialState(cpu=torch.device(device).type == "cpu").is_main_process:
        yield run
        return
    with locked(run / ".lock", f"training in {run}", wait_s=0):
        for left in find_files(run, ".*.tmp"):
            left.unlink(missing_ok=True)
        yield run


class RunNotes:
    """`loop.json`: the loop's options, what is trained on what, what was changed on the way, what was kept.

    Args:
        out: Folder of the run.
        config: The loop's options as they are now.
        about: What else the run is made of, in plain values.
        processes: Processes that train together, those that share clips counted once.

    Raises:
        ValueError: The run was begun with other options, which cannot be changed on the way.
    """

    def __init__(self, out: Path, config: LoopConfig, about: Mapping[str, Any], processes: int) -> None:
        self.path = out / "loop.json"
        now = {"train": config.to_dict(), "processes": processes, "about": dict(about)}
        self.notes: dict[str, Any] = json.loads(json.dumps(now)) | {"changes": []}
        self.new: list[dict[str, Any]] = []
        stored = self._stored() if (out / "last.pt").exists() else None
        if stored is None:
            return
        self.notes["changes"] = stored.get("changes", [])
        fixed, free = _compare(stored, self.notes)
        if fixed:
            lines = "; ".join(f"{name} was {before!r}, now it is {now!r}" for name, before, now in fixed)
            raise ValueError(
                f"{out} holds a run with other options: {lines}. Give the old ones to go on with it, "
                "or train in another folder"
            )
        self.new = [{"option": name, "before": before, "now": now} for name, before, now in free]

    def _stored(self) -> dict[str, Any] | None:
        try:
            stored = json.loads(self.path.read_text())
        except FileNotFoundError:
            log.warning("%s is missing: options of the run so far are not known", self.path)
            return None
        except ValueError as error:
            raise ValueError(f"{self.path} is damaged ({error}); restore or delete it") from error
        return stored if isinstance(stored, dict) and "train" in stored else None

    def begin(self, step: int, main: bool) -> None:
        """Writes the notes, with what is other than before this step, each with a line in the log; `main` writes."""
        if not main:
            return
        for change in self.new:
            log.info("from step %d on %s is %s, before %s", step, change["option"], change["now"], change["before"])
            self.notes["changes"].append({"step": step, **change})
        self._write()

    def add(self, **values: Any) -> None:
        """Adds to the notes."""
        self.notes.update(values)
        self._write()

    def _write(self) -> None:
        text = json.dumps(self.notes, indent=2) + "\n"
        write_atomically(self.path, lambda file: file.write(text.encode()))


Change = tuple[str, Any, Any]  # name, before, now


def _compare(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[list[Change], list[Change]]:
    """Options that differ: those that a run must keep, and those that it may change."""
    old, new = dict(_flat(before["about"])), dict(_flat(now["about"]))
    for notes, flat in ((before, old), (now, new)):
        options = dict(notes["train"])
        flat["train.accumulate * processes"] = options.pop("accumulate") * notes["processes"]
        flat |= {f"train.{name}": value for name, value in options.items()}
    changes = [(name, old.get(name), new.get(name)) for name in {**old, **new} if old.get(name) != new.get(name)]
    free = [c for c in changes if c[0].removeprefix("train.") in FREE]
    return [c for c in changes if c not in free], free


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Names with dots and values of nested dictionaries."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
