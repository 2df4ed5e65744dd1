"""The networks, the world made of them, and its state."""

from drivedit.models.dit.heads import HeadOutputs, Heads
from drivedit.models.dit.memory import MemoryBank
from drivedit.models.dit.state import DiTState
from drivedit.models.dit.student import DiTStudent
from drivedit.models.dit.teacher import DiTTeacher
from drivedit.models.dit.tokens import FrameTokenizer
from drivedit.models.dit.vae import VAE3D
from drivedit.models.dit.world import DiTWorld
from drivedit.models.finding import find_world, shipped_worlds
from drivedit.models.scenes import Scene, check_scene
from drivedit.models.state import RowState
from drivedit.models.world import Sampling, StepOutput, World

__all__ = [
    "DiTStudent",
    "DiTState",
    "DiTTeacher",
    "DiTWorld",
    "FrameTokenizer",
    "HeadOutputs",
    "Heads",
    "MemoryBank",
    "RowState",
    "Sampling",
    "Scene",
    "StepOutput",
    "VAE3D",
    "World",
    "check_scene",
    "find_world",
    "shipped_worlds",
]
