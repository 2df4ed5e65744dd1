"""The `agents` stage: a reader that tells who is where of recorded pictures; writes OUT/agents/agents.safetensors."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from drivedit.config import AgentsConfig, AgentsStageConfig, DataConfig, LoopConfig
from drivedit.evaluation.agent_frames import AgentFrames, read_states
from drivedit.evaluation.metrics.agents import found_figures, set_figures
from drivedit.models.finding import AGENTS
from drivedit.models.sets.agents import AgentsReader
from drivedit.training.loop import Batch, train
from drivedit.training.methods.agents import AgentsMethod
from drivedit.training.runs import run_folder
from drivedit.training.sources import Unpacked, check_recordings, open_source
from drivedit.training.stages import RUN, is_main, told
from drivedit.training.steps import Figures
from drivedit.utils import generator, resolve_device, seeded

log = logging.getLogger(__name__)


def agents(
    reader: AgentsConfig, train_: LoopConfig, data: DataConfig, loss: AgentsStageConfig, out: str = RUN,
    regression: bool = False, device: str = "auto",
) -> AgentsReader:  # fmt: skip
    """Trains a reader of who is where and writes OUT/agents/agents.safetensors.

    It learns from recordings that know who else was on the road. Meant to be run with a preset (--config).

    Args:
        reader: The reader.
        train_: The loop.
        data: The recordings.
        loss: The loss.
        out: Folder of the run; an interrupted run goes on.
        regression: Whether a set regression of the same size is trained instead, in OUT/agents-regression.
        device: Where it trains: auto, cpu, cuda, ...

    Raises:
        ValueError: The recordings are read as a stream, or do not know who is there.
    """
    where, name = resolve_device(device), "agents-regression" if regression else "agents"
    config = replace(reader, kind="regression") if regression else reader
    if data.stream:
        raise ValueError("a reader of agents learns from unpacked recordings: leave out data.stream")
    check_recordings(data)
    with run_folder(out, where) as folder:
        source = open_source(data, where, data.picture)
        assert isinstance(source, Unpacked)
        frames = AgentFrames.of(source.drives, config)
        batch, held = batches(frames, source.looked_at[1], train_.batch_size, loss.judged)
        with seeded(generator(train_.seed, "weights")):
            network = AgentsReader(config)
        count = sum(weight.numel() for weight in network.parameters())
        log.info("%s: %.2f M parameters, %d pictures to learn from", name, count / 1e6, len(frames.known))

        def figures(trained: AgentsReader) -> Figures:
            return held_figures(trained, frames, held, loss)

        about = {"reader": config.to_dict(), "loss": loss.to_dict(), "data": source.about(data)}
        best = train(
            AgentsMethod(network, loss), batch, train_, folder / name, device=where, about=about,
            validate=lambda method: figures(method.reader), judge="-energy",  # type: ignore[arg-type]
        )  # fmt: skip
        assert isinstance(best, AgentsMethod)
        if is_main(where):
            best.reader.save(folder / name / AGENTS)
            log.info("%s: %s", name, told(figures(best.reader)))
    return best.reader


def batches(
    frames: AgentFrames, checked: np.ndarray, rows: int, judged: int
) -> tuple[Callable[[torch.Generator], Batch], np.ndarray]:
    """What draws batches of pictures to learn from, and some states that are only looked at.

    Raises:
        ValueError: Of no drive to learn from, or to look at, it is known who was there.
    """
    held_back = np.isin(frames.drive, checked)
    learned, held = (np.flatnonzero(frames.known & side) for side in (~held_back, held_back))
    if not len(learned) or not len(held):
        raise ValueError(
            f"of {len(learned)} pictures to learn from and {len(held)} to look at it is known who is there"
        )

    def batch(rng: torch.Generator) -> Batch:
        index = np.sort(learned[torch.randint(len(learned), (rows,), generator=rng).numpy()])
        arrays: dict[str, Any] = {
            "pictures": np.array(frames.frames[index]), "before": np.array(frames.before(index)),
            "known": ~frames.begins[index], "boxes": frames.boxes[index], "present": frames.present[index],
            "ego": frames.ego[index],
        }  # fmt: skip
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    return batch, np.unique(held[np.linspace(0, len(held) - 1, judged).astype(int)])


def held_figures(reader: AgentsReader, frames: AgentFrames, index: np.ndarray, loss: AgentsStageConfig) -> Figures:
    """Figures of what a reader tells of pictures that are only looked at."""
    read = read_states(reader, frames, index, loss.samples, loss.steps)
    boxes, present, uncounted = (
        torch.from_numpy(each[index]) for each in (frames.boxes, frames.present, frames.uncounted)
    )
    return found_figures(read, boxes, present, uncounted) | set_figures(read, boxes, present)
