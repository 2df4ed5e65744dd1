"""A small subtractive synthesizer: two oscillators and noise through a filter, under an envelope, in stereo.

It fills files of parameters and features (`write_synth_files`), so that what learns from such files has something real
to learn from. It stands for no product, and no recorded sound is in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from drivedit.data.parameter_files import AUDIO, MEL, PARAMS, write_parameters, write_statistics

RATE, SECONDS = 44_100, 4
SAMPLES = RATE * SECONDS
BANDS, WINDOW, HOP = 128, 2048, 441  # of the mel spectrogram: 401 frames
NAMES = (
    "pitch", "detune", "wave_1", "wave_2", "mix", "noise", "cutoff", "resonance", "attack", "decay", "sustain",
    "release", "gate", "pan", "gain",
)  # fmt: skip
FLOOR = 1e-8


def render(params: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Plays one note.

    Args:
        params: `[15]` in [-1, 1], of `NAMES`.
        rng: For the noise.

    Returns:
        float32 `[2, 176400]` in [-1, 1].

    Raises:
        ValueError: There is another number of parameters.
    """
    if np.shape(params) != (len(NAMES),):
        raise ValueError(f"the synthesizer has {len(NAMES)} parameters, got shape {list(np.shape(params))}")
    p: dict[str, float] = dict(zip(NAMES, (np.asarray(params, np.float64) + 1) / 2, strict=True))
    time = np.arange(SAMPLES) / RATE
    pitch = 55 * 2 ** (4 * p["pitch"])
    first = _oscillator(pitch * time, p["wave_1"])
    second = _oscillator(pitch * 2 ** (p["detune"] / 12) * time, p["wave_2"])
    tone = first + p["mix"] * (second - first)
    source = tone + p["noise"] / 2 * (rng.uniform(-1, 1, SAMPLES) - tone)
    ratio = np.fft.rfftfreq(SAMPLES, 1 / RATE) / (100 * 2 ** (7 * p["cutoff"]))
    response = 1 / np.sqrt((1 - ratio**2) ** 2 + (ratio / (0.5 + 3.5 * p["resonance"])) ** 2)
    sound = np.fft.irfft(np.fft.rfft(source) * response, SAMPLES) * _envelope(time, p)
    angle = np.pi / 2 * p["pan"]
    stereo = np.stack([np.cos(angle) * sound, np.sin(angle) * sound]) * (0.1 + 0.4 * p["gain"])
    return np.tanh(stereo).astype(np.float32)


def _oscillator(turns: np.ndarray, shape: float) -> np.ndarray:
    """From a saw (0) to a square (1)."""
    place = turns % 1
    saw, square = 2 * place - 1, np.where(place < 0.5, 1.0, -1.0)
    return saw + shape * (square - saw)


def _envelope(time: np.ndarray, p: dict[str, float]) -> np.ndarray:
    """Attack, decay, sustain while the gate is open, release; of 0 to 1."""
    attack, decay, release = (0.005 + p[name] for name in ("attack", "decay", "release"))
    open_for = 0.5 + 2.5 * p["gate"]

    def held(at: np.ndarray) -> np.ndarray:
        return np.minimum(at / attack, np.maximum(1 - (1 - p["sustain"]) * (at - attack) / decay, p["sustain"]))

    return held(np.minimum(time, open_for)) * np.exp(-5 * np.maximum(time - open_for, 0) / release)


def mel_spectrogram(audio: np.ndarray) -> np.ndarray:
    """The power of stereo sound `[2, 176400]` in mel bands, in dB, float32 `[2, 128, 401]`."""
    padded = np.pad(audio, ((0, 0), (WINDOW // 2, WINDOW // 2)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW, 1)[:, ::HOP]
    power = np.square(np.abs(np.fft.rfft(frames * np.hanning(WINDOW)))) / WINDOW
    return (10 * np.log10(np.maximum(power @ _mel_bands(), FLOOR))).astype(np.float32).transpose(0, 2, 1)


def _mel_bands() -> np.ndarray:
    """Triangular bands `[1025, 128]`, evenly spaced in mel."""
    top = 2595 * np.log10(1 + RATE / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, BANDS + 2) / 2595) - 1)
    place = np.fft.rfftfreq(WINDOW, 1 / RATE)[:, None]
    rising = (place - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - place) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(rising, falling))


def write_synth_files(out: str = "synth", items: tuple[int, int, int] = (1000, 100, 100), seed: int = 0) -> str:
    """Writes train.h5, val.h5, test.h5 and stats.npz: random notes, their parameters and mel spectrograms.

    Args:
        out: Folder of the files.
        items: Notes to train on, to validate and to test, which also has the sound itself.
        seed: Of parameters and noise.

    Returns:
        A line that says what was written.
    """
    folder = Path(out)

    def notes(number: int, name: str, count: int) -> Iterator[dict[str, np.ndarray]]:
        for index in tqdm(range(count), desc=name, mininterval=5):
            rng = np.random.default_rng([seed, number, index])
            params = rng.uniform(-1, 1, len(NAMES))
            audio = render(params, rng)
            row = {PARAMS: params, MEL: mel_spectrogram(audio)}
            yield row | {AUDIO: audio} if name == "test" else row

    for number, (name, count) in enumerate(zip(("train", "val", "test"), items, strict=True)):
        write_parameters(folder / f"{name}.h5", count, notes(number, name, count))
    write_statistics(folder)
    return f"{folder}: {sum(items)} notes of {len(NAMES)} parameters"
