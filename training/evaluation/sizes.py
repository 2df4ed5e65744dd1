"""How much an evaluation drives and dreams."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Sizes:
    """How much is driven and dreamed.

    Attributes:
        clips: Held-out clips, half of them well driven.
        horizon: Frames dreamed of each.
        short_dreams: Ten-frame dreams from each clip.
        states: States that steering and throttle are branched from.
        far: States that controls which no driver makes begin from.
        endings: Drives out of the playfield.
        ending_steps: Frames dreamed of each, up to the ending.
        drives: Closed-loop drives.
        drive_steps: Steps of each.
        drawn: Drives on each hand-drawn route.
        drawn_steps: Steps of each.
        rounds: Turns of the speed measurement.
        ahead: Moments behind another.
        empty: Empty roads that others are placed on.
        hidden: Drives in which another is hidden for a while.
    """

    clips: int = 48
    horizon: int = 100
    short_dreams: int = 4
    states: int = 24
    far: int = 24
    endings: int = 32
    ending_steps: int = 16
    drives: int = 16
    drive_steps: int = 1000
    drawn: int = 4
    drawn_steps: int = 300
    rounds: int = 7
    ahead: int = 24
    empty: int = 24
    hidden: int = 16

    @classmethod
    def quick(cls) -> Sizes:
        """Just enough to see that everything runs; the figures mean nothing."""
        return cls(4, 20, 1, 2, 2, 2, 10, 2, 40, 1, 20, 1, 2, 2, 1)

    @classmethod
    def of(cls, quick: bool = False, **given: int | None) -> Sizes:
        """The usual sizes, or the quick ones, with those that are given; None is not.

        Raises:
            ValueError: One is less than 1.
        """
        known = {name: value for name, value in given.items() if value is not None}
        for name, value in known.items():
            if value < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        return replace(cls.quick() if quick else cls(), **known)
