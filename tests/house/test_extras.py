"""Every command and function that needs a package of an extra says which, where it is not installed."""

import subprocess
import sys

import pytest

CHILD = """
import contextlib, importlib, io, sys
sys.modules.update(dict.fromkeys({blocked!r}))
folder = sys.argv[1]
for words in {commands!r}:
    module, *arguments = [word.replace("FOLDER", folder) for word in words.split()]
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            if ":" in module:
                module, _, name = module.partition(":")
                getattr(importlib.import_module(module), name)(*arguments)
            else:
                importlib.import_module(module).main(arguments)
        except (ImportError, SystemExit) as error:
            print(error)
    print(words, "=>", said.getvalue().splitlines()[-1:])
"""
ALL = ["Box2D", "minari", "accelerate", "matplotlib", "scipy", "tensorboard", "torchmetrics", "stable_baselines3"]
ALL += ["sb3_contrib", "numba", "peft", "lightning", "hydra", "omegaconf", "diffusers"]
TWIN = "drivedit_env:CarRacingTwin-v0"
SMALL = "--num-envs 1 --rollout 2 --steps 2 --eval-env none"


@pytest.mark.parametrize(
    ("blocked", "commands"),
    [
        (
            ALL,
            {
                f"gymnasium:make {TWIN}": "Box2D data",
                "gymnasium:make drivedit_env:StreetTwin-v0": "numba street",
                "drivedit.data.__main__ collect --domain street --out FOLDER/s --steps 2 --workers 1": "numba street",
                "drivedit.data.__main__ collect --out FOLDER/r --steps 2 --workers 1": "Box2D data",
                "drivedit.data.__main__ export-minari FOLDER --dataset d": "minari data",
                "drivedit.data.__main__ import-minari --dataset d --out FOLDER/m": "minari data",
                f"drivedit.agents.__main__ drive --env {TWIN} --steps 2 --out FOLDER/a.mp4": "Box2D data",
                "drivedit.agents.__main__ test --episodes 1": "Box2D data",
                f"drivedit.agents.__main__ plan --env {TWIN} --steps 2": "Box2D data",
                f"drivedit.agents.__main__ train ppo --out FOLDER/t {SMALL}": "stable_baselines3 agents",
                "drivedit.agents.__main__ judge --out FOLDER/j": "matplotlib agents",
                "drivedit.agents.learning.sb3:open_vector": "stable_baselines3 agents",
                "drivedit.evaluation.__main__ world --quick --out FOLDER/e": "matplotlib train",
                "drivedit.training.__main__ vae --out FOLDER/v": "accelerate train",
                "drivedit.training.__main__ student --out FOLDER/v": "accelerate train",
                "drivedit.training.__main__ memory --out FOLDER/v": "Box2D data",
                "drivedit.evaluation.metrics.video:_torchmetrics": "torchmetrics train",
                "drivedit.training.lora:add_lora 0 0 0": "peft train",
                "drivedit.agents.judging.agreement:spearman 0 0": "scipy agents",
                "drivedit.training.losses:_dissimilarity 0 0": "torchmetrics train",
                "drivedit.training.__main__ ksin --out FOLDER/k": "accelerate train",
                "drivedit.models.sde:STDiffDiffusers 0 0": "diffusers sde",
                "drivedit.models:STDiffPipeline 0": "diffusers sde",
                "drivedit.models.sets.tokens:assign 0": "scipy sets",
                "drivedit.evaluation.metrics.sets:complex_to_dbfs 0": "torchmetrics sets",
                "drivedit.training.sets.ksin_datamodule:KSinDataModule 4": "lightning sets",
                "drivedit.training.sets.surge_datamodule:SurgeDataModule FOLDER": "lightning sets",
                "drivedit.training.sets.train:main": "hydra sets",
                "drivedit.training.sets.eval:main": "hydra sets",
            },
        ),
        (
            ["sb3_contrib"],
            {f"drivedit.agents.__main__ train recurrent_ppo --out FOLDER/t {SMALL}": "sb3_contrib agents"},
        ),
    ],
)
def test_a_missing_extra_is_named(blocked, commands, tmp_path):
    code = CHILD.format(blocked=blocked, commands=list(commands))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    said = dict(line.split(" => ", 1) for line in done.stdout.splitlines() if " => " in line)
    for words, wanted in commands.items():
        package, extra = wanted.split()
        assert (
            f"{package}, which is not installed" in said[words]
            and "pip install -c constraints.txt -e '.[" in said[words]
        ), words
        assert extra in said[words].partition("'.[")[2], (words, said[words])
