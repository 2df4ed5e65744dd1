"""Compiled worlds under the address and undefined-behaviour sanitizers: `python -m tests.sanitize --calls 2000`.

Worlds of odd sizes, one to three threads, states of any age, with and without routes, some of them lost: whatever
passes the checks before a call must neither read nor write elsewhere. Every second call is a decoder's.
"""

import argparse
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from drivedit.config import (
    CameraConfig,
    Modality,
    Quantity,
    RewardTerm,
    StudentConfig,
    VAEConfig,
    WorldConfig,
    WorldSpec,
)
from drivedit.inference import CompiledDecoder, CompiledStep, tune
from drivedit.inference.library import library
from drivedit.models import DiTState, DiTWorld
from drivedit.models.dit.state import FRAMES

OPTIONS = ("-O0", "-g1", "-fsanitize=address,undefined,float-cast-overflow", "-fno-omit-frame-pointer")
FINDINGS = ("runtime error:", "ERROR: AddressSanitizer")
CALLS = 20  # of each world


def runtime() -> str | None:
    """What must be loaded before Python; None where g++ or its sanitizers are missing."""
    files = []
    for name in ("libasan.so", "libubsan.so", "libstdc++.so"):
        command = ["g++", f"-print-file-name={name}"]
        try:
            files.append(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
        except (OSError, subprocess.CalledProcessError):
            return None
    return " ".join(files) if all(Path(file).is_absolute() for file in files) else None


REWARDS = {
    "near": RewardTerm("learned", 3.0), "time": RewardTerm("constant", -0.3), "far": RewardTerm("learned", -1.0),
    "left": RewardTerm("on_end", -100.0), "worth": RewardTerm("learned", 0.0),
}  # fmt: skip


def random_world(rng: np.random.Generator) -> DiTWorld:
    """A world with random weights whose widths and lengths are seldom those of a vector."""

    def up_to(most: int, least: int = 1) -> int:
        return int(rng.integers(least, most + 1))

    heads, patch, channels = up_to(3), up_to(2), up_to(5)
    rows, columns = up_to(3), up_to(3)
    history, routed, seen = up_to(3, 0), up_to(2) > 1, up_to(2) > 1
    names = list("abc")[: up_to(3, 0)]
    rewards = {name: RewardTerm("telemetry", 0.5) for name in names[:1]}
    spec = WorldSpec(
        observations={"camera": Modality((8 * patch * rows, 8 * patch * columns, 3))},
        controls=[Quantity(name) for name in list("uvwx")[: up_to(4)]],
        telemetry=[Quantity(name, -1e9, 1e9, 2.0) for name in names],
        rewards=rewards | dict(list(REWARDS.items())[: up_to(5, 0)]),
    )
    how: dict[str, Any] = {"view": (60.0, 50.0, 0.5, 0.75)} if seen else {}
    if seen and up_to(2) > 1:
        how = {"camera": CameraConfig(), "others": up_to(4, 0)}
    config = WorldConfig(
        spec,
        VAEConfig(
            3, channels, [up_to(9) for _ in range(4)], up_to(2, 0), False, 0.1, 1, [up_to(20) for _ in range(4)],
            [up_to(20) for _ in range(4)] if up_to(2) > 1 else None,
        ),
        patch=patch, sampling_steps=up_to(3), clean_cache=not history,
        route_offsets=[4.0 * i for i in range(up_to(20))],
        map_cells=up_to(3), bounds_reach=40.0 if up_to(2) > 1 else None, **how,
    )  # fmt: skip
    student = StudentConfig(
        channels * patch**2, 2 * heads * up_to(17), up_to(3), heads, up_to(70), dropout=0.0, use_rope=up_to(2) > 1,
        tokens_per_frame=rows * columns, window=up_to(4), history=history, control_dim=up_to(config.driven, 0),
    )  # fmt: skip
    if routed:
        config = replace(config, student=student)
        student = replace(student, **dict(zip(("route_dim", "map_dim"), config.code_widths(), strict=True)))
    world = DiTWorld(replace(config, student=student)).eval()
    for weight in world.parameters():
        weight.data = torch.from_numpy(rng.normal(0, 0.3, weight.shape).astype(np.float32))
    return world


def random_state(world: DiTWorld, rng: np.random.Generator) -> DiTState:
    """States of one to twenty worlds; of a third of them some number is no number, or far away."""
    rows = int(rng.integers(1, 21))
    fields = {}
    for name, (dtype, shape) in world.state_layout().items():
        size = (shape[0], rows, *shape[1:]) if name in "kv" else (rows, *shape)
        fields[name] = torch.from_numpy(np.asarray(rng.normal(0, 1, size))).to(dtype)
    most = fields["points"].shape[1]
    ages = [rng.integers(0, 3 * world.dynamics.capacity, rows), rng.integers(0, FRAMES, rows)]
    fields["clock"] = torch.from_numpy(ages[int(rng.integers(0, 2))])
    counts = [np.zeros(rows, np.int64), rng.integers(2, 5, rows), rng.integers(2, most + 1, rows), np.full(rows, most)]
    fields["count"] = torch.from_numpy(counts[int(rng.integers(0, 4))].astype(np.int64))
    fields["points"], fields["pose"] = (2 * fields["points"]).cumsum(1), 20 * fields["pose"]
    fields["arc"], fields["spacing"] = 300 * fields["arc"], fields["spacing"].abs() + 0.1
    fields["control"], fields["closed"] = fields["control"].clamp(-1, 1), torch.from_numpy(rng.random(rows) < 0.5)
    fields["bounds"] = torch.cat([-100 - fields["bounds"][:, :2].abs(), 100 + fields["bounds"][:, 2:].abs()], 1)
    state = DiTState(**fields)
    world.check_state(state)
    if rng.random() < 1 / 3:
        for name in ("k", "v", "latents", "motion", "pose", "arc", "points", "spacing", "bounds"):
            if rng.random() < 0.5 and fields[name].numel():
                places = torch.from_numpy(rng.integers(0, fields[name].numel(), 3))
                fields[name].view(-1)[places] = float(rng.choice([np.nan, np.inf, -np.inf, 0, 1e30, -1e30, 1e18]))
    return state


def inside(calls: int, seed: int) -> None:
    """Makes the calls; the sanitizers write what they find to stderr."""
    os.environ.pop("LD_PRELOAD", None)  # the compiler goes without
    native, done = library(*OPTIONS), 0
    if native is None:
        raise SystemExit("the library could not be compiled with sanitizers")
    while done < calls:
        rng = np.random.default_rng([seed, done])
        world = random_world(rng)
        torch.set_num_threads(int(rng.integers(1, 4)))
        step = CompiledStep(world, world.config.sampling_steps, native)
        decode = CompiledDecoder(tune(random_world(rng)), native)
        for _ in range(min(CALLS, calls - done) // 2):
            state = random_state(world, rng)
            controls = torch.from_numpy(rng.uniform(-1, 1, (len(state), len(world.spec.controls))))
            step(state, controls)
            size = (int(rng.integers(0, 6)), *decode.world.latent_shape())
            decode(torch.from_numpy(rng.normal(0, 10.0 ** rng.integers(0, 30), size)))
        done += CALLS
    print(f"{calls} calls made")


def main(arguments: list[str] | None = None) -> int:
    """Runs the calls in a process with sanitizers; prints what they found. Returns how many things that were."""
    parser = argparse.ArgumentParser(prog="python -m tests.sanitize", description=__doc__)
    parser.add_argument("--calls", type=int, default=2000, help="calls of steps and decoders (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, help="of worlds and states (default: 0)")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.inside:
        inside(args.calls, args.seed)
        return 0
    preload = runtime()
    if preload is None:
        raise SystemExit("this needs g++ with its address and undefined-behaviour sanitizers")
    env = {**os.environ, "LD_PRELOAD": preload, "ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
    command = [sys.executable, "-m", "tests.sanitize", "--inside", "--calls", str(args.calls), "--seed", str(args.seed)]
    run = subprocess.run(command, env=env, capture_output=True, text=True)
    found = sum(mark in line for line in run.stderr.splitlines() for mark in FINDINGS)
    if run.returncode and not found:
        raise SystemExit(f"the run ended early ({run.returncode}):\n{run.stderr[-3000:]}")
    print(run.stderr[:10_000] if found else "", f"{args.calls} calls, {found} findings", sep="")
    return found


if __name__ == "__main__":
    sys.exit(min(main(), 1))
