"""Every world that comes with the package, as a user opens it."""

import numpy as np
import pytest

from drivedit.models import World, shipped_worlds
from drivedit_env.env import DriveDiTEnv


@pytest.mark.parametrize("world", sorted(shipped_worlds()))
def test_a_shipped_world_is_driven_and_comes_back_to_a_snapshot(world: str):
    env = DriveDiTEnv(world)
    first, info = env.reset(seed=3, options={"scene": "random"})
    assert env.observation_space.contains(first) and first.std() > 5, "it shows something"
    assert set(info["telemetry"]) == set(World.from_pretrained(world).spec.names("telemetry"))
    state = env.get_state().to_bytes()
    action = np.full(env.action_space.shape or (), 0.3, np.float32)
    seen = [env.step(action)[0] for _ in range(4)]
    env.set_state(state)
    again = [env.step(action)[0] for _ in range(4)]
    assert np.array_equal(seen, again) and not np.array_equal(seen[0], seen[-1])
    branches = env.fork(2)
    told = branches.step(np.stack([action, -action]))[0]
    assert told.shape == (2, *first.shape) and not np.array_equal(*told)


@pytest.mark.parametrize("world", sorted(shipped_worlds()))
def test_a_shipped_world_has_scenes_of_all_its_attributes_and_a_card_with_figures(world: str):
    known = World.from_pretrained(world)
    for name, values in known.spec.attributes.items():
        found = {scene.attributes.get(name) for scene in known.scenes}
        assert found >= set(values), f"{name}: {sorted(map(str, found))}"
    assert "held-out figure" in known.card and "commit" in known.card
