"""Planners that answer with waypoints are judged: each looks where the road is, and plans to drive along its middle.

python examples/judge_planners.py --starts 8 --horizon 150

`python -m drivedit.agents judge --policies my_planners:Slow ...` does the same where Python finds the module.
"""

from pathlib import Path

import numpy as np

from drivedit.agents.judging.judge import JudgeResult, judge
from drivedit.agents.judging.report import as_text
from drivedit.agents.judging.starts import JudgeSetup
from drivedit.utils.commands import run

ROW, COLUMN, CAR = 0.77, 0.96, (47, 31.5)  # metres of a row and a column of the picture, and where the car is in it


class Slow:
    """Plans five waypoints in the middle of what is grey ahead; a plan is metres ahead and metres to the left."""

    waypoint_interval, speed = 0.2, 12.0  # s from one waypoint to the next, and m/s

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """Waypoints `[5, 2]` of a picture uint8 `[64, 64, 3]`."""
        grey = np.ptp(frame.astype(int), axis=-1) < 12
        ahead, left = self.speed * self.waypoint_interval * np.arange(1, 6), []
        for row in np.maximum(CAR[0] - ahead / ROW, 0).astype(int):
            beside = (CAR[1] - np.flatnonzero(grey[row])) * COLUMN
            near = beside[np.abs(beside - (left or [0.0])[-1]) < 10]  # the same road, no other
            left.append(float(near.mean()) if len(near) else (left or [0.0])[-1])
        return np.stack([ahead, left], 1)


class Brisk(Slow):
    """The same, faster."""

    speed = 24.0


class Fast(Slow):
    """The same, as fast as its eyes reach."""

    speed = 36.0


def main(world: str = "carracing", starts: int = 4, horizon: int = 100, out: str = "runs/planners") -> JudgeResult:
    """Judges three planners in the dream and in the simulator.

    Args:
        world: Name of a shipped world, or a folder.
        starts: Where all of them begin.
        horizon: Steps of a drive.
        out: Folder of the drives.
    """
    policies = [f"{Path(__file__).stem}:{policy.__name__}" for policy in (Slow, Brisk, Fast)]
    result = judge(JudgeSetup(world=world, starts=starts, horizon=horizon), policies, out, workers=1)
    print(as_text(result))
    return result


if __name__ == "__main__":
    raise SystemExit(run(main))
