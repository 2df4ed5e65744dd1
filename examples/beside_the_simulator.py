"""The same driver in the simulator and in the dream, from the same moment: how alike are they?

python examples/beside_the_simulator.py --agent learned --steps 100 --out beside.mp4
"""

from contextlib import ExitStack
from pathlib import Path

import cv2
import gymnasium as gym
import numpy as np

from drivedit.agents import load_agent
from drivedit.utils.commands import run
from drivedit.utils.video import VideoWriter

ZOOM = 4
RUN_UP = 20  # steps that the lane keeper drives before the dream begins where the simulator stands


def picture(name: str, frame: np.ndarray, said: str) -> np.ndarray:
    """A frame, enlarged, under its name and figures."""
    line = np.zeros((40, frame.shape[1] * ZOOM, 3), np.uint8)
    for text, row in ((name, 16), (said, 34)):
        cv2.putText(line, text, (6, row), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (255, 255, 255), 1, cv2.LINE_AA)
    return np.concatenate([line, frame.repeat(ZOOM, 0).repeat(ZOOM, 1)])


def main(
    agent: str = "lane_keeper", world: str = "carracing", steps: int = 100, seed: int = 7, out: Path | None = None
) -> dict[str, float]:
    """Compares the dream with the simulator, and returns what was earned in each.

    Args:
        agent: Who drives: a name, PATH.safetensors, PATH.zip or module:callable.
        world: Name of a shipped world, or a folder.
        steps: Steps to drive.
        seed: Seed of the track.
        out: Video of both, beside each other.
    """
    twin = gym.make("drivedit_env:CarRacingTwin-v0")
    dream = gym.make("drivedit_env:DriveDiT-v0", world=world)
    driver = load_agent("lane_keeper")
    frame, _ = twin.reset(seed=seed)
    print(f"driving {RUN_UP} steps of run-up, then {steps} in simulator and dream", flush=True)
    for _ in range(RUN_UP):
        frame, *_ = twin.step(driver(frame))
    scene = twin.unwrapped.scene()  # type: ignore[attr-defined]
    envs = {"simulator": twin, "dream": dream}
    seen = {"simulator": frame, "dream": dream.reset(seed=0, options={"scene": scene})[0]}
    drivers = {name: load_agent(agent) for name in envs}
    returns, said, ended = dict.fromkeys(envs, 0.0), dict.fromkeys(envs, ""), dict.fromkeys(envs, False)
    with ExitStack() as stack:
        film = stack.enter_context(VideoWriter(out, dream.metadata["render_fps"])) if out else None
        for _ in range(steps):
            for name, env in envs.items():
                if ended[name]:
                    continue
                seen[name], reward, terminated, truncated, info = env.step(drivers[name](seen[name]))
                returns[name] += float(reward)
                ended[name] = terminated or truncated
                sure = f", confidence {info['confidence']:.2f}" if "confidence" in info else ""
                said[name] = f"return {returns[name]:.0f}, {info['telemetry']['speed']:.0f} m/s{sure}"
            if film:
                film.write(np.concatenate([picture(name, seen[name], said[name]) for name in envs], 1))
    for name in envs:
        print(f"{name:<10} {said[name]}")
    if out:
        print(f"{'video':<10} {out}")
    return returns


if __name__ == "__main__":
    raise SystemExit(run(main))
