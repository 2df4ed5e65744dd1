"""Semantic drift: sets read off dreams beside those read off true pictures, where the answer is known."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.agents import make_reader
from helpers.fields import box_ahead, field_episode, make_bev_world

from drivedit.data.recordings import shard_path
from drivedit.evaluation.__main__ import main
from drivedit.evaluation.held_out import cut, opened
from drivedit.evaluation.suites import semantic_drift as suite
from drivedit.utils.shards import write_shard


class Brightness:
    """Somebody is there, the farther away the brighter the picture is."""

    def read(self, pictures, generator, samples, steps, before):
        far = torch.from_numpy(pictures.reshape(len(pictures), -1).mean(1)).float()
        boxes = torch.zeros(len(pictures), 2, 8)
        boxes[:, 0, 0] = far
        return SimpleNamespace(boxes=boxes, presence=torch.tensor([[0.9, 0.3]]).expand(len(pictures), 2))


@pytest.fixture
def held_out(tmp_path: Path) -> Path:
    (tmp_path / "rec").mkdir()
    write_shard(shard_path(tmp_path / "rec", 0), [field_episode(24, n) for n in range(3)], {"held_out": True})
    return tmp_path / "rec"


def test_a_dream_of_the_truth_has_none_and_one_that_stands_still_has_that_of_the_last_picture(held_out, monkeypatch):
    world = make_bev_world()
    with opened(held_out, ["camera"]) as held:
        clips = cut(held, 3, 10)
        pictures = np.stack([clips.ahead(row, held.drives.frames, now=True) for row in range(3)])
        told = {"truth": pictures[:, 1:], "still": pictures[:, :1].repeat(10, 1)}
        found = {}
        for name, frames in told.items():
            monkeypatch.setattr(suite, "dream", lambda *_, frames=frames, **__: SimpleNamespace(frames=frames))
            found[name] = suite.semantic_drift(world, Brightness(), clips)  # type: ignore[arg-type]
    assert set(found["truth"]) == {1, 5, 10}
    for step in (1, 5, 10):
        assert found["truth"][step]["free"] == found["truth"][step]["given"] == found["truth"][step]["again"] == 0
        bright = pictures.reshape(3, 11, -1).mean(2)
        apart = np.abs(bright[:, step] - bright[:, 0]).clip(max=10).mean()
        assert found["still"][step]["free"] == pytest.approx(apart, rel=1e-3) and apart > 0
        assert found["truth"][step]["last"] == pytest.approx(apart, rel=1e-3)
        assert found["truth"][step]["free_count"] == 1


def test_others_are_told_where_they_are_seen_from_the_present_place(held_out):
    with opened(held_out) as held:
        clips = cut(held, 3, 10)
        boxes = suite.others_ahead(clips, [0, 2])
        here = held.drives.pose[clips.first[[0, 2]] + clips.context, :2]
    assert boxes.shape == (2, 10, 1, 7)
    assert np.allclose(boxes[:, :, 0, :2], (box_ahead()[0, :2] - here)[:, None], atol=1e-4)
    assert np.allclose(boxes[..., 2:], box_ahead()[0, 2:7])


def test_the_command_reads_the_dreams_of_a_world_as_well(held_out, tmp_path, capsys):
    make_bev_world().save_pretrained(tmp_path / "world")
    make_reader(ego={"speed": 10.0}).save(tmp_path / "reader.safetensors")
    words = ["agents", "--reader", str(tmp_path / "reader.safetensors"), "--held-out", str(held_out), "--world",
             str(tmp_path / "world"), "--out", str(tmp_path / "out"), "--samples", "2", "--steps", "1"]  # fmt: skip
    assert main(words) == 0
    told = json.loads((tmp_path / "out" / "agents.json").read_text())["about"]["drift"]
    assert {"free", "given", "again", "last", "free_count"} <= set(told["1"]) and 0 <= told["1"]["free"] <= 10
    head = "| frames ahead | again | last | free | given |"
    assert head in (tmp_path / "out" / "agents.md").read_text() and head in capsys.readouterr().out
