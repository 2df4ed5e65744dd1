"""Kernels: functions that numba compiles when they are first called, and keeps for later processes if it can."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from drivedit.utils import extra, fingerprint

with extra("street", "the street"):
    from numba import njit

# What is kept is found by name. With the text of all kernels in it, one that calls a changed one is compiled anew.
_TEXT = fingerprint(*sorted(path for path in Path(__file__).parent.glob("*.py") if "@kernel" in path.read_text()))[:12]


def kernel(function: Callable[..., Any]) -> Any:
    """Compiles a function of numbers and arrays without the interpreter; the same bits on every call.

    Args:
        function: Of numpy arrays, records and numbers.

    Returns:
        The compiled function; where no folder can be written it is compiled again by every process.
    """
    function.__qualname__ = f"{function.__qualname__}_{_TEXT}"
    try:
        return njit(cache=True, error_model="numpy")(function)
    except RuntimeError:  # numba finds no folder to keep it in
        return njit(error_model="numpy")(function)
