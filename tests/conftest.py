"""Settings that every test shares: no window, one thread per test process, the same draws in every order.

`make test` runs the tests marked `threads` a second time, with OMP_NUM_THREADS=2.
"""

import os

# Before torch, pygame or matplotlib is imported; subprocesses of a test inherit them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from collections import Counter
from pathlib import Path

import pytest
import torch

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items):
    """The tests of a file run in one process, where nothing else is said: what they share is made once.

    Files of few tests, which tend to be long ones, come first: at the end no process waits long for another.
    """
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.name))
    groups = [item.get_closest_marker("xdist_group").args[0] for item in items]
    sizes = Counter(groups)
    order = sorted(range(len(items)), key=lambda place: (sizes[groups[place]], groups[place]))
    items[:] = [items[place] for place in order]


@pytest.fixture(autouse=True)
def _repeatable():
    """A test that draws from torch's global generator draws the same every time, in any order of tests."""
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def compiled_cache(tmp_path_factory):
    """Where the C++ library is kept while tests run: compiled once for all of them, whatever the number of workers."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.getbasetemp()
        folder = (root.parent if os.environ.get("PYTEST_XDIST_WORKER") else root) / "cache"
        folder.mkdir(mode=0o700, exist_ok=True)
        patch.setenv("DRIVEDIT_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def fast_world(tiny_world):
    """The tiny world as environments load it: equal rows of a batch give equal bits."""
    import copy

    from drivedit.inference.tune import can_pack, tune

    if not can_pack():
        pytest.skip("this torch does not promise equal bits for equal rows")
    return tune(copy.deepcopy(tiny_world))


@pytest.fixture(scope="session")
def tiny_world():
    """A world with random weights that steps in a millisecond; its scenes are drawn pictures on a round track."""
    import numpy as np

    from drivedit.config import StudentConfig, VAEConfig, WorldConfig
    from drivedit.config.domains.carracing import SPEC
    from drivedit.models import DiTWorld

    config = WorldConfig(
        SPEC,
        vae=VAEConfig(latent_dim=8, hidden_dims=[8, 8, 16, 16], num_res_blocks=1, use_attention=False),
        student=StudentConfig(
            latent_dim=32,
            d_model=32,
            n_layers=1,
            n_heads=2,
            dropout=0.0,
            tokens_per_frame=16,
            window=4,
            history=2,
            control_dim=7,
            route_dim=317,
            map_dim=16,
        ),
        end_threshold=0.99,
        view=(61.73, 49.38, 0.5, 0.75),
    )
    generator = torch.Generator().manual_seed(0)
    angles = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    circle = np.stack([150 * np.cos(angles), 150 * np.sin(angles)], 1).astype(np.float32)  # driven to the left
    scenes = []
    for index in range(3):
        frames = np.full((6, 64, 64, 3), (100, 204, 100), np.uint8)
        frames[:, :56, 25 + index : 39 + index] = 102
        frames[:, 56:] = 0
        turned = 0.3 * index + 0.01 * np.arange(6)
        poses = np.stack([148 * np.cos(turned), 148 * np.sin(turned), turned + np.pi / 2], 1).astype(np.float32)
        controls = np.full((5, 2), (-0.05, 0.1), np.float32)
        scenes.append({"frames": frames, "controls": controls, "route": circle, "closed": True, "poses": poses})
    world = DiTWorld(config, scenes, card="a world with random weights, for tests").eval()
    for weight in world.parameters():
        weight.data = torch.randn(weight.shape, generator=generator) * 0.2 / max(weight[0].numel(), 1) ** 0.5
    return world


@pytest.fixture(scope="session")
def film(tmp_path_factory) -> tuple[Path, Path]:
    """A film of 96 x 96 and its table; not to be changed."""
    from helpers.films import STEPS, write_table, write_video

    folder = tmp_path_factory.mktemp("film")
    return write_video(folder / "drive.mp4", range(STEPS + 1)), write_table(folder / "drive.csv")
