"""Methods in equal time: a dearer step means fewer of them, and every method is timed on clips of the right shapes."""

import json
from pathlib import Path

import pytest
from helpers.worlds import make_world

from drivedit.config import DataConfig, DistillConfig, LoopConfig
from drivedit.training import equal_time
from drivedit.training.equal_time import compare_methods, random_clips, seconds_of_a_step
from drivedit.training.methods import METHODS
from drivedit.utils import load_object

LOSS = DistillConfig(clip_frames=4, rollout=1, critic_steps=2, grid=4)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_timed_and_left_as_it_was(name):
    world = make_world()
    method = load_object(METHODS[name])(world, LOSS)
    before = {name: value.clone() for name, value in method.dynamics.state_dict().items()}
    assert 0 < seconds_of_a_step(method, random_clips(world, 4, 1), LoopConfig(bf16=False)) < 60
    assert all(value.equal(before[name]) for name, value in method.dynamics.state_dict().items())


def test_a_step_that_takes_twice_as_long_is_taken_half_as_often(tmp_path, monkeypatch):
    make_world().save_pretrained(tmp_path / "teacher")
    cost = {"forcing": 2.0, "phased": 4.0, "continuous": 1.0}
    timed, made, judged = [], {}, {}

    def seconds(method, batch, train_):
        timed.append(method.config.method)
        return cost[method.config.method]

    def distill(teacher, *, train_, data, loss, out, device):
        made[loss.method] = train_
        (Path(out) / loss.method / "world").mkdir(parents=True)

    monkeypatch.setattr(equal_time, "seconds_of_a_step", seconds)
    monkeypatch.setattr(equal_time, "distill", distill)
    monkeypatch.setattr(equal_time, "ablate", lambda worlds, *_: judged.update(worlds) or [])
    told = {"train_": LoopConfig(steps=100, warmup=20), "data": DataConfig(), "loss": LOSS, "out": str(tmp_path)}
    for _ in range(2):  # the second time all is there
        compare_methods(str(tmp_path / "teacher"), ["phased", "continuous"], **told, device="cpu")
    assert {name: loop.steps for name, loop in made.items()} == {"forcing": 100, "phased": 50, "continuous": 200}
    assert {name: loop.warmup for name, loop in made.items()} == {"forcing": 10, "phased": 5, "continuous": 20}
    assert sorted(timed) == sorted(cost) and json.loads((tmp_path / "equal_time.json").read_text()) == cost
    assert list(judged) == ["teacher", "forcing", "phased", "continuous"]
    with pytest.raises(ValueError, match="methods must be among forcing, consistency, .*, got moon"):
        compare_methods("none", ["moon"], **told)
