"""Figures of readers of agents: where the answer is known, and by the command."""

import json

import numpy as np
import pytest
import torch
from helpers.agents import boxes_at, make_reader, peopled_episode, write_recordings

from drivedit.evaluation.__main__ import main
from drivedit.evaluation.metrics.agents import (
    calibration_figures,
    drawn_figures,
    energy_scores,
    found_figures,
    set_figures,
)
from drivedit.models.sets.agent_sets import AgentSamples, summarise


def truth(*places: tuple[float, float], tokens: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    boxes, present = torch.zeros(1, tokens, 8), torch.zeros(1, tokens, dtype=torch.bool)
    if places:
        boxes[0, : len(places)], present[0, : len(places)] = torch.from_numpy(boxes_at(*places)).float(), True
    return boxes, present


def read(*places: tuple[float, float], samples: int = 1):
    boxes, present = truth(*places)
    return summarise(AgentSamples(boxes[:, None].repeat(1, samples, 1, 1), present[:, None].repeat(1, samples, 1), {}))


NOWHERE = torch.zeros(1, 3, 2)


def test_who_is_found_counts_from_5_to_30_metres():
    told = read((10, 0), (20, 3), (45, 0))
    figures = found_figures(told, *truth((11, 0), (20, 8), (50, 0)), NOWHERE)
    assert figures["recall"] == 0.5 and figures["precision"] == 0.5
    assert figures["error_5_15"] == pytest.approx(1.0) and figures["error_15_30"] == pytest.approx(5.0)
    beside = torch.tensor([[[20.0, 4.0], [0, 0], [0, 0]]])
    assert found_figures(told, *truth((11, 0)), beside)["precision"] == 1.0  # at one that does not count
    nobody = found_figures(read(), *truth(), NOWHERE)
    assert all(np.isnan(value) for value in nobody.values())


def test_ospa_and_energy_of_samples_that_agree_are_one():
    told, true = read((10, 0), samples=4), truth((12, 0), (20, 0))
    figures = set_figures(told, *true)
    assert figures["ospa"] == figures["energy"] == pytest.approx((2 + 10) / 2)


def test_samples_of_the_law_of_the_truth_have_the_least_energy():
    """Places are drawn from a normal distribution. Too narrow and too wide samples are worse, and badly calibrated."""
    rng, rows = np.random.default_rng(0), 400
    true = np.zeros((rows, 1, 8), np.float32)
    true[:, 0, :2] = [20, 0] + rng.normal(size=(rows, 2))
    present = torch.ones(rows, 1, dtype=torch.bool)
    energy, inside = {}, {}
    for width in (0.2, 1.0, 4.0):
        boxes = np.zeros((rows, 12, 1, 8), np.float32)
        boxes[:, :, 0, :2] = [20, 0] + width * rng.normal(size=(rows, 12, 2))
        told = summarise(AgentSamples(torch.from_numpy(boxes), torch.ones(rows, 12, 1, dtype=torch.bool), {}))
        energy[width] = energy_scores(told, torch.from_numpy(true), present).mean().item()
        inside[width] = calibration_figures(told, torch.from_numpy(true), present)["inside_90"]
    assert energy[1.0] < min(energy[0.2], energy[4.0])
    assert abs(inside[1.0] - 0.9) < 0.05  # 3.3 standard deviations
    assert inside[0.2] < 0.5 and inside[4.0] > 0.97


def test_the_command_compares_readers_on_the_same_pictures(tmp_path, capsys):
    root = write_recordings(tmp_path / "kept", [peopled_episode(4, seed) for seed in range(3)], held_out=True)
    for name, kind in (("reader", "flow"), ("rival", "regression")):
        make_reader(kind=kind).save(tmp_path / f"{name}.safetensors")
    words = ["agents", "--reader", str(tmp_path / "reader.safetensors"), "--held-out", str(root)]
    options = ["--samples", "3", "--pictures", "6", "--out", str(tmp_path / "report")]
    assert main([*words, "--rival", str(tmp_path / "rival.safetensors"), *options]) == 0
    table = capsys.readouterr().out
    assert "| figure | reader | rival |" in table and "| pictures | 6 | 6 |" in table
    report = json.loads((tmp_path / "report" / "agents.json").read_text())
    assert {"recall", "energy_ambiguous", "inside_90", "ms"} <= set(report["figures"]["rival"])
    assert main([*words, *options, "--ambiguous", "weather=hail"]) == 1
    assert "got weather=hail" in capsys.readouterr().err
    assert main([*words[:2], str(tmp_path / "none.safetensors"), *words[3:]]) == 1


def test_drawn_sets_are_as_far_from_recorded_ones_as_their_numbers_speeds_and_gaps():
    places = [(10, 0), (20, 1), (30, 0), (40, 0)]
    recorded = [torch.cat(each) for each in zip(*(truth(place, (15, 5)) for place in places), strict=True)]
    drawn = AgentSamples(recorded[0][None], recorded[1][None], {})
    assert drawn_figures(drawn, *recorded) == {"ks_number": 0, "ks_speed": 0, "ks_gap": 0}
    fewer = AgentSamples(recorded[0][None], torch.tensor([[[True, False, False]] * 2 + [[True, True, False]] * 2]), {})
    assert drawn_figures(fewer, *recorded)["ks_number"] == 0.5
    nearer = recorded[0].clone()
    nearer[:2, 0, 0] = 5.0
    assert drawn_figures(AgentSamples(nearer[None], recorded[1][None], {}), *recorded)["ks_gap"] == 0.5
    faster = recorded[0].clone()
    faster[..., 7] += 10
    assert drawn_figures(AgentSamples(faster[None], recorded[1][None], {}), *recorded)["ks_speed"] == 1
    nobody = AgentSamples(recorded[0][None], torch.zeros_like(recorded[1])[None], {})
    assert np.isnan(drawn_figures(nobody, *recorded)["ks_gap"]) and drawn_figures(nobody, *recorded)["ks_number"] == 1
