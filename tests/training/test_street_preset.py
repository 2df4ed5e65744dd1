"""What the preset of the street says of its camera is what the simulator's camera does."""

from dataclasses import replace
from importlib import resources

import numpy as np
import torch
import yaml

from drivedit.config import CameraConfig, StudentConfig, WorldConfig
from drivedit.config.domains.street import SPEC
from drivedit.data.domains.street.twin import StreetTwin
from drivedit.models.conditions.layout import LayoutCoder


def overlap(seen: np.ndarray, told: np.ndarray) -> float:
    """Intersection over union of two rectangles (left, top, right, bottom)."""
    inner = np.clip(np.minimum(seen[2:], told[2:]) - np.maximum(seen[:2], told[:2]), 0, None).prod()
    return float(inner / ((seen[2:] - seen[:2]).prod() + (told[2:] - told[:2]).prod() - inner))


def test_the_layout_tells_of_others_where_the_camera_shows_them():
    preset = resources.files("drivedit.training") / "presets" / "student" / "street.yaml"
    world = yaml.safe_load(preset.read_text())["world"]
    spec = replace(SPEC, observations={"camera": SPEC.observations["camera"]})
    student, camera = StudentConfig(tokens_per_frame=32), CameraConfig(**world["camera"])
    coder = LayoutCoder(WorldConfig(spec, student=student, camera=camera, others=world["others"]))
    env, overlaps = StreetTwin(), []
    for seed, road in enumerate(["town", "highway"] * 4):
        env.reset(
            seed=seed, options={"attributes": {"road": road, "weather": "clear", "time": "day", "traffic": "dense"}}
        )
        truth, instance = env.truth(), env.see().instance
        assert truth.agents is not None and truth.pose is not None
        pose = torch.from_numpy(truth.pose).float()[None]
        low, high, _ = (value[0].numpy() for value in coder.outlines(torch.from_numpy(truth.agents.boxes)[None], pose))
        for row, who in enumerate(truth.agents.ids):
            rows, columns = np.nonzero(instance == who)
            if len(rows) >= 12:  # pixels
                told = np.clip(64 * np.concatenate([low[row] + [1, 0.5], high[row] + [1, 0.5]]), 0, [128, 64] * 2)
                overlaps.append(overlap(np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]), told))
    assert len(overlaps) >= 10 and np.median(overlaps) > 0.7, "some are partly hidden by others"


def test_the_stages_have_one_autoencoder():
    presets = resources.files("drivedit.training") / "presets"
    first, second = (yaml.safe_load((presets / stage / "street.yaml").read_text()) for stage in ("vae", "student"))
    assert first["world"]["vae"] == second["world"]["vae"]
