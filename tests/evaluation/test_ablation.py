"""Worlds side by side: a row for each number of passes, kept when the command is begun again."""

import json
from types import SimpleNamespace

import pytest
from helpers.worlds import make_world

from drivedit.evaluation.sizes import Sizes
from drivedit.evaluation.suites import ablation


def test_an_ablation_is_one_row_per_world_and_number_of_passes(monkeypatch, tmp_path):
    """Every world meets the same drives, and each row is on disk as soon as it is known."""
    asked, spec = [], make_world().spec
    monkeypatch.setattr(ablation, "true_drives", lambda *_a, **_k: {"clips": "drives"})
    worlds = {folder: SimpleNamespace(spec=spec, folder=folder, fingerprint=folder) for folder in ("runs/a", "runs/b")}
    monkeypatch.setattr(ablation, "load_world", lambda folder, _sources: worlds[folder])
    full = True

    def figures(world, truth, _sources, _sizes, passes, _quiet):
        asked.append((world.folder, truth["clips"], passes))
        if passes == 4 and full:
            raise RuntimeError("out of memory")
        return {"psnr_1": 30.0 + passes}

    monkeypatch.setattr(ablation, "figures_of", figures)
    with pytest.raises(RuntimeError, match="out of memory"):
        ablation.ablate({"a": "runs/a", "b": "runs/b"}, [1, 2, 4], tmp_path)
    assert asked == [("runs/a", "drives", 1), ("runs/a", "drives", 2), ("runs/a", "drives", 4)]
    rows = json.loads((tmp_path / "ablation.json").read_text())
    assert [(row["world"], row["sampling_steps"], row["psnr_1"]) for row in rows] == [("a", 1, 31.0), ("a", 2, 32.0)]
    assert "| a | 2 | 32 |" in (tmp_path / "ablation.md").read_text()
    full = False
    rows = ablation.ablate({"a": "runs/a", "b": "runs/b"}, [1, 2, 4], tmp_path)
    assert asked[3:] == [("runs/a", "drives", 4), *(("runs/b", "drives", passes) for passes in (1, 2, 4))]
    assert [row["psnr_1"] for row in rows] == [31.0, 32.0, 34.0] * 2
    ablation.ablate({"a": "runs/a"}, [1], tmp_path, Sizes.of(clips=3))
    assert asked[7:] == [("runs/a", "drives", 1)], "other sizes are measured anew"
    monkeypatch.setattr(ablation, "code_fingerprint", lambda *_: "of other code")
    ablation.ablate({"a": "runs/a"}, [1], tmp_path, Sizes.of(clips=3))
    assert asked[8:] == [("runs/a", "drives", 1)], "and so they are by other code"
    with pytest.raises(ValueError, match="--drives must be at least 1, got 0"):
        Sizes.of(drives=0)
