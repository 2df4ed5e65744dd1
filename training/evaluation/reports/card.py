"""The part of a world's CARD.md that says what it was measured to do."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

from drivedit.models import World
from drivedit.utils import write_atomically

HEADING = "## What it does on held-out drives"
_SECTION = re.compile(rf"^{HEADING}$.*?(?=^## |\Z)", re.M | re.S)


def card_of(name: str, world: World) -> Path:
    """The CARD.md of a world that is a folder of one's own.

    Args:
        name: The folder.
        world: The world that was loaded under this name.

    Raises:
        ValueError: It is no folder, or the name means another world.
    """
    if not Path(name).is_dir():
        raise ValueError(f"a card is written to a folder of your own, {name} is none; give the path of the world")
    if World.from_pretrained(name, device="cpu").fingerprint != world.fingerprint:
        raise ValueError(f"{name} means a shipped world; to judge the folder of that name, say ./{name}")
    return Path(name) / "CARD.md"


def without_figures(text: str) -> str:
    """A card without the held-out figures, which are another world's once it has learned on."""
    return _SECTION.sub("", text)


def write_card(card: Path, table: str, command: str, fingerprint: str) -> None:
    """Puts held-out figures into a card in the place of older ones, or at its end; the rest stays as it is.

    Args:
        card: The CARD.md; it is made if there is none.
        table: The table.
        command: The command that printed it.
        fingerprint: Of the world that was judged.
    """
    told = f"Printed by drivedit {version('drivedit')} for the world `{fingerprint}`:"
    section = f"{HEADING}\n\n{told}\n\n    {command}\n\n{table.strip()}\n"
    text = card.read_text() if card.is_file() else ""
    if old := _SECTION.search(text):
        after = text[old.end() :]
        text = text[: old.start()] + section + ("\n" + after if after else "")
    else:
        text = (text.rstrip() + "\n\n" if text.strip() else "") + section
    write_atomically(card, lambda file: file.write(text.encode()))
