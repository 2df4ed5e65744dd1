"""Recordings with several kinds of observation: a world learns one picture of them, and they keep all."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.training import make_episode
from helpers.worlds import make_world

from drivedit.config import DataConfig, LoopConfig, Modality, StudentStageConfig, VAEStageConfig, WorldConfig, WorldSpec
from drivedit.data.clips import Drives, fit_config
from drivedit.data.known import the_picture
from drivedit.data.recordings import iter_episodes, read_shard, shard_path, write_shard
from drivedit.evaluation.held_out import check_fit, opened
from drivedit.models import DiTWorld
from drivedit.training.stages import student, vae

RANGE = Modality((8, 16, 2), "float32", 0, 100, "m")


def write(folder, also, held_out=False):
    """Three drives with a range image, which comes first, and more kinds of observation."""
    folder.mkdir()
    episodes = []
    for seed in range(3):
        episode = make_episode(20, seed)
        kinds = {"range": RANGE, **episode.spec.observations, **also}
        seen = {name: np.ones((21, *kind.shape), kind.dtype) for name, kind in kinds.items()} | episode.observations
        spec = replace(episode.spec, observations=kinds)
        episodes.append(replace(episode, spec=spec, observations={name: seen[name] for name in kinds}))
    write_shard(shard_path(folder, 0), episodes, {"held_out": held_out})
    return folder


def test_a_world_learns_the_one_picture_and_is_judged_by_it(tmp_path, caplog):
    caplog.set_level("INFO")
    root, config = write(tmp_path / "mine", {}), replace(make_world().config, spec=WorldSpec())
    loop = LoopConfig(steps=2, batch_size=4, bf16=False)
    data, run = DataConfig(str(root), validation_fraction=0.34), str(tmp_path / "run")
    vae(config, loop, data, VAEStageConfig(), run, "cpu")
    student(config, loop, data, StudentStageConfig(clip_frames=4, rollout=1), run, "cpu")
    assert caplog.text.count("the world learns camera; left out: range") == 2, "one line of each stage"
    world = DiTWorld.from_pretrained(tmp_path / "run" / "student" / "world", device="cpu")
    assert list(world.spec.observations) == ["camera"] and list(world.scenes[0].observations) == ["camera"]
    state, _ = world.step(world.start(world.scenes[:1], [0]), torch.zeros(1, 2))
    assert world.observe(state, ["camera"])["camera"].shape == (1, 64, 64, 3)
    assert all(list(episode.observations) == ["range", "camera"] for episode in iter_episodes(root))
    with opened(write(tmp_path / "held", {}, True), world.spec.observations) as held:
        check_fit(world, held)
        assert held.drives.frames.shape[1:] == (64, 64, 3)


def test_of_several_pictures_one_is_named(tmp_path):
    drives = Drives.open(write(tmp_path / "mine", {"rear": Modality((64, 64, 1))}))
    with pytest.raises(ValueError, match=r"have \['camera', 'rear'\] of .*say which one: --data.picture NAME"):
        fit_config(WorldConfig(), drives)
    config = replace(make_world().config, spec=WorldSpec())
    fitted = fit_config(config, drives.only([the_picture(drives.spec, "rear")]))
    assert list(fitted.spec.observations) == ["rear"] and fitted.vae.in_channels == 1
    assert list(fit_config(make_world().config, drives).spec.observations) == ["camera"], "as its spec says"
    with pytest.raises(ValueError, match=r"the observations \['range', 'camera', 'rear'\], wanted are \['front'\]"):
        the_picture(drives.spec, "front")
    with pytest.raises(ValueError, match=r"one picture, uint8 \[H, W, 1 or 3\], the recordings have none of"):
        fit_config(WorldConfig(), replace(drives, spec=replace(drives.spec, observations={"a": RANGE, "b": RANGE})))


def test_only_the_observation_that_is_learned_is_unpacked(tmp_path):
    root = write(tmp_path / "mine", {})
    drives = Drives.open(root, kinds=["camera"])
    assert list(drives.observations) == list(drives.spec.observations) == ["camera"]
    (folder,) = (path for path in (root / "unpacked").iterdir() if path.is_dir())
    assert sum(path.stat().st_size for path in folder.glob("seen_*.raw")) == drives.frames.nbytes
    assert np.array_equal(drives.frames, Drives.open(root).observations["camera"])
    assert drives.fingerprint != Drives.open(root).fingerprint
    (episode, *_) = read_shard(shard_path(root, 0), ["camera"])
    assert list(episode.observations) == list(episode.spec.observations) == ["camera"]
    with pytest.raises(ValueError, match=r"the observations \['range', 'camera'\], wanted are \['rear'\]"):
        Drives.open(root, kinds=["rear"])
