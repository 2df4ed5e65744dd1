"""Files that are whole or not there at all, and one of tensors with what else must be known about them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor


def write_atomically(path: str | Path, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a file beside its place, syncs it and moves it there; an older one stays whole until then.

    Args:
        path: The file to be; its folder is made.
        write: Called with the open file.

    Raises:
        OSError: The file could not be written, for instance because the disk is full; an older one is untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, f"could not write {path}: {error.strerror or error}; make room there") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], format: str, spec: Mapping[str, Any]) -> None:
    """Writes tensors and a specification to one safetensors file, whole or not at all."""
    header = {"format": format, "spec": json.dumps(dict(spec))}
    data = save({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, header)
    write_atomically(path, lambda file: file.write(data))


def read_tensors(path: str | Path, format: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what `write_tensors` wrote: tensors and specification.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, or of another format.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); copy it again") from error
    if header.get("format") != format:
        raise ValueError(f"{path} has format {header.get('format')!r}, this package reads {format!r}")
    return tensors, json.loads(header["spec"])
