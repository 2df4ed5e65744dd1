"""Worlds of environments: found as `drivedit.models.find_world` finds them; equal worlds share their weights."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from drivedit.inference import tune
from drivedit.models import World, find_world
from drivedit.utils import fingerprint, resolve_device


def load_world(world: str | Path | World, device: str = "auto") -> World:
    """Loads a world, or finds it among those that are loaded already.

    Args:
        world: Name of a shipped world, a folder, `hub:NAME/WORLD`, or a `World`, which stays where it is.
        device: Where to put it.

    Raises:
        FileNotFoundError: There is no such world.
        ValueError: The world is damaged.
    """
    if isinstance(world, World):
        return world.eval()
    path = find_world(world)
    config = path / "config.json"  # it names all that the world holds
    told = fingerprint(config) if config.is_file() else ""
    return _load(path.resolve(), str(resolve_device(device)), told)


@lru_cache(maxsize=4)
def _load(path: Path, device: str, told: str) -> World:
    """One object per folder, device and content, so that environments share weights."""
    return tune(World.from_pretrained(path, device=device))
