"""The folders of the house, and who may import whom."""

import tomllib
from collections.abc import Collection
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS: dict[str, str] = PYPROJECT["tool"]["setuptools"]["package-dir"]  # every package, rooms and what is in them
GROUND = {"drivedit.config", "drivedit.utils"}
WORLD = GROUND | {"drivedit.models", "drivedit.inference"}
MAY_IMPORT: dict[str, set[str]] = {
    "drivedit.config": set(),
    "drivedit.utils": {"drivedit.config"},
    "drivedit.models": GROUND,
    "drivedit.inference": GROUND | {"drivedit.models"},
    "drivedit.data": GROUND,
    "drivedit.evaluation": WORLD,
    "drivedit.training": WORLD | {"drivedit.data", "drivedit.evaluation"},
    "drivedit_env": WORLD,
    "drivedit.agents": GROUND,
}


def within(name: str, packages: Collection[str]) -> str | None:
    """The longest of `packages` that the dotted `name` lies in, or None."""
    hits = [package for package in packages if name == package or name.startswith(package + ".")]
    return max(hits, key=len, default=None)


def sources() -> list[tuple[str, str, Path]]:
    """(package, dotted module name, file) of every module of the mapped packages; inner folders are their own."""
    found = []
    for package, folder in FOLDERS.items():
        for file in sorted((ROOT / folder).rglob("*.py")):
            owner = max((f for f in FOLDERS.values() if (ROOT / f) in file.parents), key=len)
            if owner == folder:
                inside = file.relative_to(ROOT / folder).with_suffix("")
                parts = [part for part in inside.parts if part != "__init__"]
                found.append((package, ".".join([package, *parts]), file))
    return found
