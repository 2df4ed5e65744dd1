"""Checks of what callers hand over: numbers are taken, what could only be made into numbers is refused."""

from __future__ import annotations

import reprlib
from numbers import Integral
from typing import Any

import numpy as np


def real_numbers(values: Any, expected: str) -> np.ndarray:
    """The array that booleans, integers or floating-point numbers make, in the type that they have.

    Args:
        values: What was handed over: an array, a tensor on the CPU, a number, or nested sequences of numbers.
        expected: The beginning of the error message.

    Raises:
        ValueError: These are no real numbers (strings, None, complex numbers, objects, rows of different lengths), or
            an integer that no machine number holds.
    """
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise ValueError(f"{expected}, got {reprlib.repr(values)} ({error})") from None
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{expected}, got {reprlib.repr(values)}, which are no real numbers")
    return array


def whole_number(value: Any, expected: str, low: int, high: int) -> int:
    """A whole number from `low` to `high`, both included.

    Args:
        value: What was handed over.
        expected: The beginning of the error message.
        low: The least allowed.
        high: The most allowed.

    Raises:
        ValueError: It is none.
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Integral) or not low <= int(value) <= high:
        raise ValueError(f"{expected}, got {reprlib.repr(value)}")
    return int(value)
