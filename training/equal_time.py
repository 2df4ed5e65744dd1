"""Which way to distil is best, for one's time: every method from one teacher, in the time that one of them takes.

A step of one method costs many of another. So the seconds of a step are measured first, for all of them on this
machine, and each gets as many steps as fit into the time of the yardstick.
"""

from __future__ import annotations

import copy
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from drivedit.config import DataConfig, DistillConfig, LoopConfig
from drivedit.evaluation.sizes import Sizes
from drivedit.evaluation.suites.ablation import ablate, as_table
from drivedit.models import DiTWorld
from drivedit.training.methods import METHODS
from drivedit.training.methods.dynamics import DynamicsMethod
from drivedit.training.methods.method import Progress
from drivedit.training.optimizers import make_optimizers
from drivedit.training.stages import distill
from drivedit.training.steps import Steps
from drivedit.utils import generator, load_object, resolve_device

log = logging.getLogger(__name__)
YARDSTICK = "forcing"  # the recordings, nothing else
ROUNDS = 3  # of timing, each of so many steps that student and critic have had their turns


def compare_methods(
    teacher: str = "runs/base/student/world", methods: Sequence[str] = tuple(METHODS),
    sampling_steps: Sequence[int] = (1, 2, 4), *, train_: LoopConfig, data: DataConfig, loss: DistillConfig,
    out: str = "runs/methods", device: str = "auto", drives: int | None = None, clips: int | None = None,
    quick: bool = False,
) -> str:  # fmt: skip
    """Distils by every method in equal time, judges the worlds beside the simulator, and prints one table.

    Args:
        teacher: The trained world, as for `distill`.
        methods: Names of the methods; `forcing`, which is always among them, takes `train.steps` steps.
        sampling_steps: Network passes per frame.
        train_: The loop.
        data: The recordings.
        loss: The loss of all methods, but for `loss.method`.
        out: Folder of the runs; interrupted runs go on.
        device: Where they train: auto, cpu, cuda, ...
        drives: Long drives of each; None: 16, with --quick 2.
        clips: Held-out clips; None: 48, with --quick 4.
        quick: Whether the figures' sizes are tiny, to see that everything runs; they mean nothing then.

    Raises:
        ValueError: There is no such method.
    """
    wanted = list(dict.fromkeys([YARDSTICK, *methods]))
    if unknown := set(wanted) - METHODS.keys():
        raise ValueError(f"methods must be among {', '.join(METHODS)}, got {', '.join(sorted(unknown))}")
    sizes = Sizes.of(quick, drives=drives, clips=clips)
    steps = _steps(wanted, teacher, train_, loss, Path(out), resolve_device(device))
    worlds = {"teacher": teacher}
    for name, count in steps.items():
        own = replace(train_, steps=count, warmup=min(train_.warmup, count // 10))
        worlds[name] = f"{out}/{name}/world"
        if not Path(worlds[name]).is_dir():
            distill(teacher, train_=own, data=data, loss=replace(loss, method=name), out=out, device=device)
    return as_table(ablate(worlds, sampling_steps, Path(out) / "ablation", sizes))


def _steps(
    names: list[str], teacher: str, train_: LoopConfig, loss: DistillConfig, out: Path, device: torch.device
) -> dict[str, int]:
    """Steps of each method, as they were timed once for a folder: `equal_time.json`."""
    note = out / "equal_time.json"
    known = json.loads(note.read_text()) if note.exists() else {}
    lacking = [name for name in names if name not in known]
    if lacking:
        world = DiTWorld.from_pretrained(teacher, device=device)
        for name in lacking:
            method = load_object(METHODS[name])(copy.deepcopy(world), replace(loss, method=name)).to(device)
            known[name] = seconds_of_a_step(method, random_clips(world, loss.clip_frames, train_.batch_size), train_)
            log.info("a step of %s takes %.3g s", name, known[name])
        out.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(known, indent=1) + "\n")
    return {name: max(1, round(train_.steps * known[YARDSTICK] / known[name])) for name in names}


def seconds_of_a_step(method: DynamicsMethod, batch: dict[str, Tensor], train_: LoopConfig) -> float:
    """Seconds of a step of a method, the least of some rounds.

    On a CPU it is this process's time on all cores, which others that work on the machine hardly change.
    """
    assert isinstance(method.config, DistillConfig)
    place = next(method.parameters()).device
    steps = Steps(method, make_optimizers(method.groups(0), train_), train_.clip, 0, train_.bf16, place)
    steps.rates(0.0, 0.0)
    clock = time.process_time if place.type == "cpu" else time.perf_counter
    turns, taken = method.config.critic_steps, []
    method.train()
    for _ in range(ROUNDS + 1):  # the first one warms up
        started = clock()
        for step in range(turns):
            steps.loss(batch, Progress(step, 0.5), "timing")[0].backward()
            steps.norms(step)
            steps.take(step)
            steps.clear()
        taken.append((clock() - started) / turns)
    return min(taken[1:])


def random_clips(world: DiTWorld, frames: int, rows: int) -> dict[str, Tensor]:
    """Clips of noise in the shapes that methods take; what they hold costs no time."""
    rng, student, spec = generator(0, "timing"), world.config.student, world.config.spec
    shapes = {
        "latents": (student.history + frames, *world.latent_shape()), "control": (frames, student.control_dim),
        "route": (frames, student.route_dim), "motion": (frames, 3), "telemetry": (frames, max(1, len(spec.telemetry))),
        "reward": (frames, max(1, len(spec.learned()))),
    }  # fmt: skip
    made = {name: torch.randn(rows, *shape, generator=rng) for name, shape in shapes.items()}
    return {**made, "ended": torch.zeros(rows, frames)}
