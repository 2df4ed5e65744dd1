"""Files of parameters and features, and the synthesizer that fills them."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from drivedit.data import parameter_files
from drivedit.data.parameter_files import ParameterFile, read_statistics, write_parameters, write_statistics
from drivedit.data.synth import NAMES, mel_spectrogram, render, write_synth_files


def write(path: Path, **arrays: np.ndarray) -> None:
    count = len(next(iter(arrays.values())))
    write_parameters(path, count, ({name: each[row] for name, each in arrays.items()} for row in range(count)))


def note(**changed: float) -> np.ndarray:
    values = dict.fromkeys(NAMES, 0.0) | {"noise": -1.0, "pan": 0.0} | changed
    return render(np.array([values[name] for name in NAMES]), np.random.default_rng(0))


def test_a_file_gives_back_what_was_written(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {"params": rng.normal(size=(7, 5)).astype(np.float32), "m2l": rng.normal(size=(7, 4, 3))}
    write(tmp_path / "train.h5", **arrays)
    file = ParameterFile(tmp_path / "train.h5", ["params", "m2l"], ["audio"])
    assert len(file) == 7
    found = file.read(range(2, 5))
    assert torch.equal(found["params"], torch.from_numpy(arrays["params"][2:5])) and set(found) == {"params", "m2l"}
    assert torch.allclose(found["m2l"].double(), torch.from_numpy(arrays["m2l"][2:5]), atol=1e-6)
    file.close()
    file.close()
    assert file.read(range(1))["params"].shape == (1, 5)


@pytest.mark.parametrize(
    ("count", "shapes"), [(3, [(2,), (2,)]), (1, [(2,), (2,)]), (2, [(2,), (1,)]), (0, [])], ids=str
)
def test_rows_that_differ_or_are_too_few_leave_no_file(tmp_path, count, shapes):
    with pytest.raises(ValueError, match=f"there must be {count} rows"):
        write_parameters(tmp_path / "odd.h5", count, ({"params": np.zeros(shape)} for shape in shapes))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("share", [0.1, 0.6, 0.98])
def test_a_file_that_was_cut_short_is_named(tmp_path, share):
    path = tmp_path / "train.h5"
    write(path, params=np.random.default_rng(0).normal(size=(50, 20)))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"train\.h5 is cut short"):
        ParameterFile(path, ["params"])


def test_missing_files_and_arrays_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"val\.h5"):
        ParameterFile(tmp_path / "val.h5", ["params"])
    write(tmp_path / "val.h5", params=np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"val\.h5 .*lacks 'mel_spec'"):
        ParameterFile(tmp_path / "val.h5", ["params", "mel_spec"])
    with h5py.File(tmp_path / "uneven.h5", "w") as file:
        file["params"], file["m2l"], file["audio"] = np.zeros((2, 3)), np.zeros((3, 3)), np.zeros((0, 3))
    for kinds in (["params", "m2l"], ["audio"]):
        with pytest.raises(ValueError, match=r"uneven\.h5 must have one length above 0"):
            ParameterFile(tmp_path / "uneven.h5", kinds)


def test_statistics_are_those_of_bands_and_damage_is_named(tmp_path, monkeypatch):
    mel = np.random.default_rng(0).normal(3, 2, (40, 2, 8, 30)).astype(np.float32)
    mel[:, 1, 4] = 5.0  # a band that never changes
    with pytest.raises(FileNotFoundError, match=r"stats\.npz is missing"):
        read_statistics(tmp_path)
    write(tmp_path / "train.h5", mel_spec=mel)
    monkeypatch.setattr(parameter_files, "BLOCK", 16)
    write_statistics(tmp_path)
    mean, std = read_statistics(tmp_path)
    scaled = (torch.from_numpy(mel) - mean) / std
    assert mean.shape == (2, 8, 1) and scaled[:, 0].mean().abs() < 1e-4 and abs(scaled[:, 0].std().item() - 1) < 0.01
    assert scaled.isfinite().all() and not scaled[:, 1, 4].abs().max() > 1e-3
    stats = tmp_path / "stats.npz"
    for content in (stats.read_bytes()[:40], b"", b"no archive"):
        stats.write_bytes(content)
        with pytest.raises(ValueError, match=r"stats\.npz must hold"):
            read_statistics(tmp_path)
    np.savez(stats, mean=np.zeros(3), std=np.zeros(3))
    with pytest.raises(ValueError, match="deviations above 0"):
        read_statistics(tmp_path)


def peak(audio: np.ndarray) -> float:
    """The strongest frequency, Hz."""
    return float(np.abs(np.fft.rfft(audio[0])).argmax() / 4)


def test_the_synthesizer_does_what_its_parameters_say():
    assert note().shape == (2, 176_400) and np.abs(note()).max() <= 1
    assert peak(note(pitch=0.0, mix=-1.0)) == pytest.approx(220, abs=1)
    assert peak(note(pitch=0.5, mix=-1.0)) == pytest.approx(440, abs=1)
    dark, bright = (np.abs(np.fft.rfft(note(cutoff=value)[0])) for value in (-0.8, 0.8))
    assert dark[8000:].sum() / dark.sum() < 0.1 < bright[8000:].sum() / bright.sum()
    left = note(pan=-1.0)
    assert np.abs(left[0]).max() > 0.05 and np.abs(left[1]).max() < 1e-6
    assert np.abs(note(gate=-1.0, release=-1.0)[0, 88_200:]).max() < 1e-3 < np.abs(note(gate=1.0)[0, 88_200:]).max()
    with pytest.raises(ValueError, match="has 15 parameters"):
        render(np.zeros(3), np.random.default_rng(0))


def test_a_spectrogram_shows_the_pitch_where_it_is():
    time = np.arange(176_400) / 44_100
    shown = [
        mel_spectrogram(np.stack([np.sin(2 * np.pi * hertz * time)] * 2).astype(np.float32)) for hertz in (500, 5000)
    ]
    assert shown[0].shape == (2, 128, 401)
    low, high = (each[0, :, 200].argmax() for each in shown)
    mel = [2595 * np.log10(1 + hertz / 700) for hertz in (500, 5000, 22_050)]
    assert low == pytest.approx(129 * mel[0] / mel[2] - 1, abs=1) and high == pytest.approx(
        129 * mel[1] / mel[2] - 1, abs=1
    )


def test_the_writer_fills_all_files(tmp_path):
    assert "6 notes of 15 parameters" in write_synth_files(str(tmp_path), (3, 1, 2))
    train = ParameterFile(tmp_path / "train.h5", ["params", "mel_spec"], ["audio"])
    assert len(train) == 3 and {name: x.shape[1:] for name, x in train.read(range(1)).items()} == {
        "params": (15,), "mel_spec": (2, 128, 401)
    }  # fmt: skip
    test = ParameterFile(tmp_path / "test.h5", ["params", "mel_spec", "audio"])
    assert test.read(range(2))["audio"].shape == (2, 2, 176_400) and read_statistics(tmp_path)[0].shape == (2, 128, 1)
