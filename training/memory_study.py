"""Does memory earn its place? Two students, alike but for memory, dream a second lap past landmarks seen in the first.

Both see the same batches and the same noise, and take the same steps from the same weights; one is told what a
`MemoryBank` recalls, the other gets zeros in its place. Then both dream the whole second lap of held-out drives freely,
from a few true frames. Motion is given, as recorded; which colour stands beside the road is known from lap one alone.

Legend: N drives, K frames of a dream, W frames of a window, H rows and V columns of a frame.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from drivedit.config import LoopConfig, MemoryStudyConfig, find_domain
from drivedit.data.landmarks import LandmarkDrives, Landmarks, find_landmarks, spot
from drivedit.models import DiTStudent
from drivedit.training.loop import train
from drivedit.training.methods.recall import WIDTH, Places, RecallMethod, control_of, frames_of, tokens_of
from drivedit.training.runs import run_folder
from drivedit.utils import fingerprint, generator, motion_between, seeded

REPLICAS = 2000


def compare(size: MemoryStudyConfig, train_: LoopConfig, out: str = "runs/memory") -> str:
    """Trains a student with memory and one without, and compares what they dream.

    Args:
        size: How much is recorded and dreamed.
        train_: The loop.
        out: Folder of the study, which can be resumed.
    """
    study(size, train_, out)
    return (Path(out) / "memory.md").read_text().rstrip()


def study(size: MemoryStudyConfig, loop: LoopConfig, out: str | Path) -> dict[str, dict[str, list[float]]]:
    """Trains both students, lets them dream and judges; writes memory.json, memory.md and memory.png to `out`.

    Raises:
        ValueError: The domain has no landmarks, or the drives are too short.
    """
    landmarks = find_landmarks(size.domain)
    with run_folder(out, "cpu") as folder:
        return _study(landmarks, size, loop, folder)


def _study(
    landmarks: Landmarks, size: MemoryStudyConfig, loop: LoopConfig, out: Path
) -> dict[str, dict[str, list[float]]]:
    first = find_domain(size.domain).held_out_from
    held = range(first, first + size.held_out)
    truth, painted = (landmarks.record(held, size.frames, repainted) for repainted in (False, True))
    if not all(returns(truth, row, size.window) for row in range(size.held_out)):
        raise ValueError(f"in {size.frames} frames a drive comes back to no landmark; record more frames")
    batches = Windows(landmarks.record(range(size.drives), size.frames), size)
    students = {name: fit(batches, size, loop, out / name, name == "memory") for name in ("memory", "none")}
    dreams = {
        "the true pictures": second_lap(truth),
        "without memory": dream(students["none"], truth, None, size),
        "with memory": dream(students["memory"], truth, truth, size),
        "memory emptied": dream(students["memory"], truth, None, size),
        "memory of the repainted drive": dream(students["memory"], truth, painted, size),
    }
    figures = {name: judge(frames, truth, painted, size.window) for name, frames in dreams.items()}
    (out / "memory.json").write_text(json.dumps({"size": vars(size), "figures": figures}, indent=1) + "\n")
    (out / "memory.md").write_text(as_table(figures, len(landmarks.palette)) + "\n")
    draw(dreams, truth, size.window, out / "memory.png")
    return figures


class Windows:
    """Windows that end in the second lap, with what memory knows of their last frame.

    Args:
        drives: The recordings.
        size: Window of the student, and its width.
    """

    def __init__(self, drives: LandmarkDrives, size: MemoryStudyConfig) -> None:
        self.tokens = tokens_of(torch.from_numpy(drives.frames))
        self.poses = torch.from_numpy(drives.poses)
        self.window, self.motion = size.window, drives.landmarks.motion
        places = Places(drives.landmarks, size.d_model)
        self.first = int(drives.lap.min())
        recalled = []
        for frame in tqdm(range(size.window, drives.frames.shape[1]), desc="memory", mininterval=5):
            places.see(self.tokens[:, frame - size.window], self.poses[:, frame - size.window])
            if frame >= self.first:
                recalled.append(places.recall(self.poses[:, frame]).half())
        self.recalled = torch.stack(recalled, 1)  # [N, T - first, M, E]
        ends = [(row, frame) for row, lap in enumerate(drives.lap) for frame in range(lap, drives.frames.shape[1])]
        self.ends = torch.tensor(ends)

    def batch(self, rng: torch.Generator, rows: int, memory: bool) -> dict[str, Tensor]:
        """Draws windows; without memory its tokens are zeros, and all else is the same."""
        row, last = self.ends[torch.randint(len(self.ends), (rows,), generator=rng)].T
        frames = last[:, None] + torch.arange(-self.window, 1)
        told = self.recalled[row, last - self.first].float()
        return {
            "tokens": self.tokens[row[:, None], frames[:, 1:]],
            "control": control_of(self.poses[row[:, None], frames], self.motion),
            "memory": told if memory else torch.zeros_like(told),
        }


def fit(batches: Windows, size: MemoryStudyConfig, loop: LoopConfig, out: Path, memory: bool) -> DiTStudent:
    """Trains one student."""
    patches = batches.tokens.shape[2]
    with seeded(generator(loop.seed, "weights")):
        student = DiTStudent(
            WIDTH, size.d_model, size.n_layers, 4, max_seq_len=size.window * patches, dropout=0.0,
            tokens_per_frame=patches, window=size.window, history=1, control_dim=3,
        )  # fmt: skip
    best = train(
        RecallMethod(student), lambda rng: batches.batch(rng, loop.batch_size, memory), loop, out,
        about={"size": size.to_dict(), "memory": memory, "drives": fingerprint(batches.tokens.numpy().tobytes())},
    )  # fmt: skip
    assert isinstance(best, RecallMethod)
    return best.dynamics.eval()


def second_lap(drives: LandmarkDrives) -> np.ndarray:
    """The true frames from the second lap on, as many as all drives have, `[N, K, H, V, 3]`."""
    count = drives.frames.shape[1] - int(drives.lap.max())
    return np.stack([frames[lap : lap + count] for frames, lap in zip(drives.frames, drives.lap, strict=True)])


@torch.no_grad()
def dream(
    student: DiTStudent, drives: LandmarkDrives, known: LandmarkDrives | None, size: MemoryStudyConfig
) -> np.ndarray:
    """Dreams the second laps from the true frames just before them.

    Args:
        student: Who dreams.
        drives: The drives.
        known: Whose first lap memory holds; None: there is no memory.
        size: Window and sampling steps.

    Returns:
        uint8 `[N, K, H, V, 3]`.
    """
    rows, lap = torch.arange(len(drives.lap))[:, None], torch.from_numpy(drives.lap)
    poses, places = torch.from_numpy(drives.poses), Places(drives.landmarks, size.d_model)
    count, context = drives.frames.shape[1] - int(lap.max()), size.window - 1
    if known is not None:
        tokens = tokens_of(torch.from_numpy(known.frames))
        for back in range(int(lap.max()), context, -1):
            frame = lap - back
            seen = tokens[rows[:, 0], frame.clamp(min=0)] * (frame >= 0)[:, None, None]
            places.see(seen, poses[rows[:, 0], frame.clamp(min=0)])
    clip = tokens_of(torch.from_numpy(drives.frames))[rows, lap[:, None] + torch.arange(-context, 0)]
    rng, dreamed = generator(0, "memory study"), []
    for step in tqdm(range(count), desc="dream", mininterval=5):
        near = poses[rows, lap[:, None] + torch.arange(step - context - 1, step + 1)]
        told = None if known is None else places.recall(near[:, -1])
        tokens = student.generate(
            clip.flatten(1, 2), clip.shape[2], sampling_steps=size.sampling_steps,
            control=control_of(near, drives.landmarks.motion), memory=told, generator=rng,
        ).unflatten(1, (-1, clip.shape[2]))  # fmt: skip
        if known is not None:
            places.see(tokens[:, 0], near[:, 1])
        clip = tokens[:, 1:]
        dreamed.append(frames_of(clip[:, -1], drives.landmarks.rows))
    return torch.stack(dreamed, 1).numpy()


def returns(drives: LandmarkDrives, row: int, window: int) -> list[tuple[int, int, int, int]]:
    """When a drive comes back to its landmarks: number, frame of the dream, row and column in the picture.

    Each is judged once, where it is nearest to the middle of the view. What the last true frames show does not count.
    """
    (middle, aside), (along, across) = drives.landmarks.middle, drives.landmarks.near
    count, lap = drives.frames.shape[1] - int(drives.lap.max()), int(drives.lap[row])
    pose = torch.from_numpy(drives.poses[row, lap : lap + count])
    found = []
    for number, place in enumerate(drives.places[row]):
        target = torch.tensor([*place, 0.0], dtype=torch.float32).expand_as(pose)
        ahead = (motion_between(pose, target)[:, :2] - torch.tensor([middle, aside])).numpy()
        frame = int(np.abs(ahead).sum(1).argmin())
        if frame > window and abs(ahead[frame, 0]) < along and abs(ahead[frame, 1]) < across:
            found.append((number, frame, *drives.landmarks.pixel_of(ahead[frame, 0] + middle, ahead[frame, 1] + aside)))
    return found


def judge(frames: np.ndarray, truth: LandmarkDrives, painted: LandmarkDrives, window: int) -> dict[str, list[float]]:
    """Figures of dreamed second laps `[N, K, H, V, 3]`, each with its 95% interval of a bootstrap over drives."""
    true, rows = second_lap(truth), []
    for row in range(len(frames)):
        events = []
        for number, frame, line, column in returns(truth, row, window):
            name = truth.landmarks.named(frames[row, frame], line, column)
            error = spot(frames[row, frame], line, column) - spot(true[row, frame], line, column)
            events.append((name == truth.colours[row][number], name == painted.colours[row][number], (error**2).mean()))
        whole = np.square(frames[row].astype(float) - true[row])
        rows.append((*np.mean(events, 0), whole[:20].mean(), whole.mean(), len(events)))
    table = np.array(rows)
    drawn = table[np.random.default_rng(0).integers(len(table), size=(REPLICAS, len(table)))]
    values = [_figures(table), *np.quantile([_figures(sample) for sample in drawn], [0.025, 0.975], axis=0)]
    names = ("true_colour", "repainted_colour", "psnr_landmark", "psnr_20", "psnr", "returns")
    return dict(zip(names, np.transpose(values).tolist(), strict=True))


def _figures(table: np.ndarray) -> np.ndarray:
    """Shares, PSNRs (dB, of mean squared errors, at most 60) and the number of returns, over drives `[N, 6]`."""
    mean = table.mean(0)
    psnr = 10 * np.log10(255**2 / np.maximum(mean[2:5], 0.065))
    return np.concatenate([mean[:2], psnr, table[:, 5:].sum(0)])


def as_table(figures: dict[str, dict[str, list[float]]], colours: int) -> str:
    """The figures as a table in Markdown, with the share that guessing one of so many colours gets."""
    columns = {
        "true_colour": "true colour, %", "repainted_colour": "colour of the repainted drive, %",
        "psnr_landmark": "PSNR of the landmark, dB", "psnr_20": "of the first 20 pictures", "psnr": "of all",
    }  # fmt: skip
    lines = ["| the second lap | " + " | ".join(columns.values()) + " |", "|---|" + "---|" * len(columns)]
    for name, row in figures.items():
        cells = []
        for column in columns:
            value, low, high = (100 * v if column.endswith("colour") else v for v in row[column])
            digits = 0 if column.endswith("colour") else 1
            cells.append(f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines.append(f"| guessing | {100 / colours:.0f} | {100 / colours:.0f} | | | |")
    return "\n".join(lines)


def draw(dreams: dict[str, np.ndarray], truth: LandmarkDrives, window: int, path: Path, columns: int = 12) -> None:
    """Writes a picture: a row for each way of dreaming, a column for the return to one landmark of each drive."""
    picked = [(row, returns(truth, row, window)[-1][1]) for row in range(min(columns, len(truth.lap)))]
    lines = []
    for name, frames in dreams.items():
        strip = np.concatenate([np.pad(frames[row, frame], ((1, 1), (1, 1), (0, 0))) for row, frame in picked], 1)
        strip = cv2.resize(strip, None, fx=3, fy=3, interpolation=cv2.INTER_NEAREST)
        label = np.full((18, strip.shape[1], 3), 255, np.uint8)
        cv2.putText(label, name, (3, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
        lines += [label, strip]
    cv2.imwrite(str(path), cv2.cvtColor(np.concatenate(lines), cv2.COLOR_RGB2BGR))
