"""A tiny generator of scenes, and recordings that it learns from."""

from typing import Any

import numpy as np
import torch

from drivedit.config import Modality, PixelHDMConfig, SceneGeneratorConfig, WorldSpec
from drivedit.data.recordings import Episode
from drivedit.models.pixel.generator import SceneGenerator
from helpers.worlds import film_spec

ATTRIBUTES = {"weather": ["clear", "fog"], "time": ["day", "night"]}
NETWORK = {
    "hidden_dim": 32, "pixel_dim": 8, "patch_size": 4, "patch_layers": 1, "pixel_layers": 1, "num_heads": 2,
    "num_kv_heads": 1, "head_dim": 16, "mlp_ratio": 2.0, "use_gradient_checkpointing": False, "time_embed_dim": 16,
    "time_p_mean": -1.0, "time_p_std": 1.5, "time_eps": 1e-3,
    "repa_enabled": False, "repa_align_layer": 1, "text_hidden_size": 32, "mrope_text_dim": 4, "mrope_img_h_dim": 6,
    "mrope_img_w_dim": 6, "default_num_steps": 4, "default_guidance_scale": 1.0,
}  # fmt: skip


def generator_config(**changes: Any) -> SceneGeneratorConfig:
    spec = WorldSpec("", {"camera": Modality((8, 16, 3))}, attributes=ATTRIBUTES)
    told = {"spec": spec, "network": PixelHDMConfig(**NETWORK), "frames": 2, "apart": 2}
    return SceneGeneratorConfig(**{**told, **changes})


def make_generator(**changes: Any) -> SceneGenerator:
    torch.manual_seed(0)
    return SceneGenerator(generator_config(**changes)).eval()


def lit_episode(seed: int, steps: int = 6, **changes: Any) -> Episode:
    """A drive straight on, at 10 m/s by day and 20 m/s by night; a stripe of light goes down a column in each step.

    Pictures are bright by day and dark by night.
    """
    spec = film_spec(8, 16, telemetry=("speed",), attributes=ATTRIBUTES)
    attributes = {name: values[seed // 2**place % 2] for place, (name, values) in enumerate(ATTRIBUTES.items())}
    night = attributes["time"] == "night"
    frames = np.full((steps + 1, 8, 16, 3), 20 if night else 200, np.uint8)
    for step, frame in enumerate(frames):
        frame[:, (seed + step) % 16] = 120
    along = np.arange(steps + 1.0) * spec.dt * (20 if night else 10)
    poses = np.stack([along, 0 * along, 0 * along], 1)
    told = {"poses": poses, "attributes": attributes, "seed": seed, "driver": "test"}
    return Episode(spec, {"camera": frames}, np.zeros((steps, 2), np.float32), **{**told, **changes})
