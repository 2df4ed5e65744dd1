"""Clips of recordings and films as latents, with their words: what text-to-video transformers learn from.

A list in JSON has one entry for each source: `{"recording": FOLDER, "prompt": TEXT}`; or a film, which is imported as
by `python -m drivedit.data import`, `{"video": FILE, "controls": FILE, "prompt": TEXT}`; or just the FOLDER of a
recording. Paths are relative to the list. Without a prompt the words are the attributes of each drive ("night rain").

Legend: B clips, T frames, C channels, k + 1 latents of 4 k + 1 frames, L words, D width of a word.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from drivedit.config import DataConfig
from drivedit.data.clips import Drives
from drivedit.data.exchange.films import import_drives
from drivedit.models.text_encoder import HunyuanTextEncoder
from drivedit.models.vaes import WanVAE

MOST_WORDS = 64  # of a prompt
HELD_OUT = 16  # clips for figures, of the last drives of each source
FIELDS = {"recording", "video", "controls", "prompt"}


class Source(NamedTuple):
    """An entry of the list.

    Attributes:
        folder: Of its recording.
        prompt: Its words; None: the attributes of each drive.
    """

    folder: Path
    prompt: str | None


def read_list(path: str | Path, imported: Path) -> list[Source]:
    """The sources of a list; films are imported to a folder, where they are not there yet.

    Raises:
        FileNotFoundError: The list or what it names is missing.
        ValueError: It is no such list.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no list {path}")
    try:
        entries = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error})") from error
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path} must be a list of recordings and films that is not empty")
    return [_source(entry, path.parent, imported / f"{number:04d}") for number, entry in enumerate(entries)]


def _source(entry: Any, root: Path, imported: Path) -> Source:
    entry = {"recording": entry} if isinstance(entry, str) else entry
    film = isinstance(entry, dict) and {"video", "controls"} <= entry.keys()
    if not isinstance(entry, dict) or entry.keys() - FIELDS or film == ("recording" in entry):
        raise ValueError(
            f'an entry is {{"recording": FOLDER}} or {{"video": FILE, "controls": FILE}}, with or without a "prompt", '
            f"got {entry!r}"
        )
    if not film:
        return Source(root / entry["recording"], entry.get("prompt"))
    if not imported.is_dir():
        import_drives(imported, [root / entry["video"]], [root / entry["controls"]])
    return Source(imported, entry.get("prompt"))


class PromptedClips:
    """All clips of some sources, encoded as they are drawn.

    Args:
        sources: The sources.
        vae: The autoencoder.
        encoder: Of the words.
        frames: Frames T of a clip.
        untold: Share of clips that are told no words.
        held_out: Whether drives are kept for figures.
        device: Where clips are encoded.

    Raises:
        FileNotFoundError: A recording is missing.
        ValueError: The recordings have pictures of several sizes, or no drive is long enough.
    """

    def __init__(
        self,
        sources: list[Source],
        vae: WanVAE,
        encoder: HunyuanTextEncoder,
        frames: int,
        untold: float = 0.0,
        held_out: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self.drives = [Drives.open(source.folder) for source in sources]
        self.vae, self.frames, self.untold, self.device = vae, frames, untold, torch.device(device)
        sizes = {drives.frames.shape[1:] for drives in self.drives}
        if len(sizes) > 1:
            raise ValueError(f"the recordings must have pictures of one size, got {sorted(sizes)}")
        self.height, self.width, self.channels = sizes.pop()
        prompts: dict[str, int] = {"": 0}
        self.clips, held = [], []
        for number, (drives, source) in enumerate(zip(self.drives, sources, strict=True)):
            checked = drives.split(DataConfig.validation_fraction)[1] if held_out else []
            for drive in range(len(drives)):
                states = drives.states(drive)
                prompt = " ".join(drives.attributes[drive].values()) if source.prompt is None else source.prompt
                words = prompts.setdefault(prompt, len(prompts))
                starts = range(states.start, states.stop - frames + 1)
                (held if drive in checked else self.clips).extend((number, start, words) for start in starts)
        if not self.clips:
            raise ValueError(f"no drive has {frames} frames; record longer ones or lower num_frames")
        self.text, self.mask = encoder.encode(list(prompts), max_sequence_length=MOST_WORDS)
        self.held = held[:: max(1, len(held) // HELD_OUT)][:HELD_OUT]
        self.fingerprints = [drives.fingerprint for drives in self.drives]

    def draw(self, rng: torch.Generator, count: int) -> dict[str, Tensor]:
        """A batch of so many clips: `latents` `[B, C, k + 1, h, w]`, `text` `[B, L, D]`, `mask` `[B, L]`."""
        chosen = torch.randint(len(self.clips), (count,), generator=rng).tolist()
        told = torch.rand(count, generator=rng) >= self.untold
        return self.batch([self.clips[index] for index in chosen], told)

    @torch.no_grad()
    def batch(self, clips: list[tuple[int, int, int]], told: Tensor | None = None) -> dict[str, Tensor]:
        """Clips, each of a source, from a state on, with a prompt."""
        frames = [np.array(self.drives[number].frames[start : start + self.frames]) for number, start, _ in clips]
        video = torch.from_numpy(np.stack(frames)).to(self.device).permute(0, 4, 1, 2, 3)
        words = torch.tensor([prompt for _, _, prompt in clips])
        words = words if told is None else words * told
        latents = self.vae.encode(video.float() / 127.5 - 1)
        return {"latents": latents, "text": self.text[words], "mask": self.mask[words]}
