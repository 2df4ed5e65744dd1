"""From fingers to controls: keys and pads become [steering, throttle], and time passes in even steps.

Nothing here knows a window: what is held down goes in, numbers come out.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

STEER, RETURN = 1.5, 3.0  # full locks per second, towards a side and back to the centre
GAS, BRAKE, RELEASE = 2.0, 4.0, 4.0  # full pedals per second
CALM = 10.0  # m/s at which a held key turns the wheel by half of what it does at rest
DEAD = 0.12  # share of a stick's way that counts as its centre
RATE_OVER = 2.0  # seconds over which steps are counted


@dataclass
class Held:
    """What the person holds down: keys as 0 or 1, or a gamepad's stick and triggers.

    Attributes:
        left: Key for steering left.
        right: Key for steering right.
        gas: Key for the throttle.
        brake: Key for the brake.
        stick: Gamepad, -1 (left) to 1 (right).
        pedals: Gamepad, gas minus brake, -1 to 1.
    """

    left: bool = False
    right: bool = False
    gas: bool = False
    brake: bool = False
    stick: float = 0.0
    pedals: float = 0.0

    def active(self) -> bool:
        """Whether a person means something by it; a stick that rests beside its centre means nothing."""
        keys = self.left or self.right or self.gas or self.brake
        return keys or max(abs(self.stick), abs(self.pedals)) > 0.5


class Wheel:
    """Steering wheel and pedals that move smoothly under keys, and follow a gamepad at once.

    A held key turns the wheel less far the faster the car is, as a person's hands do.
    """

    def __init__(self) -> None:
        self.steering, self.throttle = 0.0, 0.0

    def put(self, action: np.ndarray) -> None:
        """Puts wheel and pedals where an action has them."""
        self.steering, self.throttle = float(action[0]), float(action[1])

    def move(self, held: Held, dt: float, speed: float = 0.0) -> np.ndarray:
        """Moves on by `dt` seconds.

        Args:
            held: What is held down.
            dt: Seconds.
            speed: Of the car, in m/s.

        Returns:
            float32 [2]: steering and throttle, in [-1, 1].
        """
        side = float(held.right) - float(held.left)
        if abs(held.stick) > DEAD:
            beyond = (abs(held.stick) - DEAD) / (1.0 - DEAD)
            self.steering = float(np.clip(np.copysign(beyond**2, held.stick), -1.0, 1.0))
        elif side:
            lock = side * CALM / (CALM + abs(speed))
            back = self.steering * side < 0 or abs(self.steering) > abs(lock)
            self.steering = _towards(self.steering, lock, (RETURN if back else STEER * abs(lock)) * dt)
        else:
            self.steering = _towards(self.steering, 0.0, RETURN * dt)
        pedal = float(held.gas) - float(held.brake)
        if abs(held.pedals) > DEAD / 2:
            self.throttle = float(np.clip(held.pedals, -1.0, 1.0))
        elif pedal > 0:
            self.throttle = _towards(max(self.throttle, 0.0), 1.0, GAS * dt)
        elif pedal < 0:
            self.throttle = _towards(min(self.throttle, 0.0), -1.0, BRAKE * dt)
        else:
            self.throttle = _towards(self.throttle, 0.0, RELEASE * dt)
        return np.array([self.steering, self.throttle], np.float32)


class Pace:
    """Says when the next step of fixed length is due, and how many are really made.

    A machine that is too slow is never chased: what is late is given up, and `behind` says so.

    Args:
        period: Seconds between two steps.
    """

    def __init__(self, period: float) -> None:
        self.period = period
        self._next = -np.inf
        self._begun: deque[float] = deque()

    def due(self, now: float) -> bool:
        """Whether the next step may begin at time `now` (seconds)."""
        return now >= self._next

    def wait(self, now: float) -> float:
        """Seconds from time `now` until the next step may begin."""
        return max(self._next - now, 0.0)

    def begin(self, now: float) -> None:
        """Notes that a step begins."""
        late = now - self._next
        self._next = self._next + self.period if late < self.period else now + self.period
        self._begun.append(now)

    def rest(self) -> None:
        """Forgets the past: the wheels stand still, and nothing is late when they turn again."""
        self._next = -np.inf
        self._begun.clear()

    def rate(self, now: float) -> float:
        """Steps per second of late; 0 until there are two."""
        while self._begun and self._begun[0] < now - RATE_OVER:
            self._begun.popleft()
        if len(self._begun) < 2:
            return 0.0
        return (len(self._begun) - 1) / (self._begun[-1] - self._begun[0])

    def behind(self, now: float) -> bool:
        """Whether steps come more than a tenth too slowly."""
        return len(self._begun) > 4 and self.rate(now) < 0.9 / self.period


def _towards(value: float, target: float, most: float) -> float:
    """`value` moved towards `target` by at most `most`."""
    return value + float(np.clip(target - value, -most, most))
