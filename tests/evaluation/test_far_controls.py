"""Controls that no driver makes: what they are, what the simulator makes of them, and figures of known answers."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from drivedit.config import Quantity
from drivedit.config.domains.carracing import DOMAIN, SPEC
from drivedit.evaluation.metrics.figures import squared_error
from drivedit.evaluation.sources import Sources, stack
from drivedit.evaluation.suites import far_controls as suite
from drivedit.evaluation.twin_drives import CONTEXT, Job
from drivedit.evaluation.twin_far import FAMILIES, SPREAD, STEPS, TIMES, far_controls, record_far
from drivedit.utils import Probes, load_object

PROBES: Probes = load_object(DOMAIN.probes)


def families(count: int = 300, spec=SPEC) -> dict[str, np.ndarray]:
    """Controls by family, `[count, T, C]`."""
    drawn = np.stack([far_controls(spec, np.random.default_rng(seed)) for seed in range(count)], 1)
    return dict(zip(FAMILIES, drawn, strict=True))


def test_families_are_what_they_are_called():
    found = families()
    wheel, pedal = ({name: values[..., place] for name, values in found.items()} for place in (0, 1))
    assert all(np.abs(values).max() <= 1 for values in found.values())
    assert (np.abs(np.diff(np.abs(wheel["square"]))) < 1e-6).all() and (np.diff(wheel["square"]) != 0).any(1).all()
    assert (np.abs(wheel["locked"]) == 1).all() and (wheel["locked"][:, 0] > 0).mean() == pytest.approx(0.5, abs=0.1)
    assert (pedal["stabs"][:, :3] == -1).all() and (pedal["stabs"][:, 3:8] > 0.29).all()
    assert (pedal["to_and_fro"][:, 0] == -pedal["to_and_fro"][:, -1]).all()
    for name, seconds in TIMES.items():
        before, after = wheel[name][:, :-1].ravel(), wheel[name][:, 1:].ravel()
        assert np.corrcoef(before, after)[0, 1] == pytest.approx(np.exp(-SPEC.dt / seconds), abs=0.05)
        assert 0.8 * SPREAD < np.hypot(before.std(), before.mean()) < SPREAD, "some are cut at the ends"


def test_controls_keep_their_ranges_and_need_one_that_steers():
    brakes = replace(SPEC, controls=[Quantity("brake", 0, 2), Quantity("steering", -3, 3), Quantity("horn", 0, 1)])
    found = families(20, brakes)
    assert set(np.abs(found["locked"][..., 1]).ravel()) == {3.0} and (found["locked"][..., 2] == 0.5).all()
    assert found["stabs"][..., 0].min() == 0 and found["stabs"][..., 0].max() <= 2
    with pytest.raises(ValueError, match=r"none of the controls \['gas'\] is known to steer"):
        far_controls(replace(SPEC, controls=[Quantity("gas", 0, 1)]), np.random.default_rng(0))


@pytest.fixture(scope="module")
def arrays():
    sources = Sources(SPEC.domain, driver=PROBES.driver, workers=1)
    return stack([record_far(Job(sources, index, 0)) for index in (0, 1)])


def test_the_simulator_turns_the_way_that_it_is_steered(arrays):
    assert arrays["frames"].shape[:2] == (2, CONTEXT + 1) and arrays["far_controls"].shape == (2, 7, STEPS, 2)
    assert arrays["far_seen"].shape[1:3] == (7, 2) and (arrays["far_steps"] <= STEPS).all()
    locked = FAMILIES.index("locked")
    assert (np.sign(arrays["far_turn"][:, locked]) == -np.sign(arrays["far_controls"][:, locked, 0, 0])).all()
    again = record_far(Job(Sources(SPEC.domain, driver=PROBES.driver, workers=1), 1, 0))
    assert all(np.array_equal(again[name], arrays[name][1]) for name in again if name.startswith("far_"))


def test_a_dream_of_the_truth_has_the_best_figures_and_its_mirror_image_the_worst(arrays, monkeypatch):
    rng = np.random.default_rng(0)
    many = {name: values.repeat(8, 0) for name, values in arrays.items()}
    many["far_turn"] = rng.normal(size=(16, 7))
    many["far_steps"] = np.full((16, 7), STEPS)
    many["far_seen"] = rng.integers(0, 255, (16, 7, 2, 8, 8, 3), np.uint8)
    true = many["far_seen"][:, :, 0].reshape(-1, 1, 8, 8, 3).repeat(STEPS, 1)
    noise = rng.integers(0, 1 + np.arange(112)[:, None, None, None, None], true.shape)
    frames = np.clip(true.astype(int) + noise, 0, 255).astype(np.uint8)
    error = squared_error(frames[:, 9], true[:, 9])

    def figures(sign: float):
        poses = np.zeros((112, STEPS, 3))
        poses[..., 2] = many["poses"][:, -1, 2].repeat(7)[:, None]
        poses[:, -1, 2] += sign * many["far_turn"].reshape(-1)
        telemetry = np.zeros((112, STEPS, len(SPEC.telemetry)))
        telemetry[..., SPEC.names("telemetry").index(PROBES.speed)] = many["far_speed"].reshape(-1, 1) + 10.0 * (
            sign < 0
        )
        dreamed = SimpleNamespace(
            poses=poses, telemetry=telemetry, frames=frames, confidence=-sign * error[:, None].repeat(STEPS, 1)
        )
        monkeypatch.setattr(suite, "dream", lambda *_, **__: dreamed)
        return suite.far_figures(SimpleNamespace(spec=SPEC), many, PROBES)  # type: ignore[arg-type]

    best, worst = figures(1.0), figures(-1.0)
    for name in FAMILIES:
        assert best[f"far_{name}_heading"] == pytest.approx(1) and best[f"far_{name}_slope"] == pytest.approx(1)
        assert best[f"far_{name}_speed"] == pytest.approx(0, abs=1e-6)
        assert worst[f"far_{name}_slope"] == pytest.approx(-1)
        assert worst[f"far_{name}_speed"] == pytest.approx(10 / PROBES.top_speed)
    assert best["far_confidence"] == pytest.approx(1) and worst["far_confidence"] == pytest.approx(-1)
