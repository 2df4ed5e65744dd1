"""Online: the Gymnasium environments and the shipped worlds. Importing this package registers the environments."""

import gymnasium

ENVIRONMENTS = {
    "DriveDiT-v0": "drivedit_env.env:DriveDiTEnv",
    # simulators are named, not imported: they need the extra `data`
    "CarRacingTwin-v0": "drivedit.data.domains.carracing.twin:CarRacingTwin",
    "CarRacingReal-v0": "drivedit.data.domains.carracing.real:CarRacingReal",
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
