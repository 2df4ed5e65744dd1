"""Clips of drives as tensors: `VideoDataset` over folders of pictures or recordings, and its loader.

Legend: T frames of a clip, C channels, H W pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from drivedit.config import DataConfig
from drivedit.data.clips import Drives
from drivedit.data.datasets.frame_cache import FrameCache
from drivedit.data.exchange.pictures import FIELDS, find_drives, resized

SPLITS = {"train": 0, "val": 1}  # of a recording


class _Drive(Protocol):
    """What a clip is cut from."""

    @property
    def name(self) -> str: ...
    def __len__(self) -> int: ...
    def picture(self, index: int, size: tuple[int, int]) -> np.ndarray: ...
    def depth(self, index: int, size: tuple[int, int]) -> np.ndarray: ...
    def controls(self) -> np.ndarray: ...


class RecordedDrive:
    """One drive of a recording folder, with the controls that act from each frame on; goals are zero.

    Args:
        drives: The recording.
        number: Which one.
    """

    def __init__(self, drives: Drives, number: int) -> None:
        self.name, self._drives, self._states = f"drive-{number:06d}", drives, drives.states(number)

    def __len__(self) -> int:
        return self._states.stop - self._states.start

    def picture(self, index: int, size: tuple[int, int]) -> np.ndarray:
        """A frame, uint8 `[H, W, 3]`."""
        return resized(np.array(self._drives.frames[self._states.start + index]), size)

    def depth(self, index: int, size: tuple[int, int]) -> np.ndarray:
        """Recordings have no depth: always a ValueError."""
        raise ValueError("recordings (shard-*.h5) have no depth; pass load_depth=False")

    def controls(self) -> np.ndarray:
        """Controls float32 `[T, 4]`; those of the last frame, which leads nowhere, are repeated."""
        led = np.asarray(self._drives.control[self._states])
        acts = np.concatenate([led[1:], led[-1:]])
        return np.concatenate([acts, np.zeros((len(acts), len(FIELDS) - 2), np.float32)], 1)


class VideoDataset(Dataset[dict[str, Any]]):
    """Clips of drives.

    `data_root/<split>/<drive>/` holds pictures, `controls.json` and `depth/` (see `drivedit.data.exchange.pictures`),
    or `data_root` is a recording folder (`shard-*.h5`), of which `train` and `val` are the drives that the stages train
    on and look at. Clips of a drive start half a clip apart, in the order of drives and time.

    Args:
        data_root: The folder.
        sequence_length: Frames T of a clip.
        frame_skip: Frames from one frame of a clip to the next; controls between are averaged.
        image_size: Height and width to bring pictures to.
        split: Name of the sub-folder; of a recording `"train"` or `"val"`.
        cache_frames: Whether decoded frames stay in memory.
        load_controls: Whether items have controls.
        load_depth: Whether items have depth.
        depth_scale: Value of a depth picture that is told as 1; 1000 makes metres of millimetres.
        cache_mb: MiB that the cached frames of one process may take.

    Raises:
        FileNotFoundError: The folder, pictures, controls or depth pictures are missing.
        ValueError: An argument is out of range, a file is damaged, or no drive is long enough for a clip.
    """

    def __init__(
        self,
        data_root: str | Path,
        sequence_length: int = 16,
        frame_skip: int = 1,
        image_size: tuple[int, int] = (256, 256),
        split: str = "train",
        cache_frames: bool = True,
        load_controls: bool = True,
        load_depth: bool = False,
        *,
        depth_scale: float = 65535.0,
        cache_mb: float = 1024.0,
    ) -> None:
        if sequence_length < 1 or frame_skip < 1 or min(image_size) < 1 or not depth_scale > 0:
            raise ValueError(
                "sequence_length, frame_skip, image_size and depth_scale must be positive, got "
                f"{sequence_length}, {frame_skip}, {tuple(image_size)}, {depth_scale}"
            )
        self.sequence_length, self.frame_skip, self.depth_scale = sequence_length, frame_skip, depth_scale
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.load_depth = load_depth
        self.cache = FrameCache(cache_mb if cache_frames else 0.0)
        self._drives = _find(Path(data_root), split)
        self._controls = [drive.controls() for drive in self._drives] if load_controls else None
        if load_depth:
            for drive in self._drives:
                drive.depth(0, self.image_size)
        span, stride = (sequence_length - 1) * frame_skip + 1, max(1, sequence_length // 2) * frame_skip
        self._clips = [
            (number, start)
            for number, drive in enumerate(self._drives)
            for start in range(0, len(drive) - span + 1, stride)
        ]
        if not self._clips:
            longest = max(map(len, self._drives))
            raise ValueError(
                f"a clip spans {span} frames, but the longest drive of split {split!r} in {data_root} has {longest}; "
                "shorten sequence_length or frame_skip"
            )

    def __len__(self) -> int:
        """Clips."""
        return len(self._clips)

    def __getitem__(self, idx: int) -> dict[str, Any]:
        """One clip.

        Returns:
            `frames` float `[T, 3, H, W]` in [0, 1]; `controls` float `[T, 4]` (steering, acceleration, goal_x, goal_y)
            that act from each frame to the next; `depth` float `[T, 1, H, W]`; `sequence_id`, the name of the drive;
            `start_idx`, its frame that the clip begins with.

        Raises:
            IndexError: There is no such clip.
        """
        number, start = self._clips[idx]
        drive = self._drives[number]
        index = [start + step * self.frame_skip for step in range(self.sequence_length)]
        pictures = [self.cache.get((number, i), lambda i=i: drive.picture(i, self.image_size)) for i in index]
        frames = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous().float() / 255
        item: dict[str, Any] = {"frames": frames, "sequence_id": drive.name, "start_idx": start}
        if self._controls is not None:
            item["controls"] = self._acting(self._controls[number], index)
        if self.load_depth:
            depth = [self.cache.get((number, i, "depth"), lambda i=i: drive.depth(i, self.image_size)) for i in index]
            item["depth"] = torch.from_numpy(np.stack(depth))[:, None] / self.depth_scale
        return item

    def _acting(self, controls: np.ndarray, index: list[int]) -> Tensor:
        """Controls `[T, 4]` from each frame of a clip to the next: means of what is driven, goals as at the frame."""
        rows = [np.append(controls[i : i + self.frame_skip, :2].mean(0), controls[i, 2:]) for i in index]
        return torch.from_numpy(np.stack(rows)).float()


class VideoLoader(DataLoader[dict[str, Any]]):
    """Batches of clips.

    Workers stay alive between epochs, so that the frames that they have cached are of use; each caches its own.

    Args:
        dataset: The clips.
        batch_size: Clips in a batch.
        shuffle: Whether every epoch has an order of its own.
        num_workers: Processes that read; 0: this one.
        pin_memory: Pin batches for the way to a GPU; without one it has no effect.
        drop_last: Whether to leave out the last batch when it is smaller.
        prefetch_factor: Batches that each worker reads ahead.
        seed: Of the orders.

    Raises:
        ValueError: There would be no batch.
    """

    def __init__(
        self,
        dataset: VideoDataset,
        batch_size: int = 8,
        shuffle: bool = True,
        num_workers: int = 4,
        pin_memory: bool = True,
        drop_last: bool = True,
        prefetch_factor: int = 2,
        *,
        seed: int = 0,
    ) -> None:
        if drop_last and len(dataset) < batch_size:
            raise ValueError(
                f"there are {len(dataset)} clips, which do not fill a batch of {batch_size}; lower batch_size or pass "
                "drop_last=False"
            )
        self.cache = dataset.cache
        super().__init__(
            dataset,
            batch_size,
            shuffle,
            num_workers=num_workers,
            pin_memory=pin_memory and torch.cuda.is_available(),
            drop_last=drop_last,
            prefetch_factor=prefetch_factor if num_workers else None,
            persistent_workers=num_workers > 0,
            generator=torch.Generator().manual_seed(seed),
        )

    def get_cache_stats(self) -> dict[str, Any]:
        """Figures of the frame cache over all processes; see `FrameCache.stats`."""
        return self.cache.stats()

    def clear_cache(self) -> None:
        """Empties the frame caches of all processes; see `FrameCache.clear`."""
        self.cache.clear()


def _find(root: Path, split: str) -> list[_Drive]:
    """The drives of a split."""
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    if not any(root.glob("shard-*.h5")):
        return list(find_drives(root / split))
    if split not in SPLITS:
        raise ValueError(f"a recording has the splits {list(SPLITS)}, got {split!r}")
    drives = Drives.open(root)
    chosen = drives.split(DataConfig.validation_fraction)[SPLITS[split]]
    return [RecordedDrive(drives, int(number)) for number in chosen]
