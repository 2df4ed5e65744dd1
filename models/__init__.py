"""The networks, the world made of them, and its state; names of the packages `sde` and `pixel` come when asked for."""

from typing import TYPE_CHECKING

from drivedit.models.bev.state import BevState
from drivedit.models.bev.world import BevWorld
from drivedit.models.dit.memory import MemoryBank
from drivedit.models.dit.state import DiTState
from drivedit.models.dit.student import DiTStudent
from drivedit.models.dit.teacher import DiTTeacher
from drivedit.models.dit.tokens import FrameTokenizer
from drivedit.models.dit.vae import VAE3D
from drivedit.models.dit.world import DiTWorld
from drivedit.models.finding import find_world, shipped_worlds
from drivedit.models.layers.heads import HeadOutputs, Heads
from drivedit.models.scenes import Scene, check_scene
from drivedit.models.sde.range_state import RangeState
from drivedit.models.sde.range_world import RangeWorld
from drivedit.models.state import RowState
from drivedit.models.world import Sampling, StepOutput, World
from drivedit.utils.lazy import lazily

if TYPE_CHECKING:
    from drivedit.models.pixel.encoders import create_dinov3_encoder_from_config as create_dinov3_encoder_from_config
    from drivedit.models.pixel.encoders import create_text_encoder_from_config as create_text_encoder_from_config
    from drivedit.models.pixel.network import PixelHDM as PixelHDM
    from drivedit.models.pixel.text_to_image import PixelHDMForT2I as PixelHDMForT2I
    from drivedit.models.pixel.text_to_image import (
        create_pixelhdm_for_t2i as create_pixelhdm_for_t2i,
    )
    from drivedit.models.pixel.text_to_image import (
        create_pixelhdm_for_t2i_from_config as create_pixelhdm_for_t2i_from_config,
    )
    from drivedit.models.pixel.text_to_image import (
        create_pixelhdm_from_config as create_pixelhdm_from_config,
    )
    from drivedit.models.sde.dynamics import DiffUnet as DiffUnet
    from drivedit.models.sde.dynamics import OdeSdeFuncNet as OdeSdeFuncNet
    from drivedit.models.sde.encoder import ConvGRUCell as ConvGRUCell
    from drivedit.models.sde.encoder import MotionEncoder as MotionEncoder
    from drivedit.models.sde.motion import DiffModel as DiffModel
    from drivedit.models.sde.pipeline import STDiffPipeline as STDiffPipeline
    from drivedit.models.sde.stdiff import STDiffDiffusers as STDiffDiffusers
    from drivedit.models.sde.unet import UNet2DMotionCond as UNet2DMotionCond
    from drivedit.models.sde.unet import UNet2DMotionCondOutput as UNet2DMotionCondOutput
else:
    __getattr__, _ = lazily(__name__)

__all__ = [
    "DiTStudent",
    "DiTState",
    "DiTTeacher",
    "DiTWorld",
    "FrameTokenizer",
    "HeadOutputs",
    "Heads",
    "MemoryBank",
    "RangeState",
    "RangeWorld",
    "RowState",
    "Sampling",
    "Scene",
    "StepOutput",
    "VAE3D",
    "BevState",
    "BevWorld",
    "World",
    "check_scene",
    "find_world",
    "shipped_worlds",
]
