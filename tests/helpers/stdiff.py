"""Tiny STDiff networks and the published configuration, as YAML that a user has."""

from typing import Any

import torch

from drivedit.models.sde import DiffModel

PUBLISHED = """
STDiff:
    Diffusion:
        unet_config:
            sample_size: [64, 512]
            in_channels: 2
            out_channels: 1
            m_channels: 256
            layers_per_block: 2
            block_out_channels: [128, 256, 256, 512, 512]
            down_block_types: ["DownBlock2D","AttnDownBlock2D","AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"]
            up_block_types: ["AttnUpBlock2D", "AttnUpBlock2D","AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"]
            attention_head_dim: [null, 128, 128, 128, 128]
    DiffNet:
        autoregressive: True
        super_res_training: False
        MotionEncoder:
            learn_diff_image: True
            image_size: [64, 512]
            in_channels: 1
            model_channels: 64
            n_downs: 2
        DiffUnet:
            n_layers: 2
            nonlinear: 'tanh'
        Int:
            sde: True
            method: 'euler_heun'
            sde_options:
                noise_type: 'diagonal'
                sde_type: "stratonovich"
                dt: 0.1
                rtol: 1e-3
                atol: 1e-3
                adaptive: False
"""


def small_unet(**changes: Any) -> dict[str, Any]:
    """Two stages of eight channels for frames of 8 x 16."""
    return {
        "sample_size": [8, 16], "in_channels": 2, "out_channels": 1, "m_channels": 8, "layers_per_block": 1,
        "block_out_channels": [8, 8], "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"], "attention_head_dim": [None, 4], "norm_num_groups": 4,
        **changes,
    }  # fmt: skip


def small_tde(
    encoder: dict[str, Any] | None = None, unet: dict[str, Any] | None = None, integral: dict[str, Any] | None = None,
    **changes: Any,
) -> dict[str, Any]:  # fmt: skip
    """A motion state of eight channels, one halving; or with changes in its parts."""
    return {
        "autoregressive": True,
        "super_res_training": False,
        "MotionEncoder": {
            "image_size": [8, 16], "in_channels": 1, "model_channels": 4, "n_downs": 1, **(encoder or {})
        },
        "DiffUnet": {"n_layers": 1, "nonlinear": "tanh", **(unet or {})},
        "Int": {"sde": True, "method": "euler_heun", **(integral or {})},
        **changes,
    }  # fmt: skip


def small_model(seed: int = 0, awake: bool = True, **parts: Any) -> DiffModel:
    """A motion model; `awake`: drift and diffusion are not zero, as they are at first."""
    torch.manual_seed(seed)
    tde = small_tde(**parts)
    model = DiffModel(tde["Int"], tde["MotionEncoder"], tde["DiffUnet"])
    if awake:
        stir(model)
    return model.eval()


def stir(model: torch.nn.Module, size: float = 0.3) -> None:
    """Gives drift and diffusion of a motion model, and what controls do to them, random weights."""
    for name, weight in model.named_parameters():
        if "diff_unet" in name and (".out." in name or ".films." in name):
            torch.nn.init.normal_(weight, std=size)
