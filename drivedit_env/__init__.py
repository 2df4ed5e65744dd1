"""Online: the Gymnasium environments and the shipped worlds. Importing this package registers the environments."""

import gymnasium

ENVIRONMENTS = {
    "DriveDiT-v0": "drivedit_env.env:DriveDiTEnv",
    "CarRacingTwin-v0": "drivedit.data.carracing:CarRacingTwin",  # named, not imported: it needs the extra `data`
    "CarRacingReal-v0": "drivedit.data.carracing_real:CarRacingReal",  # likewise
}
ENDS_BY_ITSELF = {"CarRacingReal-v0"}
VECTOR = {"DriveDiT-v0": "drivedit_env.vector:DriveDiTVectorEnv"}

for _name, _entry_point in ENVIRONMENTS.items():
    if _name not in gymnasium.registry:
        gymnasium.register(
            _name,
            entry_point=_entry_point,
            vector_entry_point=VECTOR.get(_name),
            max_episode_steps=None if _name in ENDS_BY_ITSELF else 1000,
        )
