"""Packages whose public names are imported when they are first asked for: a command's help then needs no torch."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any


def lazily(
    package: str, beyond: Callable[[str], Any] = lambda _: None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package; names come from its own `if TYPE_CHECKING:` block.

    Args:
        package: The package's `__name__`.
        beyond: Finds names that stand nowhere in the package; None: there is no such name.
    """
    module = sys.modules[package]

    @cache
    def homes() -> dict[str, str]:
        tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
        blocks = [line for node in tree.body if isinstance(node, ast.If) for line in node.body]
        imports = [line for line in blocks if isinstance(line, ast.ImportFrom)]
        return {alias.name: str(line.module) for line in imports for alias in line.names}

    def find(name: str) -> Any:
        home = homes().get(name)
        found = getattr(import_module(home), name) if home else beyond(name)
        if found is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(module, name, found)
        return found

    return find, lambda: list(module.__all__)
