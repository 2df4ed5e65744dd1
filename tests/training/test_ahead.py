"""Batches made in the background are those that would be made at once; what goes wrong there is raised in its place."""

import threading

import pytest

from drivedit.training.ahead import Ahead


@pytest.mark.parametrize("ahead", [False, True])
def test_places_come_in_any_order_and_errors_where_they_are_asked_for(ahead):
    def make(place):
        if place == 3:
            raise OSError("gone")
        return place * place

    batches = Ahead(make, ahead)
    assert [batches(place) for place in (0, 1, 2, 7, 8, 2)] == [0, 1, 4, 49, 64, 4]
    with pytest.raises(OSError, match="gone"):
        batches(3)
    assert batches(4) == 16


def test_the_next_is_made_while_this_one_is_used():
    made = {place: threading.Event() for place in range(3)}

    def make(place):
        made[place].set()
        return place

    assert Ahead(make, True)(0) == 0 and made[1].wait(10) and not made[2].is_set()
    made[1].clear()
    assert Ahead(make, False)(0) == 0 and not made[1].is_set(), "on the CPU nothing is made before its time"
