"""The networks, the world made of them, and its state."""

from drivedit.models.dit.heads import HeadOutputs, Heads
from drivedit.models.dit.memory import MemoryBank
from drivedit.models.dit.state import WorldState
from drivedit.models.dit.student import DiTStudent
from drivedit.models.dit.teacher import DiTTeacher
from drivedit.models.dit.tokens import FrameTokenizer
from drivedit.models.dit.vae import VAE3D
from drivedit.models.dit.world import StepOutput, World
from drivedit.models.finding import find_world, shipped_worlds
from drivedit.models.scenes import Scene, check_scene

__all__ = [
    "DiTStudent",
    "DiTTeacher",
    "FrameTokenizer",
    "HeadOutputs",
    "Heads",
    "MemoryBank",
    "Scene",
    "StepOutput",
    "VAE3D",
    "World",
    "WorldState",
    "check_scene",
    "find_world",
    "shipped_worlds",
]
