"""Settings that every test shares: no window, one thread per test process, the same draws in every order."""

import os

# Before torch, pygame or matplotlib is imported; subprocesses of a test inherit them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _repeatable():
    """A test that draws from torch's global generator draws the same every time, in any order of tests."""
    torch.manual_seed(0)
