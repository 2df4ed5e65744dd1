"""A world on disk: one folder, replaced whole in one move, checked when it is read. No pickle is ever loaded."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as save_arrays
from safetensors.torch import load, save
from torch import Tensor, nn

from drivedit.config import BaseConfig
from drivedit.config.older import upgraded
from drivedit.models.adapters import Adapter, Before
from drivedit.models.finding import CARD, CONFIG, FILES, SCENES, WEIGHTS, find_world, lacks
from drivedit.models.scene_files import pack_scenes, unpack_scenes
from drivedit.models.scenes import Scene, check_scene
from drivedit.utils import Undrawn, check_replaceable, check_tensors, fingerprint, replaced_folder, resolve_device

FORMAT = 3
KINDS: dict[str, type[WorldStorage]] = {}
LARGEST = {CONFIG: 2**20, CARD: 2**20, SCENES: 2**30}  # bytes; how large the weights are follows from the settings


class WorldStorage(nn.Module):
    """Saving and loading, for `World`.

    Attributes:
        kind: Name of the kind of world, by which a folder finds its class.
        config_type: Class of its configuration.
        config: The world's configuration.
        scenes: Its start scenes.
        card: Text of its CARD.md.
        fingerprint: Names settings, weights and scenes, as they are on disk; empty before.
        tuned: Whether it has been made fast, for dreaming only (`drivedit.inference.tune`).
        before: What it was before an adapter was merged (`drivedit.models.adapters`), or None.
    """

    kind: ClassVar[str] = ""
    config_type: ClassVar[type[BaseConfig]]

    config: Any
    scenes: list[Scene]
    card: str
    fingerprint: str = ""
    tuned: bool = False
    before: Before | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "kind" in vars(cls):
            KINDS[cls.kind] = cls

    def beside(self, folder: Path) -> None:
        """Takes what else of the folder it is loaded from it can use; most kinds of worlds, nothing."""

    def digest(self) -> str:
        """A name for settings, weights and scenes as they are in memory."""
        parts: list[Any] = [self.config.to_dict()]
        for kind in (self.state_dict(), pack_scenes(self.scenes)):
            for name, value in kind.items():
                array = value.detach().cpu().contiguous().numpy() if isinstance(value, Tensor) else value
                parts += [[name, str(array.dtype), list(array.shape)], array.tobytes()]
        return fingerprint(*parts)

    def save_pretrained(self, path: str | Path) -> None:
        """Writes the world to a folder, weights in half precision; an older world there is replaced in one move.

        Whenever the process is killed, a whole world stands in that place: the older one or the new one.

        Raises:
            FileExistsError: There is a file, a link, or a folder that holds anything else than a world.
            ValueError: The world could not be loaded again: its weights are not finite, or do not fit its settings.
            OSError: The folder cannot be written; what was there before stays as it was.
            RuntimeError: The world has been tuned for dreaming.
        """
        if self.tuned:
            raise RuntimeError("this world was made fast for dreaming: load it anew, World.from_pretrained, to save it")
        path = Path(path)
        files = self._files()
        _check_world(path)
        try:
            with replaced_folder(path, FILES) as work:
                for name, data in files.items():
                    with open(work / name, "xb") as file:
                        file.write(data)
                        file.flush()
                        os.fsync(file.fileno())
        except FileExistsError:
            raise
        except OSError as error:
            what = f"could not write the world to {path} ({error}); an older world there is untouched"
            raise OSError(error.errno, what) from error

    @staticmethod
    def check_place(path: str | Path) -> None:
        """Refuses before a long work what `save_pretrained` would refuse after it.

        Raises:
            FileExistsError: There is a file, a link, or a folder that holds anything else than a world.
        """
        check_replaceable(Path(path), FILES)
        _check_world(Path(path))

    def _files(self) -> dict[str, bytes]:
        """What the world's files hold; ValueError for what could not be loaded again."""
        settings = self.config_type.from_dict(self.config.to_dict()).to_dict()
        weights = {k: v.detach().cpu().half().contiguous() for k, v in self.state_dict().items()}
        _check_finite(weights)
        check_tensors(lambda: type(self)(self.config), weights)
        scenes = pack_scenes([check_scene(scene, self.config.spec) for scene in self.scenes])
        files = {WEIGHTS: save(weights), SCENES: save_arrays(scenes)}
        told = {
            "kind": self.kind,
            "world": settings,
            "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        }
        config = {"format": FORMAT, **told, "digest": _digest(told)}
        files |= {CARD: self.card.encode(), CONFIG: (json.dumps(config, indent=2) + "\n").encode()}
        for name, most in LARGEST.items():
            if len(files[name]) > most:
                raise ValueError(f"{name} of a world has at most {most} bytes, this has {len(files[name])}")
        return files

    @classmethod
    def from_pretrained(
        cls, path_or_id: str | Path, *, device: str | torch.device = "auto", adapter: str | Path | None = None
    ) -> Self:
        """Loads a world.

        Args:
            path_or_id: Name of a shipped world, a folder, or `hub:NAME/WORLD` of the Hugging Face hub; see
                `drivedit.models.find_world`.
            device: Where to put it.
            adapter: File of an adapter of this world, which is merged; None: none is.

        Raises:
            FileNotFoundError: There is no such world or adapter, or a file in it is missing.
            ValueError: The world is damaged, or of another format, or the adapter is, or belongs to another world.
        """
        where, path = resolve_device(device), find_world(path_or_id)
        while True:
            told = _read(path, CONFIG)
            try:
                world = cls._built(path, told)
                break
            except (OSError, ValueError):
                if _read(path, CONFIG) == told:
                    raise  # else the world was replaced while it was read
        if adapter is not None:
            world.adapt(Adapter.load(adapter))
        return world.to(where).eval()

    def adapt(self, adapter: Adapter) -> None:
        """Merges an adapter into the weights; `unadapt` takes it off again, to the bit.

        Raises:
            ValueError: It is of another world, its tensors do not fit, or an adapter is merged already.
            RuntimeError: The world has been tuned for dreaming.
        """
        if self.tuned:
            raise RuntimeError("this world was made fast for dreaming: adapters are merged before that")
        if self.before is not None:
            raise ValueError("an adapter is merged already: unadapt() takes it off")
        found = self.fingerprint or self.digest()
        if adapter.base != found:
            raise ValueError(f"the adapter is of world {adapter.base}, this is world {found}: one fits one world only")
        weights = self.state_dict()
        new = adapter.added(weights)
        scenes = unpack_scenes(save_arrays(adapter.scenes)) if adapter.scenes else []
        scenes = [check_scene(scene, self.config.spec) for scene in scenes] or self.scenes
        self.before = Before({name: weights[name].clone() for name in new}, self.scenes, self.fingerprint)
        self.load_state_dict(new, strict=False)
        self.scenes, self.fingerprint = scenes, fingerprint(found, adapter.fingerprint)

    def unadapt(self) -> None:
        """Takes the merged adapter off again, to the bit.

        Raises:
            ValueError: There is none.
            RuntimeError: The world has been tuned for dreaming.
        """
        if self.before is None:
            raise ValueError("no adapter is merged")
        if self.tuned:
            raise RuntimeError("this world was made fast for dreaming: load it anew, without the adapter")
        self.load_state_dict(self.before.weights, strict=False)
        self.scenes, self.fingerprint, self.before = self.before.scenes, self.before.fingerprint, None

    @classmethod
    def _built(cls, path: Path, told: bytes) -> Self:
        """The world of a folder, by the content of its config.json."""
        missing = next((name for name in (WEIGHTS, SCENES) if not (path / name).is_file()), None)
        if missing:
            raise lacks(path, missing)
        with _intact(path):
            stored = _settings(path, told)
        build = _class_of(path, stored["kind"], cls)
        with _intact(path):
            config = build.config_type.from_dict(stored["world"])
            _check_header(path / WEIGHTS, lambda: build(config))  # type: ignore[call-arg]
            data = {name: _read(path, name) for name in (WEIGHTS, SCENES)}
            if stored["sha256"] != {name: hashlib.sha256(content).hexdigest() for name, content in data.items()}:
                raise ValueError("the checksum of its weights or scenes differs")
            scenes, weights = unpack_scenes(data.pop(SCENES)), load(data.pop(WEIGHTS))
            _check_finite(weights)
            card = _read(path, CARD).decode(errors="replace") if (path / CARD).is_file() else ""
            with Undrawn():
                world = build(config, scenes, card)  # type: ignore[call-arg]
        world.load_state_dict({name: value.float() for name, value in weights.items()})
        world.fingerprint = stored["digest"]
        world.beside(path)
        return world  # type: ignore[return-value]


def _check_world(path: Path) -> None:
    """FileExistsError for a folder that is neither empty nor a world, though its files have the names of a world's."""
    if path.is_symlink() or not path.is_dir() or not any(path.iterdir()):
        return
    try:
        stored = json.loads(_read(path, CONFIG))
    except (FileNotFoundError, ValueError, RecursionError):
        stored = None
    if not isinstance(stored, dict) or "world" not in stored:
        held = ", ".join(sorted(file.name for file in path.iterdir())[:5])
        raise FileExistsError(f"{path} is no world, and it holds what would be lost ({held}); choose another folder")


@contextmanager
def _intact(path: Path) -> Iterator[None]:
    """Whatever of a world's files cannot be read in the block is told as damage."""
    try:
        yield
    except (KeyError, ValueError, RecursionError, SafetensorError) as error:
        why = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise ValueError(f"this world is damaged ({path}: {why}); copy or download it again") from error


def _class_of(path: Path, kind: Any, asked: type[WorldStorage]) -> type[WorldStorage]:
    """The class of a kind of world, which must be the one that was asked for, or one of it."""
    if kind not in KINDS:
        raise ValueError(
            f"{path} is a world of kind {kind!r}, this package knows {sorted(KINDS)}: import what brings it, or take a "
            "newer version"
        )
    if not issubclass(KINDS[kind], asked):
        raise ValueError(f"{path} is a world of kind {kind!r}, a {asked.__name__} was asked for")
    return KINDS[kind]


def _settings(path: Path, told: bytes) -> dict[str, Any]:
    """What a config.json says, of this format or one before it, whole: with `kind` and `digest`."""
    stored = json.loads(told)
    if not isinstance(stored, dict):
        raise ValueError(f"{CONFIG} holds a {type(stored).__name__}")
    format = stored.get("format")
    if type(format) is not int or not 1 <= format <= FORMAT:
        raise ValueError(f"its format is {format!r}, this package reads {FORMAT}")
    parts = {"format", "world", "sha256"} | ({"digest"} if format > 1 else set()) | ({"kind"} if format > 2 else set())
    if set(stored) != parts:
        raise ValueError(f"{CONFIG} has the entries {sorted(stored)}, not {sorted(parts)}")
    digest = _digest(stored)
    if format == 1:
        warnings.warn(f"{path} has no digest of its settings: load it and save it anew, and it has one", stacklevel=4)
    elif stored["digest"] != digest:
        raise ValueError(f"the digest of {CONFIG} differs")
    if format < FORMAT:
        stored |= {"kind": "dit", "world": upgraded(stored["world"])}
    return stored | {"digest": digest}


def _digest(stored: dict[str, Any]) -> str:
    """The fingerprint of a world: its kind and settings, and the checksums of its weights and scenes."""
    return fingerprint({name: stored[name] for name in ("kind", "world", "sha256") if name in stored})


def _read(path: Path, name: str) -> bytes:
    """The content of one of a world's files."""
    file = path / name
    if not file.is_file():
        raise lacks(path, name)
    if file.stat().st_size > LARGEST.get(name, file.stat().st_size):
        raise ValueError(f"this world is damaged ({file} has more than {LARGEST[name]} bytes); copy it again")
    return file.read_bytes()


def _check_header(file: Path, build: Any) -> None:
    """ValueError unless the tensors that a file declares are those of a module, before any memory is taken."""
    with safe_open(file, "pt") as opened:
        slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
        types = {part.get_dtype() for part in slices.values()}
        if types != {"F16"}:
            raise ValueError(f"weights are stored in half precision, F16, got {sorted(types)}")
        check_tensors(build, {name: tuple(part.get_shape()) for name, part in slices.items()})


def _check_finite(weights: dict[str, Tensor]) -> None:
    for name, value in weights.items():
        if not value.isfinite().all():
            raise ValueError(f"the weights {name} are not finite in half precision")
