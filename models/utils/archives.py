"""Tensors in files: safetensors with a digest, and archives of `torch.save`, of which no code is ever unpickled."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from drivedit.utils.files import fingerprint, write_atomically

DRAWS = (Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_)
NO_ARCHIVE = (
    RuntimeError, EOFError, pickle.UnpicklingError, AttributeError, LookupError, OverflowError, TypeError, ValueError,
)  # fmt: skip
TYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, torch.int32, torch.int64, torch.bool}


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], format: str, spec: Mapping[str, Any]) -> None:
    """Writes tensors and a specification to one safetensors file, with a digest of both, whole or not at all."""
    kept = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    text = json.dumps(dict(spec))
    data = save(kept, {"format": format, "spec": text, "digest": _digest(kept, format, text)})
    write_atomically(path, lambda file: file.write(data))


def read_tensors(path: str | Path, format: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what `write_tensors` wrote: tensors and specification.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, of another format, or holds numbers that are not finite.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error}); copy it again") from error
    if header.get("format") != format:
        raise ValueError(f"{path} has format {header.get('format')!r}, this package reads {format!r}")
    if "digest" not in header:
        raise ValueError(f"{path} has no digest of its content, by which damage would show; write it anew")
    text = header.get("spec", "")
    if header["digest"] != _digest(tensors, format, text):
        raise ValueError(f"{path} is damaged (its content has another digest than it says); copy it again")
    try:
        spec = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); copy it again") from error
    if not isinstance(spec, dict):
        raise ValueError(f"{path} is damaged (its specification is a {type(spec).__name__}); copy it again")
    for name, value in tensors.items():
        if value.dtype not in TYPES or not value.isfinite().all():
            raise ValueError(f"{path} is damaged ({name} is {value.dtype}, or not finite); copy it again")
    return tensors, spec


def read_archive(path: str | Path, device: torch.device | str = "cpu") -> Any:
    """Reads tensors and plain values that `torch.save` wrote; no code is ever unpickled.

    Args:
        path: The file.
        device: Where the tensors go.

    Raises:
        FileNotFoundError: There is no such file.
        RuntimeError: The file is damaged, or holds more than plain values.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            odd = [entry.filename for entry in archive.infolist() if not _plain(entry)]
            broken = odd[0] if odd else archive.testzip()  # torch does not look at the checksums
        if broken is not None:
            raise zipfile.BadZipFile(f"{broken} in it is not what was written")
        return torch.load(path, map_location=device, weights_only=True)
    except zipfile.BadZipFile as error:
        raise RuntimeError(f"{path} is damaged ({error})") from error
    except NO_ARCHIVE as error:  # torch's own message would tell to unpickle what nobody has checked
        why = type(error).__name__
        raise RuntimeError(f"{path} is damaged, or holds more than plain values ({why})") from error


def _plain(entry: zipfile.ZipInfo) -> bool:
    """Whether an entry of an archive is as torch writes it: neither packed, nor a folder, nor elsewhere."""
    told = (entry.compress_type, entry.internal_attr, entry.external_attr, entry.volume)
    return told == (zipfile.ZIP_STORED, 0, 0, 0) and entry.header_offset >= 0


class Undrawn(TorchFunctionMode):
    """Within it, modules are made without drawing their first weights, which others will replace."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Leaves a tensor that would be drawn as it is."""
        kwargs = kwargs or {}
        return (args or (kwargs["tensor"],))[0] if func in DRAWS else func(*args, **kwargs)


def check_tensors(build: Callable[[], nn.Module], tensors: Mapping[str, Tensor | tuple[int, ...]]) -> None:
    """Checks that tensors are those of a module, before the memory of either is taken.

    Args:
        build: Makes the module; called where tensors have shapes but no memory.
        tensors: The tensors by name, or their shapes.

    Raises:
        ValueError: The module cannot be made, or a tensor is missing, unknown or of another shape.
    """
    try:
        with torch.device("meta"), Undrawn():
            wanted = {name: tuple(value.shape) for name, value in build().state_dict().items()}
    except RuntimeError as error:
        raise ValueError(f"its configuration describes no network: {error}") from error
    found = {name: tuple(v.shape) if isinstance(v, Tensor) else tuple(v) for name, v in tensors.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            told = [f"{list(s[name])}" if name in s else "none" for s in (wanted, found)]
            raise ValueError(f"the configuration asks for a tensor {name} of shape {told[0]}, there is {told[1]}")


def _digest(tensors: Mapping[str, Tensor], format: str, spec: str) -> str:
    """The fingerprint of names, types, shapes and values."""
    parts: list[Any] = [format, spec]
    for name, value in sorted(tensors.items()):
        parts += [[name, str(value.dtype), list(value.shape)], value.flatten().view(torch.uint8).numpy().tobytes()]
    return fingerprint(*parts)
