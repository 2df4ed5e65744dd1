"""The random streams of environments, as Gymnasium seeds them: resets draw from them, and states carry them."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from gymnasium.utils.seeding import np_random

from drivedit.utils.checks import whole_number

LARGEST_SEED = 2**128  # what numpy takes is not limited, but nobody types more


def check_seed(seed: Any) -> int | None:
    """A seed of Gymnasium's, or ValueError."""
    expected = "a seed is None or a whole number of at least 0"
    return None if seed is None else whole_number(seed, expected, 0, LARGEST_SEED)


def stream(seed: int | None, before: np.random.Generator | None, of: int | None) -> tuple[np.random.Generator, int]:
    """A random stream to draw from, and the seed that it had.

    Args:
        seed: A new seed; None: the stream goes on.
        before: The stream so far, which is left alone; None: there is none yet.
        of: Its seed.
    """
    if seed is not None or before is None or of is None:
        return np_random(seed)
    return copy.deepcopy(before), of


def restored(random: dict[str, Any]) -> np.random.Generator:
    """A generator in a stored state.

    Raises:
        ValueError: It is none of numpy's default generator.
    """
    generator = np.random.Generator(np.random.PCG64(0))
    try:
        generator.bit_generator.state = random
        taken = generator.bit_generator.state == random
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"this is no state of numpy's PCG64 ({error}): {random!r:.200}") from None
    if not taken:
        raise ValueError(f"this is no state of numpy's PCG64, a value is out of its range: {random!r:.200}")
    return generator
