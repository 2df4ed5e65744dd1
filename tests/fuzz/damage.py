"""Damage by chance, and how what comes of it is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

Outcomes = tuple[Counter[str], list[str]]  # how often each thing came; a line for everything that should not have


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """The content with bits flipped, a piece overwritten, moved, cut out or doubled, or its end missing."""
    data, kind = bytearray(content), rng.integers(7)
    # half of the damage goes where the descriptions are: at the beginning, and in a zip at the end as well
    near = min(1500, len(data))
    at = int(rng.choice([rng.integers(near), len(data) - 1 - rng.integers(near), *rng.integers(len(data), size=2)]))
    length = int(rng.integers(1, 65))
    if kind <= 1:
        for _ in range(rng.integers(1, 5)):
            data[at] ^= 1 << int(rng.integers(8))
            at = int(rng.integers(len(data)))
    elif kind == 2:
        data[at : at + length] = rng.bytes(len(data[at : at + length]))
    elif kind == 3:
        data[at : at + length] = bytes(len(data[at : at + length]))
    elif kind == 4:
        del data[at : at + length]
    elif kind == 5:
        data[at:at] = data[at : at + length]
    else:
        del data[at:]
    return bytes(data)


def tried(read: Callable[[], bool], refusals: tuple[type[Exception], ...]) -> str:
    """What comes of reading something damaged: `same`, `refused`, or what should not have come.

    Args:
        read: Reads it, and says whether it is exactly what it was before the damage.
        refusals: The errors that are promised.
    """
    try:
        return "same" if read() else "read as something else"
    except KeyboardInterrupt:
        raise
    except refusals as error:
        return "refused" if str(error) else f"{type(error).__name__} without a word"
    except BaseException as error:  # whatever comes is what is looked for
        return f"{type(error).__name__}: {str(error)[:200]}"


def counted(number: int, seed: int, one: Callable[[int, np.random.Generator], str]) -> Outcomes:
    """Outcomes of `one(index, generator)` for every index below a number."""
    outcomes: Counter[str] = Counter()
    bad = []
    for index in range(number):
        outcome = one(index, np.random.default_rng([seed, index]))
        outcomes[outcome if outcome in ("same", "refused") else "bad"] += 1
        if outcome not in ("same", "refused"):
            bad.append(f"{index} of seed {seed}: {outcome}")
    return outcomes, bad
