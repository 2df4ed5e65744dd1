"""The shipped world dreams what it dreamed, to the bit where bits can be compared."""

import json

import pytest
from golden.dream import GOLDEN, NAMES, dream, key

STORED = json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("name", NAMES)
def test_the_dream_is_the_golden_one(name):
    """Other instructions (SSE2 for AVX2, in all libraries) move no figure by more than .011 of itself and 1."""
    figures, digest = dream(name)
    assert figures == pytest.approx(STORED["figures"][name], rel=0.03, abs=0.03)
    assert digest == STORED["hashes"].get(key(), {}).get(name, digest), f"other bits than before on {key()}"
