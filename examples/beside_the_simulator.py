"""The same driver in the simulator and in the dream, from the same moment: how alike are they?

python examples/beside_the_simulator.py --steps 100
"""

import argparse

import gymnasium as gym

from drivedit.agents import LaneKeeper


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Drives both and returns their returns."""
    parser = argparse.ArgumentParser(description="Compare the dream with the simulator.")
    parser.add_argument("--world", default="carracing")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args(argv)

    twin = gym.make("drivedit_env:CarRacingTwin-v0")
    dream = gym.make("drivedit_env:DriveDiT-v0", world=options.world)
    driver = LaneKeeper()
    frame, _ = twin.reset(seed=options.seed)
    for _ in range(20):
        frame, *_ = twin.step(driver(frame))
    scene = twin.unwrapped.scene()  # type: ignore[attr-defined]
    starts = {"simulator": (twin, frame), "dream": (dream, dream.reset(seed=0, options={"scene": scene})[0])}
    returns = {}
    for name, (env, seen) in starts.items():
        driver, returned, info = LaneKeeper(), 0.0, {}
        for _ in range(options.steps):
            seen, reward, terminated, truncated, info = env.step(driver(seen))
            returned += float(reward)
            if terminated or truncated:
                break
        returns[name] = returned
        print(f"{name:<10} return {returned:7.1f}, speed {info['telemetry']['speed']:.1f} m/s")
    return returns


if __name__ == "__main__":
    main()
