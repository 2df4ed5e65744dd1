"""The part of a world's CARD.md that says what it was measured to do."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

from drivedit.models import World
from drivedit.utils import write_atomically

HEADING = "## What it does on held-out drives"


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


def write_card(card: Path, table: str, command: str) -> None:
    """Puts held-out figures into a card in the place of older ones, or at its end; the rest stays as it is.

    Args:
        card: The CARD.md; it is made if there is none.
        table: The table.
        command: The command that printed it.
    """
    section = f"{HEADING}\n\nPrinted by drivedit {version('drivedit')}:\n\n    {command}\n\n{table.strip()}\n"
    text = card.read_text() if card.is_file() else ""
    old = re.search(rf"^{HEADING}$.*?(?=^## |\Z)", text, re.M | re.S)
    if old:
        after = text[old.end() :]
        text = text[: old.start()] + section + ("\n" + after if after else "")
    else:
        text = (text.rstrip() + "\n\n" if text.strip() else "") + section
    write_atomically(card, lambda file: file.write(text.encode()))
