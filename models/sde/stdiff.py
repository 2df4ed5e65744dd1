"""STDiff under its published name: motion encoder, motion equation and frame network, saved as diffusers saves models.

Where the original is silent about an error it is named here: times that do not rise, channels that do not fit, missing
keys. Weights are safetensors alone, and the scheduler that they were trained with is kept in their configuration.

Legend: N clips, To observed frames, Tp predicted ones, C channels of a frame, Ho Wo and Hp Wp sizes of observed and of
predicted frames, A numbers of a control.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from drivedit.config import DiffNetConfig, MotionUNetConfig
from drivedit.models.sde.layers import configured, plain
from drivedit.models.sde.motion import DiffModel, Times, rising
from drivedit.models.sde.unet import UNet2DMotionCond, UNet2DMotionCondOutput
from drivedit.utils import extra, replaced_folder, restore_folder

with extra("sde", "STDiff under its published names"):
    from diffusers.configuration_utils import ConfigMixin
    from diffusers.models.modeling_utils import ModelMixin

FILES = ("config.json", "diffusion_pytorch_model.safetensors")


class STDiffDiffusers(ModelMixin, ConfigMixin):
    """Motion in continuous time, and the frames at any of its times.

    Args:
        unet_cfg: `Diffusion.unet_config` of a published configuration: a dictionary, of OmegaConf, or a
            `drivedit.config.MotionUNetConfig`.
        tde_cfg: `DiffNet`, likewise or a `drivedit.config.DiffNetConfig`.
        scheduler: Configuration of the scheduler that the weights are trained with, its class under `_class_name`;
            None: it is not known yet.

    Attributes:
        autoreg: Whether a frame is painted beside the one before it.
        super_res_training: Whether observed frames may be smaller than predicted ones.
        tde_model: A `DiffModel`.
        diffusion_unet: A `UNet2DMotionCond`.

    Raises:
        KeyError: A published key is missing, or one is unknown.
        ValueError: A value is out of its range, or channels do not fit each other.
    """

    config_name = FILES[0]

    def __init__(self, unet_cfg: Any, tde_cfg: Any, *, scheduler: Any = None) -> None:
        super().__init__()
        tde = configured(DiffNetConfig, tde_cfg, "DiffNet")
        unet = configured(MotionUNetConfig, unet_cfg, "unet_config")
        self.register_to_config(unet_cfg=plain(unet), tde_cfg=plain(tde), scheduler=plain(scheduler))
        self.autoreg, self.super_res_training = tde.autoregressive, tde.super_res_training
        frame = tde.MotionEncoder.in_channels
        wanted = unet.out_channels + (frame if tde.autoregressive else 0)
        if unet.in_channels != wanted:
            beside = f", and {frame} of the frame before" if tde.autoregressive else ""
            raise ValueError(
                f"in_channels must be {wanted} ({unet.out_channels} of a noisy frame{beside}) with autoregressive: "
                f"{tde.autoregressive}, got {unet.in_channels}"
            )
        if unet.m_channels != tde.MotionEncoder.m_channels:
            raise ValueError(
                f"m_channels must be model_channels * 2^n_downs = {tde.MotionEncoder.m_channels}, got {unet.m_channels}"
            )
        self.tde_model = DiffModel(tde.Int, tde.MotionEncoder, tde.DiffUnet)
        self.diffusion_unet = UNet2DMotionCond(**plain(unet))

    def forward(
        self, Vo: Tensor, idx_o: Times, idx_p: Times, noisy_Vp: Tensor, timestep: Tensor | float,
        clean_Vp: Tensor | None = None, Vo_last_frame: Tensor | None = None, *, seeds: Sequence[int] | None = None,
        controls: Tensor | None = None, told: Tensor | None = None,
    ) -> UNet2DMotionCondOutput:  # fmt: skip
        """What the frame network tells of noisy future frames: their noise, or what it was trained to tell.

        Args:
            Vo: Observed frames in [-1, 1], `[N, To, C, Ho, Wo]`.
            idx_o: Their times `[To]`, rising.
            idx_p: Times of future frames `[Tp]`, rising, after those.
            noisy_Vp: `[N * Tp, C, Hp, Wp]`.
            timestep: Index of their noise level, `[N * Tp]` or one for all.
            clean_Vp: Future frames `[N, Tp, C, Hp, Wp]`; autoregressive: the frame before each is shown.
            Vo_last_frame: The last observed frame `[N, 1, C, Hp, Wp]`, likewise.
            seeds: Of the noise of motion, N whole numbers; None: drawn from torch's global generator.
            controls: `[N, Tp, A]`, each held until its frame; None: none is told.
            told: bool `[N]`, which clips are told theirs; None: all.

        Returns:
            Its `sample` is `[N * Tp, C, Hp, Wp]`.

        Raises:
            ValueError: A shape or time does not fit, or an autoregressive model is not shown clean frames.
        """
        motion = self.motion(Vo, idx_o, idx_p, seeds, controls, told)
        if self.autoreg:
            if clean_Vp is None or Vo_last_frame is None:
                raise ValueError("an autoregressive model must be shown clean_Vp and Vo_last_frame")
            noisy_Vp = torch.cat([noisy_Vp, self.frames_before(Vo, clean_Vp, Vo_last_frame).flatten(0, 1)], 1)
        return self.diffusion_unet(noisy_Vp, timestep, m_feat=motion.flatten(0, 1))

    def motion(
        self, Vo: Tensor, idx_o: Times, idx_p: Times, seeds: Sequence[int] | None = None,
        controls: Tensor | None = None, told: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """The motion states at future times, `[N, Tp, M, h, w]`; arguments as of `forward`."""
        seen = rising(idx_o, Vo.shape[1], "idx_o")
        later = torch.as_tensor(idx_p, dtype=torch.float64, device="cpu")
        times = rising(torch.cat([seen[-1:], later]), None, "idx_p, after the last of idx_o,")
        m = self.tde_model.context_encode(Vo, seen)
        return self.tde_model.future_predict(m, times, seeds=seeds, controls=controls, told=told).transpose(0, 1)

    def frames_before(self, Vo: Tensor, clean_Vp: Tensor, Vo_last_frame: Tensor) -> Tensor:
        """The frame before each future one, `[N, Tp, C, Hp, Wp]`.

        Where observed frames are smaller and `super_res_training` is on, all of them have the detail of observed ones.

        Raises:
            ValueError: Shapes differ.
        """
        size = Vo.shape[-2:]
        if self.super_res_training and (size[0] < clean_Vp.shape[-2] or size[1] < clean_Vp.shape[-1]):
            full = clean_Vp.shape[-2:]
            clean_Vp = _resized(_resized(clean_Vp.flatten(0, 1), size), full).unflatten(0, clean_Vp.shape[:2])
            Vo_last_frame = _resized(Vo[:, -1], full)[:, None]
        if clean_Vp.ndim != 5 or Vo_last_frame.shape != clean_Vp[:, :1].shape:
            raise ValueError(
                "clean_Vp must be [N, Tp, C, H, W] and Vo_last_frame [N, 1, C, H, W], got "
                f"{list(clean_Vp.shape)} and {list(Vo_last_frame.shape)}"
            )
        return torch.cat([Vo_last_frame, clean_Vp[:, :-1]], 1)

    def save_pretrained(
        self, save_directory: str | Path, is_main_process: bool = True, safe_serialization: bool = True
    ) -> None:  # type: ignore[override]
        """Writes `config.json` and `diffusion_pytorch_model.safetensors`, both or none.

        Args:
            save_directory: The folder; an older one of these files is replaced.
            is_main_process: Other processes write nothing.
            safe_serialization: Must be True.

        Raises:
            ValueError: Pickles are asked for.
            FileExistsError: The folder holds something else.
        """
        if not safe_serialization:
            raise ValueError("weights are saved as safetensors alone: safe_serialization must be True")
        if is_main_process:
            with replaced_folder(save_directory, FILES) as folder:
                super().save_pretrained(folder, max_shard_size="10000GB")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Self:  # type: ignore[override]
        """Reads what `save_pretrained` wrote; arguments are those of diffusers' method.

        Raises:
            ValueError: Pickles are asked for.
            OSError: There is no such model.
        """
        if kwargs.get("use_safetensors") is False:
            raise ValueError("weights are read from safetensors alone: use_safetensors must be True")
        if Path(pretrained_model_name_or_path).parent.is_dir():
            restore_folder(pretrained_model_name_or_path, FILES)
        return super().from_pretrained(str(pretrained_model_name_or_path), **{**kwargs, "use_safetensors": True})


def _resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """Pictures `[B, C, H, W]` in another size."""
    return F.interpolate(x, tuple(size), mode="bilinear", antialias=True, align_corners=False)
