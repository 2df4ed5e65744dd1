"""Environment variables, in the type that is wanted."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

NO, YES = ("", "0", "false", "no", "off"), ("1", "true", "yes", "on")


def get_env_var(name: str, default: Any = None, type_func: Callable[[str], Any] = str) -> Any:
    """The value of an environment variable.

    Args:
        name: The variable.
        default: What is returned, as it is, where the variable is not set.
        type_func: Makes the value of its text. `bool` takes 0, false, no, off and nothing as False, and 1, true, yes
            and on as True.

    Raises:
        ValueError: The text is none of that type; the variable is named.
    """
    text = os.environ.get(name)
    if text is None:
        return default
    try:
        return _truth(text) if type_func is bool else type_func(text)
    except (TypeError, ValueError, ArithmeticError) as error:
        kind = getattr(type_func, "__name__", type_func)
        raise ValueError(f"the environment variable {name} must be of type {kind}, got {text!r} ({error})") from error


def _truth(text: str) -> bool:
    """What a text says, or ValueError."""
    if text.strip().lower() not in NO + YES:
        raise ValueError(f"it is none of {', '.join((*YES, *NO[1:]))}")
    return text.strip().lower() in YES
