"""Finding and loading worlds: shipped ones by name, others by folder or hub id; equal worlds share their weights."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from pathlib import Path

from drivedit.inference import tune
from drivedit.models import World
from drivedit.utils import resolve_device


def shipped_worlds() -> dict[str, Path]:
    """The worlds inside the package: folder by name."""
    root = Path(str(resources.files("drivedit_env"))) / "worlds"
    return {folder.name: folder for folder in sorted(root.glob("*")) if (folder / "config.json").is_file()}


def load_world(world: str | Path | World, device: str = "auto") -> World:
    """Loads a world, or finds it among those that are loaded already.

    Args:
        world: Name of a shipped world, folder, hub id "name/world", or a `World`, which stays where it is.
        device: Where to put it.

    Raises:
        FileNotFoundError: There is no such world.
        ValueError: The world is damaged.
    """
    if isinstance(world, World):
        return world.eval()
    shipped = shipped_worlds()
    path = shipped.get(str(world), Path(world))
    where = str(resolve_device(device))
    if path.is_dir():
        config = path / "config.json"
        return _load(str(path.resolve()), where, config.stat().st_mtime_ns if config.is_file() else 0)
    try:
        return _load(str(world), where, 0)
    except FileNotFoundError as error:
        names = ", ".join(shipped) or "none"
        raise FileNotFoundError(
            f"there is no world {str(world)!r}: expected the name of a shipped world ({names}), a folder, or a hub id "
            f"name/world ({error})"
        ) from error


@lru_cache(maxsize=4)
def _load(path: str, device: str, written: int) -> World:
    """One object per folder, device and time of writing, so that environments share weights."""
    return tune(World.from_pretrained(path, device=device))
