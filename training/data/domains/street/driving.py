"""Figures of the driven car, and IDM: what they need who drive without the simulator.

These are plain numbers and functions, without numba; each `@kernel` compiles them into itself. IDM is that of Treiber,
Hennecke and Helbing (2000).
"""

from __future__ import annotations

import math

GRAVITY = 9.81
FRONT, BACK = 1.25, 1.45  # m from the middle of the car to its axles
FULL_LOCK = 0.5  # rad
MASS, POWER = 1400.0, 95_000.0  # kg, W
AIR, ROLL = 0.00035, 0.15  # 1/m, m/s^2
PULL, BRAKES = 4.0, 9.5  # m/s^2, of full gas and full brakes
SPEED_UP, SLOW_DOWN, STANDING = 1.6, 2.2, 2.0  # IDM: m/s^2, m/s^2, m
HARDEST = -8.0  # m/s^2


def follow(speed: float, wanted: float, gap: float, closing: float, headway: float) -> float:
    """Acceleration (m/s^2) of a car that follows another one `gap` metres ahead, which it nears by `closing` m/s."""
    free = max(1 - (speed / max(wanted, 0.1)) ** 4, -1.4)
    keep = STANDING + max(0.0, speed * headway + speed * closing / (2 * math.sqrt(SPEED_UP * SLOW_DOWN)))
    return max(HARDEST, SPEED_UP * (free - (keep / max(gap, 0.1)) ** 2))


def speed_after(speed: float, throttle: float, grip: float, seconds: float) -> float:
    """Speed (m/s) of the driven car a short time later, straight on along the road.

    Args:
        speed: Its speed now.
        throttle: In [-1, 1], -1 full brake.
        grip: Share of gravity that its tyres hold.
        seconds: How much later.
    """
    most = grip * GRAVITY
    push = min(throttle * min(PULL, POWER / (MASS * max(speed, 1.0))), most) if throttle > 0 else throttle * BRAKES
    return max(0.0, speed + (max(push, -most) - ROLL - AIR * speed * speed) * seconds)
