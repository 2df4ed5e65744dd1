"""A short run of the fuzzer of environments; `python -m tests.fuzz` is the long one."""

from fuzz.calls import run
from helpers.worlds import make_peopled_world


def test_random_calls_of_environments_are_taken_or_refused(fast_world):
    outcomes, bad = run(120, 3, fast_world)
    assert bad == []
    assert outcomes.total() == 120 and outcomes["step taken"] > 5 and outcomes["set_state refused"] > 5


def test_random_layouts_are_taken_or_refused():
    outcomes, bad = run(120, 4, make_peopled_world())
    assert bad == [] and outcomes["reset taken"] > 5 and outcomes["reset refused"] > 5
