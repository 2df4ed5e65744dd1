"""Batches that are drawn while the device computes on the one before."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """What a function of a place gives, asked for one place after the other; the next is made in the background.

    Args:
        make: The function; it depends on nothing but the place.
        ahead: Whether anything is made before it is asked for.
    """

    def __init__(self, make: Callable[[int], T], ahead: bool) -> None:
        self._make = make
        self._pool = ThreadPoolExecutor(1, "batches") if ahead else None
        self._next: dict[int, Future[T]] = {}

    def __call__(self, place: int) -> T:
        """What there is at a place; what went wrong there is raised here."""
        if self._pool is None:
            return self._make(place)
        known = self._next.pop(place, None) or self._pool.submit(self._make, place)
        self._next = {place + 1: self._pool.submit(self._make, place + 1)}
        return known.result()
