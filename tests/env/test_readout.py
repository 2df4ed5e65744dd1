"""Read-outs of agents in environments: single, vector, wrapped; reproducible; distances and times of reward terms."""

import copy
import pickle

import gymnasium as gym
import numpy as np
import pytest
import torch
from helpers.agents import boxes_at, make_reader
from helpers.worlds import make_world

from drivedit.models.sets.agent_sets import AgentSamples
from drivedit_env.env import DriveDiTEnv
from drivedit_env.readout import CLEAR, HORIZON, AgentsReadout, Readout, clearances, times_to_collision
from drivedit_env.vector import DriveDiTVectorEnv

READER = make_reader(image_size=(64, 64))
WORLD = make_world()
GO = np.array([0.1, 0.5], np.float32)
NAMES = ["boxes", "spread", "presence", "clearance", "time_to_collision"]


def same(one: dict, other: dict, **close: float) -> bool:
    return all(np.allclose(one[name], other[name], **{"atol": 0, "rtol": 0, **close}) for name in NAMES)


def drive(env: gym.Env, steps: int) -> list[dict]:
    return [env.step(GO)[4] for _ in range(steps)]


@pytest.mark.parametrize("obs_type", ["pixels", "latent"])
def test_every_nth_step_is_read_and_read_again_alike(obs_type):
    env = DriveDiTEnv(WORLD, obs_type=obs_type, device="cpu", readout=READER, readout_every=2)
    first = env.reset(seed=3, options={"scene": 0})[1]
    state = env.get_state()
    infos = drive(env, 4)
    assert ["agents" in info for info in (first, *infos)] == [True, False, True, False, True]
    told = infos[1]["agents"]
    assert list(told) == NAMES and told["boxes"].shape == told["spread"].shape == (3, 8)
    assert told["presence"].shape == (3,) and told["clearance"].shape == ()
    env.set_state(state)
    assert all(same(a["agents"], b["agents"]) for a, b in zip(infos[1::2], drive(env, 4)[1::2], strict=True))
    env.reset(seed=3, options={"scene": 0})
    for other in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        assert same(drive(other, 2)[1]["agents"], told)
    assert copy.deepcopy(env)._readout is env._readout


def test_what_is_read_depends_on_the_picture_before():
    reader = Readout(READER)
    pictures = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), np.uint8)
    told = reader.read(pictures[:1], pictures[1:], None, [(0, 1)])
    assert same(told, reader.read(pictures[:1], pictures[1:], np.array([True]), [(0, 1)]))
    alone = reader.read(pictures[:1], None, None, [(0, 1)])
    assert same(alone, reader.read(pictures[:1], pictures[1:], np.array([False]), [(0, 1)]))
    assert not same(told, alone) and not same(alone, reader.read(pictures[:1], None, None, [(0, 2)]))


def test_rows_of_a_vector_environment_are_read_as_single_ones():
    envs = DriveDiTVectorEnv(2, WORLD, device="cpu", readout=READER, readout_every=2, max_episode_steps=3)
    single = DriveDiTEnv(WORLD, device="cpu", readout=READER, readout_every=2)
    infos = [envs.reset(seed=5)[1], *(envs.step(np.stack([GO, GO]))[4] for _ in range(5))]
    one = [single.reset(seed=5)[1], *drive(single, 2)]
    assert [info["_agents"].tolist() if "_agents" in info else None for info in infos] == [
        [True, True], None, [True, True], None, [True, True], None
    ]  # fmt: skip
    for step in (0, 2):
        rows = {name: value[0] for name, value in infos[step]["agents"].items() if not name.startswith("_")}
        assert same(rows, one[step]["agents"], atol=0.5)  # in bfloat16, where there is that
    assert infos[0]["agents"]["boxes"].shape == (2, 3, 8)
    alone = envs.reset(options={"reset_mask": np.array([False, True])})[1]
    assert alone["_agents"].tolist() == [False, True] and not alone["agents"]["boxes"][0].any()
    branches = envs.fork(0, 2)
    assert "agents" in branches.step(np.stack([GO, GO]))[4] or branches._readout is envs._readout
    latent = DriveDiTVectorEnv(2, WORLD, device="cpu", readout=READER, obs_type="latent", autoreset_mode="SameStep")
    latent.reset(seed=5)
    assert latent.step(np.stack([GO, GO]))[4]["_agents"].all()


class Pictures(gym.Env):
    """Shows squares, and nothing else happens."""

    observation_space = gym.spaces.Dict({"front": gym.spaces.Box(0, 255, (64, 64, 3), np.uint8),
                                         "speed": gym.spaces.Box(0, 9, (1,), np.float32)})  # fmt: skip
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._seen(), {}

    def step(self, action):
        return self._seen(), 1.0, False, False, {"reward_terms": {"alive": 1.0}}

    def _seen(self):
        return {"front": self.np_random.integers(0, 255, (64, 64, 3), np.uint8), "speed": np.zeros(1, np.float32)}


def test_any_environment_with_pictures_can_be_read():
    env = AgentsReadout(Pictures(), READER, every=2, rewards={"clearance": 2.0, "time_to_collision": 1.0})

    def episode(**options):
        infos = [env.reset(**options)[1]]
        rewards = []
        for _ in range(4):
            _, reward, _, _, info = env.step(0)
            rewards.append(reward)
            infos.append(info)
        return infos, rewards

    infos, rewards = episode(seed=4)
    again, _ = episode(seed=4)
    assert [list(info) for info in infos] == [["agents", "reward_terms"], ["reward_terms"]] + [
        ["reward_terms", "agents"], ["reward_terms"]
    ] * 1 + [["reward_terms", "agents"]]  # fmt: skip
    assert all(same(infos[k]["agents"], again[k]["agents"]) for k in (0, 2, 4))
    for step, reward in enumerate(rewards, 1):
        terms = infos[step]["reward_terms"]
        told = infos[step - step % 2]["agents"]
        assert terms["clearance"] == pytest.approx(min(told["clearance"] / 10.0 - 1, 0), abs=1e-6)
        assert terms["time_to_collision"] == pytest.approx(min(told["time_to_collision"] / 3.0 - 1, 0), abs=1e-6)
        assert reward == pytest.approx(1.0 + 2 * terms["clearance"] + terms["time_to_collision"])
    plain = AgentsReadout(Pictures(), READER, picture="front")
    plain.reset(seed=4)
    assert plain.step(0)[1] == 1.0


def samples(*boxes: np.ndarray, speed: float = 10.0) -> AgentSamples:
    """A sample of each set of boxes."""
    told, present = torch.zeros(1, len(boxes), 3, 8), torch.zeros(1, len(boxes), 3, dtype=torch.bool)
    for k, each in enumerate(boxes):
        told[0, k, : len(each)], present[0, k, : len(each)] = torch.from_numpy(each).float(), True
    return AgentSamples(told, present, {"speed": torch.full((1, len(boxes)), speed)})


def test_clearance_is_the_distance_of_outlines():
    side = boxes_at((0.0, 3.0))
    across = boxes_at((6.0, 0.0), yaw=np.pi / 2)
    found = clearances(samples(boxes_at((14.4, 0.0)), side, across, boxes_at((1.0, 0.5)), boxes_at((7.4, 5.8))))
    diagonal = np.hypot(3.0, 4.0)
    assert found[0].tolist() == pytest.approx([10.0, 1.2, 6 - 2.2 - 0.9, 0.0, diagonal], abs=1e-5)
    crossing = boxes_at((0.0, 0.0), yaw=np.pi / 2)
    assert clearances(samples(crossing)).item() == 0.0, "no corner of one lies in the other"
    assert clearances(samples(side[:0], boxes_at((90.0, 0.0)))).tolist() == [[CLEAR, CLEAR]]


def test_time_to_collision_takes_all_to_go_straight_on():
    ahead = boxes_at((24.4, 0.0), speed=0.0)
    faster, beside = boxes_at((24.4, 0.0), speed=12.0), boxes_at((24.4, 3.0), speed=0.0)
    oncoming = boxes_at((44.4, 0.0), yaw=np.pi, speed=10.0)
    found = times_to_collision(samples(ahead, faster, beside, oncoming, ahead[:0]))[0]
    assert found.tolist() == pytest.approx([2.0, HORIZON, HORIZON, 2.0, HORIZON], abs=0.21)
    assert times_to_collision(samples(ahead, speed=0.0)).item() == HORIZON


def test_terms_are_lowered_by_the_spread():
    values = torch.tensor([[4.0, 8.0]])
    assert Readout(READER, pessimism=0.0).lowered(values).item() == 6.0
    assert Readout(READER, pessimism=1.0).lowered(values).item() == 4.0
    assert Readout(READER, pessimism=9.0).lowered(values).item() == 0.0


def test_a_world_on_disk_has_its_reader_beside_it(tmp_path):
    folder = tmp_path / "world"
    WORLD.save_pretrained(folder)
    with pytest.raises(FileNotFoundError, match="has no read-out of agents"):
        DriveDiTEnv(folder, device="cpu", readout=True)
    READER.save(folder / "agents.safetensors")
    env = gym.make("drivedit_env:DriveDiT-v0", world=folder, device="cpu", readout=True)
    assert "agents" in env.reset(seed=0)[1]
    envs = gym.make_vec("drivedit_env:DriveDiT-v0", 2, world=folder, device="cpu", readout=True)
    assert envs.reset(seed=0)[1]["_agents"].all()


@pytest.mark.parametrize(
    ("options", "said"),
    [({"readout": True}, "in memory"), ({"readout": 7}, "readout is True"), ({"readout": READER, "readout_every": 0},
     "from 1 to 1000"), ({"readout": make_reader()}, r"takes pictures \[32, 64, 3\]")],
)  # fmt: skip
def test_read_outs_that_cannot_be_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        DriveDiTEnv(WORLD, device="cpu", **options)


def test_wrappers_that_cannot_read_are_refused():
    with pytest.raises(ValueError, match="the observations are"):
        AgentsReadout(Pictures(), make_reader())
    with pytest.raises(ValueError, match="the observations are"):
        AgentsReadout(Pictures(), READER, picture="speed")
    with pytest.raises(ValueError, match="knows the terms"):
        AgentsReadout(Pictures(), READER, rewards={"speed": 1.0})
    with pytest.raises(ValueError, match="safe_time"):
        AgentsReadout(Pictures(), READER, safe_time=9.0)
    with pytest.raises(FileNotFoundError):
        AgentsReadout(Pictures(), "nowhere.safetensors")
