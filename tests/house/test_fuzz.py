"""Short runs of the fuzzers that no other test runs; `python -m tests.fuzz` runs all of them in earnest."""

import pytest
from fuzz import recordings, states, tables
from fuzz.damage import tried


@pytest.mark.parametrize("kind", [recordings, states, tables], ids=lambda kind: kind.__name__)
def test_what_is_damaged_is_refused_or_read_as_it_was(kind):
    outcomes, bad = kind.run(150, 0)
    assert bad == [] and outcomes["refused"] > 75 and outcomes.total() == 150


def test_a_bad_outcome_is_seen():
    def wrong() -> bool:
        raise AttributeError("from deep inside")

    def silent() -> bool:
        raise ValueError

    assert tried(lambda: False, (ValueError,)) == "read as something else"
    assert tried(wrong, (ValueError,)).startswith("AttributeError")
    assert tried(silent, (ValueError,)) == "ValueError without a word"
