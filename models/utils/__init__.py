"""Small tensor and geometry helpers."""

from drivedit.utils.device import resolve_device
from drivedit.utils.files import write_atomically
from drivedit.utils.random import generator, noise, truncate
from drivedit.utils.route import UNBOUNDED, Route, RouteCoder, advance_pose, motion_between, route_code

__all__ = [
    "UNBOUNDED",
    "Route",
    "RouteCoder",
    "advance_pose",
    "generator",
    "motion_between",
    "noise",
    "resolve_device",
    "route_code",
    "truncate",
    "write_atomically",
]
