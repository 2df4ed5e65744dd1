"""A world on disk: one folder, written whole or not at all, checked when it is read. No pickle is ever loaded."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from torch import nn

from drivedit.config import WorldConfig
from drivedit.models.scenes import Scene
from drivedit.utils import global_state_kept, resolve_device

FORMAT = 1
WEIGHTS, SCENES, CONFIG, CARD = "model.safetensors", "scenes.safetensors", "config.json", "CARD.md"


class WorldStorage(nn.Module):
    """Saving and loading, for `World`.

    Attributes:
        config: The world's configuration.
        scenes: Its start scenes.
        card: Text of its CARD.md.
        fingerprint: Names the weights, once they are on disk; empty before.
        tuned: Whether it has been made fast, for dreaming only (`drivedit.inference.tune`).
    """

    config: WorldConfig
    scenes: list[Scene]
    card: str
    fingerprint: str = ""
    tuned: bool = False

    def digest(self) -> str:
        """A name for the weights as they are in memory."""
        digest = hashlib.sha256(self.config.to_json().encode())
        for value in self.state_dict().values():
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def save_pretrained(self, path: str | Path) -> None:
        """Writes the world to a folder, weights in half precision; an older world there is replaced in one move.

        Raises:
            OSError: The folder cannot be written; what was there before stays as it was.
            RuntimeError: The world has been tuned for dreaming.
        """
        if self.tuned:
            raise RuntimeError("this world was made fast for dreaming: load it anew, World.from_pretrained, to save it")
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        try:
            weights = {k: v.detach().cpu().half().contiguous() for k, v in self.state_dict().items()}
            save_file(weights, work / WEIGHTS)
            save_arrays(_pack_scenes(self.scenes), work / SCENES)
            (work / CARD).write_text(self.card)
            checksums = {name: _sha256(work / name) for name in (WEIGHTS, SCENES)}
            config = {"format": FORMAT, "world": self.config.to_dict(), "sha256": checksums}
            (work / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
            work.chmod(0o755)
            for file in work.iterdir():
                file.chmod(0o644)
            old = work.with_name(work.name + "-old")
            if path.exists():
                os.replace(path, old)
            os.replace(work, path)
            shutil.rmtree(old, ignore_errors=True)
        except (OSError, SafetensorError) as error:
            raise OSError(
                f"could not write the world to {path} ({error}); an older world there is untouched"
            ) from error
        finally:
            shutil.rmtree(work, ignore_errors=True)

    @classmethod
    def from_pretrained(cls, path_or_id: str | Path, *, device: str | torch.device = "auto") -> Self:
        """Loads a world from a folder or from the Hugging Face hub.

        Args:
            path_or_id: A folder, or a hub repository "name/world".
            device: Where to put it.

        Raises:
            FileNotFoundError: There is no such folder, or a file in it is missing.
            ValueError: A file is damaged or of another format.
        """
        path = Path(path_or_id)
        if not path.is_dir():
            path = _download(str(path_or_id))
        for name in (CONFIG, WEIGHTS, SCENES):
            if not (path / name).is_file():
                raise FileNotFoundError(f"the world {path} lacks {name}; copy or download the whole folder again")
        try:
            stored = json.loads((path / CONFIG).read_text())
            if stored["format"] != FORMAT:
                raise ValueError(f"{path / CONFIG} has format {stored['format']}, this package reads {FORMAT}")
            config, checksums = WorldConfig.from_dict(stored["world"]), stored["sha256"]
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError) as error:
            raise ValueError(f"{path / CONFIG} is damaged ({error}); copy or download the world again") from error
        for name in (WEIGHTS, SCENES):
            if _sha256(path / name) != checksums.get(name):
                raise ValueError(f"{path / name} is damaged (its checksum differs); copy or download the world again")
        card = (path / CARD).read_text() if (path / CARD).is_file() else ""
        with global_state_kept():  # weights are drawn, and replaced
            world = cls(config, _unpack_scenes(load_arrays(path / SCENES)), card)  # type: ignore[call-arg]
        world.load_state_dict({k: v.float() for k, v in load_file(path / WEIGHTS).items()})
        world.fingerprint = checksums[WEIGHTS][:16]
        return world.to(resolve_device(device)).eval()


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise FileNotFoundError(f"there is no world folder {name!r}")
    try:
        return Path(snapshot_download(name, allow_patterns=[CONFIG, WEIGHTS, SCENES, CARD]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(f"{name!r} is neither a folder here nor a world on the hub ({error})") from error


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _pack_scenes(scenes: list[Scene]) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {"count": np.array(len(scenes))}
    for index, scene in enumerate(scenes):
        for name, value in vars(scene).items():
            if value is not None:
                arrays[f"{index}.{name}"] = np.ascontiguousarray(value)
    return arrays


def _unpack_scenes(arrays: dict[str, np.ndarray]) -> list[Scene]:
    fields = Scene.__dataclass_fields__
    rows = [{name: arrays.get(f"{index}.{name}") for name in fields} for index in range(int(arrays["count"]))]
    return [Scene(**{**row, "closed": bool(row["closed"])}) for row in rows]  # type: ignore[arg-type]
