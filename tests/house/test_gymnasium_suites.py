"""Gymnasium's own tests are changed so that they speak of this project's environments, and only those are run."""

import subprocess
import sys

from gymnasium_suites import write

THEIRS = """import gymnasium as gym
import pytest
from tests.envs.utils import specs


def test_of_any_environment():
    assert gym.make("CartPole-v1", disable_env_checker=True).unwrapped.metadata["render_modes"] == ["rgb_array"]


@pytest.mark.parametrize("spec", specs)
def test_of_every_environment(spec):
    assert spec.id == "CarRacingTwin-v0" and spec.max_episode_steps == 20


def test_of_something_else():
    raise AssertionError("not to be run")
"""


def test_the_tests_speak_of_another_environment(tmp_path):
    for folder in ("envs", "spaces"):
        (tmp_path / "clone/tests" / folder).mkdir(parents=True)
        (tmp_path / "clone/tests" / folder / "test_envs.py").write_text(THEIRS)
    (tmp_path / "clone/tests/envs/utils.py").write_text(
        "import gymnasium as gym\n\n"
        "specs = [env_spec for env_spec in gym.registry.values() if (\n"
        '    isinstance(env_spec.entry_point, str) and "gymnasium.envs." in env_spec.entry_point\n)]\n'
    )
    write(tmp_path / "clone", tmp_path / "ours", "CarRacingTwin-v0", vector=False)
    assert not (tmp_path / "ours/tests/spaces/test_envs.py").exists()
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    result = subprocess.run(run, cwd=tmp_path / "ours", capture_output=True, text=True)
    assert result.returncode == 0 and "2 passed" in result.stdout, result.stdout
