"""Clips that tell of others on the road, as a dream tells of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.training import make_episode
from helpers.worlds import make_peopled_world

from drivedit.config import StudentStageConfig
from drivedit.data.clips import Drives, fit_config
from drivedit.data.recordings import write_shard
from drivedit.models.conditions.layout import LAYOUT, layout_part
from drivedit.training.latents import Clips
from drivedit.training.methods.clips import Rngs
from drivedit.training.methods.forcing import DiffusionForcing
from drivedit.utils import Route
from drivedit.utils.episodes import Agents


@pytest.fixture(scope="module")
def drives(tmp_path_factory) -> Drives:
    """Two drives; in the first the car has three others around it, at the last state one of them is gone."""
    folder, episode = tmp_path_factory.mktemp("peopled"), make_episode(12, 0)
    ahead = episode.poses[:, None] + np.array([[0, 9, 0], [4, 30, 0], [-3, 14, 3.1]])
    boxes = np.zeros((13, 3, 7), np.float32)
    boxes[..., [0, 1, 6]], boxes[..., 2], boxes[..., 3:6] = ahead, 0.8, (4, 2, 1.6)
    boxes = boxes.reshape(39, 7)[:-1]
    first = np.r_[np.arange(13) * 3, 38]
    agents = Agents(first, np.arange(38) % 3, boxes, np.zeros(38, np.int64))
    write_shard(folder / "shard-00000.h5", [replace(episode, agents=agents), make_episode(12, 1)])
    return Drives.open(folder)


def test_clips_tell_of_the_nearest_others_as_a_dream_does(drives):
    world = make_peopled_world()
    clips = Clips(drives, np.zeros((26, 4, 8, 8), np.float16), world.config, 4)
    batch = clips.batch(np.array([3, 16]))
    part = layout_part(world.config) > 0
    assert batch["route"].shape == (2, 4, len(part)) and not batch["route"][1][:, part].any(), "not known: not told"
    route = Route.from_points([drives.routes[0]], [bool(drives.closed[0])], [drives.bounds[0]])
    for at, told in enumerate(batch["route"][0], 3):
        others = torch.zeros(1, 2, LAYOUT)
        rows = drives.agents.boxes[drives.agents.at(at)]
        apart = np.hypot(*(rows[:, :2] - drives.pose[at, :2]).T)
        others[0, :, :7] = torch.from_numpy(rows[apart.argsort()[:2]])
        pose = torch.from_numpy(drives.pose[[at - 1]]).float()
        motion = torch.from_numpy(drives.motion()[[at - 1]]) / world.motion_scale
        assert world.layout is not None
        layout = world.layout(others, clips.poses[[at - 1]].float())
        code = world.code(route, pose, route.foot(pose[:, :2], None), motion, (torch.ones(1), layout))
        assert torch.allclose(told[part], code[0, part], atol=1e-3)
        assert told[part].max() == 1 and (told[part] < 1).sum() > 10


def test_route_and_others_are_dropped_each_on_its_own():
    world = make_peopled_world()
    part = layout_part(world.config) > 0
    method = DiffusionForcing(world, StudentStageConfig(drop_route=0.4, drop_layout=0.5))
    rng = torch.Generator().manual_seed(0)
    code = method.told(torch.ones(4000, 1, len(part)), Rngs(rng, torch.device("cpu"), rng))[:, 0]
    routed, peopled = code[:, ~part], code[:, part]
    assert (routed == routed[:, :1]).all() and (peopled == peopled[:, :1]).all(), "of a clip all or nothing"
    route, others = routed[:, 0], peopled[:, 0]
    shares = [float(kept.mean()) for kept in (route, others, route * others)]
    assert np.allclose(shares, [0.6, 0.5, 0.3], atol=0.03)


def test_recordings_without_others_teach_a_world_that_is_told_of_none(drives):
    wanted = make_peopled_world().config
    assert fit_config(wanted, drives).others == 2 and "layout" in fit_config(wanted, drives).spec.conditions
    unknown = replace(drives, agents_known=np.zeros(2, bool))
    fitted = fit_config(wanted, unknown)
    assert fitted.others == 0 and fitted.spec.conditions == ["route"] and fitted.student.map_dim == 16
