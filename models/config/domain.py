"""Finds a domain by what its recordings call it, so that nobody need know the domains by name."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

from drivedit.config import domains


def find_domain(env: str) -> ModuleType | None:
    """The module of `drivedit.config.domains` whose simulator has a Gymnasium id; None: no domain's has.

    Args:
        env: The id, as the attribute `env` of a recording says it.
    """
    names = [f"{domains.__name__}.{found.name}" for found in iter_modules(domains.__path__)]
    return next((module for module in map(import_module, names) if module.ENV_ID == env), None)
