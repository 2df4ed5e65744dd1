"""STDiff (Ye and Bilodeau 2024, arXiv 2312.06486): motion moved by an SDE in continuous time, frames by diffusion.

What is named here is imported when it is first asked for. `STDiffDiffusers` and `STDiffPipeline` need the extra `sde`,
the networks that they are made of do not.
"""

from typing import TYPE_CHECKING

from drivedit.utils.lazy import lazily

if TYPE_CHECKING:
    from drivedit.models.sde.dynamics import DiffUnet, OdeSdeFuncNet
    from drivedit.models.sde.encoder import ConvGRUCell, MotionEncoder
    from drivedit.models.sde.filtering import MotionState, absorb, advance, begin, step
    from drivedit.models.sde.motion import DiffModel
    from drivedit.models.sde.pipeline import STDiffPipeline
    from drivedit.models.sde.stdiff import STDiffDiffusers
    from drivedit.models.sde.unet import UNet2DMotionCond, UNet2DMotionCondOutput
else:
    __getattr__, __dir__ = lazily(__name__)

__all__ = [
    "ConvGRUCell",
    "DiffModel",
    "DiffUnet",
    "MotionEncoder",
    "MotionState",
    "OdeSdeFuncNet",
    "STDiffDiffusers",
    "STDiffPipeline",
    "UNet2DMotionCond",
    "UNet2DMotionCondOutput",
    "absorb",
    "advance",
    "begin",
    "step",
]
