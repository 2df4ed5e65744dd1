"""Online: the Gymnasium environments and the shipped worlds. Importing this package registers the environments."""

import gymnasium

from drivedit.config import all_domains

STEPS = 1000  # after which an episode is cut
VECTOR = {"DriveDiT-v0": "drivedit_env.vector:DriveDiTVectorEnv"}


def environments() -> dict[str, str]:
    """Where every environment stands, by its name: the dream, and the simulators of all domains."""
    found = {"DriveDiT-v0": "drivedit_env.env:DriveDiTEnv"}
    for domain in all_domains().values():
        found |= {domain.env_id: domain.simulator, **domain.public}
    return found


def register_environments() -> None:
    """Registers `environments` with Gymnasium; those that are known stay as they are. Importing this package calls it.

    Simulators are named, not imported: they need extras.
    """
    end_by_themselves = {name for domain in all_domains().values() for name in domain.public}
    for name, entry_point in environments().items():
        if name not in gymnasium.registry:
            steps = None if name in end_by_themselves else STEPS
            vector = VECTOR.get(name)
            gymnasium.register(name, entry_point=entry_point, vector_entry_point=vector, max_episode_steps=steps)


register_environments()
