"""What agents need to know of dreams: which one shows the latents that they learned on, and whether it has rewards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from drivedit.config import DEFAULT_WORLD
from drivedit.config.rooms import SHIPS

DREAM = f"{SHIPS}:DriveDiT-v0"
Encode = Callable[[np.ndarray], np.ndarray]  # frames uint8 [B, H, W, 3] to latents float32 [B, C, h, w]


def open_encoder(fingerprint: str, *places: str | None) -> Encode:
    """The encoder of a world, by the world's fingerprint.

    Args:
        fingerprint: Of the world whose latents an agent learned on; empty: not known, and the first place is believed.
        places: Names or folders where that world may be, the likeliest first; None is passed over. The environment's
            own world is looked at last.

    Raises:
        ValueError: The world is in none of these places, or neither it nor a place is known.
    """
    told, named = [], list(dict.fromkeys(place for place in places if place is not None))
    if not fingerprint and not named:
        raise ValueError(
            "this agent sees latents and does not say of which world (a zip never does), so it cannot see frames: name "
            f"the world that it learned in with --world, for example --world {DEFAULT_WORLD}"
        )
    for place in [*named, None] if fingerprint else named:
        world: dict[str, Any] = {} if place is None else {"world": place}
        try:
            dream: Any = gym.make(DREAM, obs_type="latent", disable_env_checker=True, **world).unwrapped
        except (FileNotFoundError, ValueError) as error:
            told.append(f"{place}: {error}")
            continue
        if fingerprint in ("", dream.world.fingerprint):
            return dream.encode
        told.append(f"{place or 'the default'} is {dream.world.fingerprint}")
    raise ValueError(
        f"this agent sees latents of the world {fingerprint or 'named'}, and needs it to see frames; say where it is "
        f"(--world). "
        f"Looked at: {'; '.join(told)}"
    )


def in_own_dream(agent: Any, env: gym.Env) -> bool:
    """Whether an agent learned on latents, and the environment is a dream of just these."""
    world = getattr(env.unwrapped, "world", None)
    if world is None or getattr(agent, "sees", "pixels") != "latent":
        return False
    return getattr(agent, "fingerprint", "") in ("", world.fingerprint)


def open_for(agent: Any, env_id: str, **settings: Any) -> gym.Env:
    """Opens an environment so that an agent sees latents in a dream of the world it learned on, and frames elsewhere.

    Args:
        agent: Any agent; one whose `sees` is `latent` tells the `fingerprint` of its world.
        env_id: Id of the environment.
        settings: Of the environment.
    """
    env = gym.make(env_id, **settings)
    if not in_own_dream(agent, env):
        return env
    env.close()
    return gym.make(env_id, obs_type="latent", **settings)


def warn_without_rewards(env: Any) -> None:
    """Warns of a dream whose rewards do not depend on how one drives: nothing can be learned or planned there."""
    if not getattr(env.unwrapped, "rewarding", True):
        gym.logger.warn(
            "every reward of this world is the same however one drives: its recordings had no rewards. A policy or a "
            "plan cannot become better here; wrap the environment with a reward of your own, of info['telemetry'] say, "
            "or record rewards"
        )
