"""Does memory earn its place: drives past landmarks, what is recalled of them, and how dreams of them are judged."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from drivedit.config import LoopConfig, MemoryStudyConfig, find_domain
from drivedit.data.landmarks import LandmarkDrives, find_landmarks
from drivedit.training import memory_study
from drivedit.training.methods.recall import WIDTH, Places, control_of, frames_of, tokens_of
from drivedit.utils import advance_pose, motion_between

SIZE = MemoryStudyConfig(drives=1, held_out=1, frames=208, d_model=64, n_layers=1, sampling_steps=1)
LANDMARKS = find_landmarks(SIZE.domain)


pytestmark = pytest.mark.xdist_group("landmarks")  # one process makes what they share


@pytest.fixture(scope="module")
def drives() -> LandmarkDrives:
    return LANDMARKS.record(range(2), SIZE.frames)


@pytest.fixture(scope="module")
def windows(drives) -> memory_study.Windows:
    return memory_study.Windows(drives, SIZE)


def test_repainting_changes_the_colours_and_nothing_else(drives):
    painted = LANDMARKS.record(range(1), SIZE.frames, repainted=True)
    assert np.array_equal(painted.poses[0], drives.poses[0]) and painted.lap[0] == drives.lap[0] < SIZE.frames
    assert np.array_equal(painted.places[0], drives.places[0]) and len(painted.places[0]) > 15
    assert (painted.colours[0] != drives.colours[0]).all()
    differs = (painted.frames[0] != drives.frames[0]).any(-1)
    assert 0 < differs.mean() < 0.1
    with pytest.raises(ValueError, match="less than a lap on the track of seed 0"):
        LANDMARKS.record(range(1), 20)


def test_the_second_lap_comes_by_the_same_places(drives):
    for pose, lap in zip(drives.poses, drives.lap, strict=True):
        first, second = pose[:lap, None, :2], pose[None, lap:, :2]
        nearest = np.linalg.norm(first - second, axis=-1).min(0)
        assert nearest.max() < 10


def test_colours_are_read_where_the_landmarks_stand(drives):
    for row in range(2):
        returns = memory_study.returns(drives, row, SIZE.window)
        assert returns
        for number, frame, line, column in returns:
            picture = memory_study.second_lap(drives)[row, frame]
            assert LANDMARKS.named(picture, line, column) == drives.colours[row][number]
            assert frame > SIZE.window  # the last true frames end farther from it than the view reaches
    square = np.full((28, 20, 3), (100, 204, 100), np.uint8)
    for colour, value in enumerate(LANDMARKS.palette.values()):
        square[9:12, 14:17] = value
        assert LANDMARKS.named(square, 10, 15) == colour
    assert LANDMARKS.pixel_of(0.1, 0.1) == (23, 10)  # the car
    assert LANDMARKS.pixel_of(12.4, -5.7) == (15, 7)  # 8 rows ahead, 3 columns to the left


def test_patches_are_lossless():
    frames = torch.randint(256, (2, 3, 28, 20, 3), dtype=torch.uint8)
    tokens = tokens_of(frames)
    assert tokens.shape == (2, 3, 35, WIDTH) and torch.equal(frames_of(tokens, 28), frames)


def test_recall_gives_the_patches_of_the_coming_view_and_where_they_lie():
    """Against plain geometry: the nearest patches of all that was stored, told from the coming pose."""
    g = torch.Generator().manual_seed(0)
    places, told = Places(LANDMARKS, 96, every=1, told=40), []
    poses = torch.stack(
        [torch.linspace(-200, 250, 40), 30 * torch.rand(40, generator=g), torch.rand(40, generator=g)], 1
    )
    for pose in poses:
        tokens = torch.rand(1, 35, WIDTH, generator=g) * 2 - 1
        places.see(tokens, pose[None])
        told.append((tokens[0], advance_pose(pose, places.patches)))
    content, place = (torch.cat(part) for part in zip(*told, strict=True))
    for coming in (poses[7], poses[20] + torch.tensor([2.0, -3.0, 0.2])):
        recalled = places.recall(coming[None])[0]
        relative = motion_between(coming.expand_as(place), place)[:, :2]
        from_middle = relative - torch.tensor(LANDMARKS.middle)
        nearest = from_middle.norm(dim=-1).argsort()[:40]
        nearest = nearest[(from_middle[nearest].abs() < torch.tensor(LANDMARKS.reach)).all(-1)]
        assert len(nearest) > 20 and recalled.any(-1).sum() == len(nearest)
        present = recalled[recalled.any(-1)]
        match = torch.cdist(present[:, :WIDTH], content[nearest])
        assert match.min(1).values.max() < 0.01 and len(match.argmin(1).unique()) == len(nearest)
        angle = 2 * torch.pi * relative[nearest][match.argmin(1)][:, 0] / 128
        assert torch.allclose(present[:, WIDTH + 3], angle.cos(), atol=2e-3)
    assert not places.recall(torch.tensor([[0.0, 600.0, 0.0]])).any()  # nothing was seen there


def test_absent_frames_are_not_remembered():
    places = Places(LANDMARKS, 96, every=1)
    tokens = torch.ones(2, 35, WIDTH) * torch.tensor([1.0, 0.0])[:, None, None]
    places.see(tokens, torch.zeros(2, 3))
    recalled = places.recall(torch.zeros(2, 3))
    assert recalled[0].any() and not recalled[1].any()
    with pytest.raises(ValueError, match="d_model must be at least 64, got 48"):
        Places(LANDMARKS, 48)
    with pytest.raises(ValueError, match="multiples of 4, got 30 and 20"):
        Places(replace(LANDMARKS, rows=30), 96)


def test_both_students_get_the_same_windows(windows):
    told, untold = (windows.batch(torch.Generator().manual_seed(3), 8, memory) for memory in (True, False))
    assert torch.equal(told["tokens"], untold["tokens"]) and torch.equal(told["control"], untold["control"])
    assert told["memory"].shape == untold["memory"].shape and told["memory"].any() and not untold["memory"].any()
    assert told["tokens"].shape == (8, SIZE.window, 35, WIDTH) and told["control"][..., 0].mean() == pytest.approx(
        1, 0.1
    )


def test_memory_holds_nothing_of_the_window(drives, windows):
    """The last frames of the recording are changed: what is recalled for the very last one stays."""
    frames = drives.frames.copy()
    frames[:, -SIZE.window :] = 255
    changed = memory_study.Windows(replace(drives, frames=frames), SIZE)
    assert torch.equal(changed.recalled, windows.recalled)
    frames[:, : -SIZE.window] = 255
    changed = memory_study.Windows(replace(drives, frames=frames), SIZE)
    assert not torch.equal(changed.recalled, windows.recalled)


def test_motion_is_told_as_it_was(drives):
    control = control_of(torch.from_numpy(drives.poses[:, :5]), LANDMARKS.motion)
    assert control.shape == (2, 4, 3) and (control[..., 0] - 1).abs().max() < 0.2  # 6 m ahead per frame


def test_the_study_from_drives_to_table(tmp_path):
    loop = LoopConfig(steps=2, batch_size=4, warmup=1, log_every=1, bf16=False)
    figures = memory_study.study(SIZE, loop, tmp_path)
    truth = figures["the true pictures"]
    assert truth["true_colour"] == [1, 1, 1] and truth["repainted_colour"] == [0, 0, 0]
    assert truth["returns"][0] >= 4
    for name, row in figures.items():
        assert all(low <= value <= high for value, low, high in row.values()), name
    assert figures["with memory"]["psnr"] != figures["memory emptied"]["psnr"]
    with pytest.raises(ValueError, match="in 178 frames a drive comes back to no landmark"):
        memory_study.study(replace(SIZE, frames=178), loop, tmp_path)
    table = (tmp_path / "memory.md").read_text()
    assert all(name in table for name in figures) and "| guessing | 17 |" in table
    assert (tmp_path / "memory.png").stat().st_size > 1000


def test_a_view_of_another_size_is_studied_alike():
    """Nothing of the first domain's view is left in the places: other sizes, the car elsewhere, and looking aside."""
    wide = replace(LANDMARKS, rows=16, columns=32, metres=(1.0, 0.5), car=(12, 4), middle=(6.0, 4.0), reach=(8.0, 8.0))
    places = Places(wide, 64, every=1)
    assert places.patches.shape == (4 * 8, 3)
    assert places.patches[0].tolist() == [10, -1, 0] and places.patches[-1].tolist() == [-2, 13, 0]
    frames = torch.randint(256, (1, 16, 32, 3), dtype=torch.uint8)
    assert torch.equal(frames_of(tokens_of(frames), wide.rows), frames)
    places.see(tokens_of(frames), torch.zeros(1, 3))
    inside = ((places.patches[:, :2] - torch.tensor(wide.middle)).abs() < 8).all(-1)
    assert places.recall(torch.zeros(1, 3))[0].any(-1).sum() == inside.sum() > 0
    assert wide.pixel_of(3.5, 2.2) == (8, 8)


def test_a_domain_without_landmarks_is_refused_before_anything_is_written(monkeypatch, tmp_path):
    monkeypatch.setattr(find_domain(SIZE.domain), "landmarks", "")
    with pytest.raises(ValueError, match=f"domain {SIZE.domain} has no landmarks .* those that have: none"):
        memory_study.study(SIZE, LoopConfig(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="there is no domain 'nowhere'; there are"):
        memory_study.study(replace(SIZE, domain="nowhere"), LoopConfig(), tmp_path)
