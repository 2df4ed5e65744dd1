"""Damaged bytes of states: each is refused with `ValueError`, and a world never steps them."""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from .damage import Outcomes, counted, damaged, tried


def run(states: int, seed: int) -> Outcomes:
    """Damages states and sets them.

    Args:
        states: How many damaged states.
        seed: Decides them all.
    """
    env = gym.make("drivedit_env:DriveDiT-v0", obs_type="latent").unwrapped
    env.reset(seed=seed)
    whole = env.get_state().to_bytes()  # pyright: ignore[reportAttributeAccessIssue]

    def same() -> bool:
        content = bad[0]
        env.set_state(content)  # pyright: ignore[reportAttributeAccessIssue]
        return content == whole

    bad = [b""]

    def one(_index: int, rng: np.random.Generator) -> str:
        bad[0] = damaged(whole, rng)
        return tried(same, (ValueError,))

    return counted(states, seed, one)
