"""The same driver in the simulator and in the dream, from the same moment: how alike are they?

python examples/beside_the_simulator.py --agent learned --steps 100 --out beside.mp4
"""

import argparse
from contextlib import ExitStack
from pathlib import Path

import cv2
import gymnasium as gym
import numpy as np

from drivedit.agents import load_agent
from drivedit.utils.video import VideoWriter

ZOOM = 4
RUN_UP = 20  # steps that the lane keeper drives before the dream begins where the simulator stands


def picture(name: str, frame: np.ndarray, said: str) -> np.ndarray:
    """A frame, enlarged, under its name and figures."""
    line = np.zeros((40, frame.shape[1] * ZOOM, 3), np.uint8)
    for text, row in ((name, 16), (said, 34)):
        cv2.putText(line, text, (6, row), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (255, 255, 255), 1, cv2.LINE_AA)
    return np.concatenate([line, frame.repeat(ZOOM, 0).repeat(ZOOM, 1)])


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Drives both and returns their returns."""
    parser = argparse.ArgumentParser(
        formatter_class=argparse.ArgumentDefaultsHelpFormatter, description="Compare the dream with the simulator."
    )
    parser.add_argument(
        "--agent", default="lane_keeper", help="who drives: a name, PATH.safetensors, PATH.zip or module:callable"
    )
    parser.add_argument("--world", default="carracing", help="name of a shipped world, or a folder")
    parser.add_argument("--steps", type=int, default=100, help="steps to drive")
    parser.add_argument("--seed", type=int, default=7, help="of the track")
    parser.add_argument("--out", type=Path, default=None, help="video of both, beside each other")
    options = parser.parse_args(argv)

    twin = gym.make("drivedit_env:CarRacingTwin-v0")
    dream = gym.make("drivedit_env:DriveDiT-v0", world=options.world)
    driver = load_agent("lane_keeper")
    frame, _ = twin.reset(seed=options.seed)
    print(f"driving {RUN_UP} steps of run-up, then {options.steps} in simulator and dream", flush=True)
    for _ in range(RUN_UP):
        frame, *_ = twin.step(driver(frame))
    scene = twin.unwrapped.scene()  # type: ignore[attr-defined]
    envs = {"simulator": twin, "dream": dream}
    seen = {"simulator": frame, "dream": dream.reset(seed=0, options={"scene": scene})[0]}
    drivers = {name: load_agent(options.agent) for name in envs}
    returns, said, ended = dict.fromkeys(envs, 0.0), dict.fromkeys(envs, ""), dict.fromkeys(envs, False)
    with ExitStack() as stack:
        film = stack.enter_context(VideoWriter(options.out, dream.metadata["render_fps"])) if options.out else None
        for _ in range(options.steps):
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
    if options.out:
        print(f"{'video':<10} {options.out}")
    return returns


if __name__ == "__main__":
    main()
