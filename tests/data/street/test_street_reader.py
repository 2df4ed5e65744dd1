"""What reads pictures of the street: its lessons are true, it learns what it should, and it tells the gap ahead."""

import math

import numpy as np
import pytest
import torch

from drivedit.config.domains.street import DOMAIN
from drivedit.data.domains.street import reader as reading
from drivedit.data.domains.street import teach
from drivedit.data.domains.street.reader import FARTHEST, NEAR, UNITS, new_reader, read
from drivedit.utils import generator, seeded

pytestmark = pytest.mark.xdist_group("street")
FIRST = DOMAIN.held_out_from - 60_000  # of seeds that nothing was taught on


@pytest.fixture(scope="module")
def behind() -> teach.Lessons:
    return teach.lessons(14, FIRST, 5, quiet=True, behind=True)


def gaps(lessons: teach.Lessons) -> np.ndarray:
    return NEAR * np.expm1(lessons["values"][:, 0] * UNITS[0])


def test_lessons_tell_who_is_ahead_and_how_far(behind):
    count = len(behind["pictures"])
    assert all(len(each) == count for each in behind.values()) and set(teach.TRUE) < set(behind)
    assert not (behind["ahead"] & ~behind["cars"]).any()
    gap = gaps(behind)
    assert gap.max() == pytest.approx(FARTHEST, rel=1e-5) and not behind["ahead"][gap > FARTHEST - 1e-3].any()
    seen = behind["ahead"].any((1, 2))
    near, far = seen & (gap < 20), seen & (gap > 40)
    assert near.any() and far.any()
    assert behind["ahead"][near].sum((1, 2)).mean() > 4 * behind["ahead"][far].sum((1, 2)).mean()


def test_the_gap_to_the_one_ahead_is_read_off_true_pictures(behind):
    gap, told = gaps(behind), read(behind["pictures"], behind["before"]).values["gap"]
    close = gap < 44
    assert np.corrcoef(gap[close], told[close])[0, 1] > 0.7
    assert np.median(np.abs(gap - told)[close] / (gap[close] + 5)) < 0.25


def test_the_gap_alone_is_learned_while_the_rest_stays(behind):
    with seeded(generator(3, "reader")):
        taught = new_reader()
    before = {name: value.clone() for name, value in taught.state_dict().items()}
    teach.teach(behind, taught, 2, batch=4, gap_alone=True)
    changed = {name for name, value in taught.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("ahead.") for name in changed)
    teach.teach(behind, taught, 1, batch=4)
    assert not torch.equal(taught.get_parameter("first.0.weight"), before["first.0.weight"])


def test_places_are_right_where_the_one_ahead_is_seen_and_nobody_counts_where_one_is_hidden():
    height, width = reading.SPEC.observations["camera"].shape[:2]
    ahead = np.zeros((3, height, width), bool)
    ahead[0, reading.SKY + 4 : reading.SKY + 6, 8:10] = True  # one place of half the size
    far = math.log1p(FARTHEST / NEAR) / UNITS[0]
    values = np.array([[0.5], [far], [0.5]], np.float32)  # ahead, nobody, one that is hidden
    places = torch.zeros(3, (height - reading.SKY) // 2 * (width // 2) + 1)
    true = {"ahead": ahead, "values": values}
    alike = math.log(places.shape[1])
    assert float(teach._misplaced(places, true)) == pytest.approx(2 * alike / 3)
    places[0, 2 * (width // 2) + 4], places[1, -1] = 50.0, 50.0
    assert float(teach._misplaced(places, true)) == pytest.approx(0.0, abs=1e-4)
