"""Worlds of environments: found as `drivedit.models.find_world` finds them; equal worlds share their weights."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from drivedit.inference import tune
from drivedit.models import World, find_world
from drivedit.utils import fingerprint, resolve_device


def load_world(world: str | Path | World, device: str = "auto", adapter: str | Path | None = None) -> World:
    """Loads a world, or finds it among those that are loaded already.

    Args:
        world: Name of a shipped world, a folder, `hub:NAME/WORLD`, or a `World`, which stays where it is.
        device: Where to put it.
        adapter: File of an adapter that is merged into what is loaded; None: none is.

    Raises:
        FileNotFoundError: There is no such world or adapter.
        ValueError: The world or the adapter is damaged, they do not belong together, or the world is loaded already.
    """
    if isinstance(world, World):
        if adapter is not None:
            raise ValueError("an adapter is merged when a world is loaded: name the folder of the world")
        return world.eval()
    path = find_world(world)
    config = path / "config.json"  # it names all that the world holds
    told = fingerprint(config) if config.is_file() else ""
    file = None if adapter is None else Path(adapter).resolve()
    told += fingerprint(file) if file and file.is_file() else ""
    return _load(path.resolve(), str(resolve_device(device)), told, file)


@lru_cache(maxsize=4)
def _load(path: Path, device: str, told: str, adapter: Path | None) -> World:
    """One object per folder, device and content, so that environments share weights."""
    return tune(World.from_pretrained(path, device=device, adapter=adapter))
