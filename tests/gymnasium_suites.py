"""Gymnasium's own tests about any environment, with the environments of this project in place of theirs.

    python -m tests.gymnasium_suites GYMNASIUM FOLDER --env DriveDiT-v0    # writes the changed tests into FOLDER
    cd FOLDER && python -m pytest                                           # runs those of them that speak of --env

GYMNASIUM is a clone of their repository; docs/contributing.md says which commit, and what came of it.
"""

import argparse
import re
import shutil
from pathlib import Path

from drivedit_env import environments

FILES = (
    "envs/utils.py envs/test_envs.py envs/test_rendering.py envs/test_action_dim_check.py "
    "envs/registration/test_make_vec.py envs/registration/test_env_spec.py "
    "vector/*.py wrappers/*.py wrappers/vector/*.py "
    "utils/test_play.py utils/test_save_video.py utils/test_performance.py utils/test_env_checker.py"
).split()
# What stands for an environment, its class, its spaces, its actions, its settings or its number of steps.
CHANGES = [
    (r'(["\s])Pendulum-v1\b', r"\1drivedit_env:CarRacingTwin-v0"),
    (r'"(CartPole|CarRacing|BipedalWalker|MountainCarContinuous|MountainCar|Ant)-v\d"', '"drivedit_env:ENV"'),
    (r'gym\.spec\("drivedit_env:', 'gym.spec("'),
    (r'\["drivedit_env:ENV", "drivedit_env:ENV"\]', '["drivedit_env:ENV"]'),
    (r'(\[make_env|make_vec)\("FrozenLake-v1"', r'\1("drivedit_env:ENV"'),
    (
        r"from gymnasium.envs.classic_control(\.\w+)? import (CartPole|Pendulum)Env\b",
        r"from MODULE import CLASS as \2Env",
    ),
    (r"from \S+ import CartPoleVectorEnv", "from drivedit_env.vector import DriveDiTVectorEnv as CartPoleVectorEnv"),
    (r'CartPoleEnv\(render_mode="rgb_array_list"\)', 'CartPoleEnv(render_mode="rgb_array")'),
    (r'"gymnasium.envs." in env_spec.entry_point', 'env_spec.id == "ENV"'),
    (r"isinstance\(env\.((single_)?(action|observation)_space), (Multi)?Discrete\)", r"isinstance(env.\1, Box)"),
    (r"(?<!envs)\.step\(([01])\)", r".step([\1.0, 0.0])"),
    (r"DISCRETE_ACTION = 0", "DISCRETE_ACTION = [0.0, 0.0]"),
    (r"return (\{.*): 0, (.*): 1\}", r"return \1: (0.0, 0.0), \2: (1.0, 0.0)}"),
    (r"(play\(\n\s+env_play,)", r"\1 noop=(0.0, 0.0), fps=17,"),
    (r'"sutton_barto_reward": True', '"reward_weights": {"time": 0.0}'),
    (r"max_episode_steps == 500", "max_episode_steps == 20"),
    (r"np\.zeros\(4\)", "np.zeros((64, 64, 3))"),
    (r"np\.array\(\[1, -1, 0, 2\], dtype=np\.float32\)", "np.full((64, 64, 3), 7, np.uint8)"),
    (r"\(96, 48, 6\)", "(64, 32, 6)"),
    (r"np\.array\(\[(\d), -?np\.inf, \d, -?np\.inf\]\)", r"np.full((64, 64, 3), \1, np.float32)"),
    (r'(ResizeObservation\(gym\.make\()"drivedit_env:ENV"\), \(1, 1\)', r'\1"CartPole-v1"), (1, 1)'),  # has no pictures
    (
        r"(gym\.make\(env_id, disable_env_checker=True\))(\s+wrapped_env = TimeAware)",
        r"gym.wrappers.FlattenObservation(\1)\2",
    ),
    (r"n_envs(: int = |=)10", r"n_envs\g<1>2"),  # so that it does not take hours
    (r"(?<![.\w])8(?![.\w])", "3"),
    (r"num_steps( ?= ?)100", r"num_steps\g<1>50"),
]
# What puts this project's vector environment in the place of Gymnasium's SyncVectorEnv.
VECTOR_CHANGES = [
    (r"vectorization_mode=gym\.VectorizeMode\.SYNC,", ""),
    (r'vectorization_mode="sync"(?!,\s+wrappers)', 'vectorization_mode="vector_entry_point"'),
    (r"num_envs=num_envs, vectorization_mode=vectorization_mode", "num_envs=num_envs"),
    (r'vector_kwargs=\{"autoreset_mode": autoreset_mode\}', "autoreset_mode=autoreset_mode"),
    (r"(from tests\.vector\.testing_utils import)", r"from tests.dreams import SyncVectorEnv\n\1"),
]
DREAMS = """import gymnasium


def SyncVectorEnv(env_fns, **settings):
    render_mode = env_fns[0]().render_mode
    return gymnasium.make_vec("DriveDiT-v0", num_envs=len(env_fns), render_mode=render_mode, **settings)
"""
CONFTEST = '''"""Only the tests that speak of ENV, whose episodes have 20 steps here."""

import inspect

import drivedit_env
import gymnasium

for name in drivedit_env.environments():
    gymnasium.registry[name].max_episode_steps = 20


def pytest_collection_modifyitems(items):
    items[:] = [item for item in items if ours(item)]


def ours(item):
    text = inspect.getsource(item.function)
    given = getattr(item, "callspec", None)
    specs = [getattr(value, "spec", value) for value in given.params.values()] if given else []
    if given and "drivedit_env:" not in str(given.params.get("env_id", "drivedit_env:")):
        return False
    words = ("drivedit_env:", "ENV_ID", "example_env_list", "CartPoleEnv", "PendulumEnv")
    return any(word in text for word in words) or any(getattr(spec, "id", "") == "ENV" for spec in specs)
'''


def write(gymnasium: Path, folder: Path, env: str, vector: bool) -> None:
    """Writes the changed tests of a clone into a folder."""
    module, name = environments()[env].split(":")
    shutil.copytree(gymnasium / "tests", folder / "tests")
    kept = {file for pattern in FILES for file in (folder / "tests").glob(pattern)}
    for file in (folder / "tests").rglob("*.py"):
        if file in kept:
            text = file.read_text()
            for pattern, change in [*CHANGES, *(VECTOR_CHANGES if vector else [])]:
                change = change.replace("ENV", env).replace("MODULE", module).replace("CLASS", name)
                text = re.sub(pattern.replace(":ENV", f":{env}"), change, text)
            file.write_text(text)
        elif file.name.startswith("test_"):
            file.unlink()
    (folder / "tests/dreams.py").write_text(DREAMS)
    (folder / "conftest.py").write_text(CONFTEST.replace('"ENV"', f'"{env}"').replace("of ENV", f"of {env}"))


def main() -> None:
    """Writes the changed tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gymnasium", type=Path, help="a clone")
    parser.add_argument("folder", type=Path, help="a new one")
    parser.add_argument("--env", choices=["DriveDiT-v0", "CarRacingTwin-v0"], default="DriveDiT-v0")
    parser.add_argument("--vector", action="store_true", help="with DriveDiTVectorEnv for SyncVectorEnv")
    args = parser.parse_args()
    write(args.gymnasium, args.folder, args.env, args.vector)


if __name__ == "__main__":
    main()
