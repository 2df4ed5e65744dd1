"""The networks, the world made of them, and its state."""

from drivedit.models.finding import find_world, shipped_worlds
from drivedit.models.heads import Heads, Readings
from drivedit.models.memory import MemoryBank
from drivedit.models.scenes import Scene, check_scene
from drivedit.models.state import WorldState
from drivedit.models.student import DiTStudent
from drivedit.models.teacher import DiTTeacher
from drivedit.models.tokens import FrameTokenizer
from drivedit.models.vae import VAE3D
from drivedit.models.world import StepOutput, World

__all__ = [
    "DiTStudent",
    "DiTTeacher",
    "FrameTokenizer",
    "Heads",
    "MemoryBank",
    "Readings",
    "Scene",
    "StepOutput",
    "VAE3D",
    "World",
    "WorldState",
    "check_scene",
    "find_world",
    "shipped_worlds",
]
