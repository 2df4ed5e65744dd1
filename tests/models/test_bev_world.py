"""A world that keeps the ground around the car: what stays, what follows, its state, conditions and folder."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.agents import make_reader
from helpers.fields import (
    LINE,
    bev_config,
    box_ahead,
    copying_world,
    field_drive,
    field_scene,
    make_bev_world,
    picture_at,
)

from drivedit.config import Modality, PainterConfig
from drivedit.inference import compile_step
from drivedit.models import BevState, BevWorld, Sampling, Scene, World
from drivedit.models.bev.entering import shown_others
from drivedit.models.bev.parts import shown
from drivedit.models.finding import AGENTS
from drivedit.utils import advance_pose, motion_between
from drivedit.utils.episodes import Agents

FAR = torch.tensor([5.0, 0.0, 0.0])  # beyond a stride


@pytest.fixture(scope="module")
def world() -> BevWorld:
    return make_bev_world()


def drive(world: BevWorld, state: BevState, steps: int, seed: int = 3):
    rng, seen = torch.Generator().manual_seed(seed), []
    for _ in range(steps):
        controls = (torch.rand(2, generator=rng) * 2 - 1).expand(len(state), 2)
        state, out = world.step(state, controls)
        seen.append((world.observe(state, ["camera"])["camera"], out))
    return state, seen


def same(first, second) -> bool:
    return all(
        torch.equal(a, b) and torch.equal(x.reward, y.reward) and torch.equal(x.confidence, y.confidence)
        for (a, x), (b, y) in zip(first, second, strict=True)
    )


def test_the_start_picture_shows_level_ground_as_it_will_be_seen():
    world = copying_world()
    frames, controls, poses = field_drive(8, 1)
    scene = Scene({"camera": frames[:5]}, controls[:4], poses=poses[:5].astype(np.float32))
    state = world.start([scene], [0])
    state.motion[:] = torch.tensor([0.6, 0.0, 0.0]) / world.motion_scale
    flat = np.stack([poses[4] + [0.6 * n * np.cos(poses[4, 2]), 0.6 * n * np.sin(poses[4, 2]), 0] for n in (1, 2)])
    for pose in flat:
        state, _ = world.step(state, torch.zeros(1, 2))
        dreamed = world.observe(state, ["camera"])["camera"][0, 20:28, 8:-8].float().numpy()
        true, last = (picture_at(each)[20:28, 8:-8].astype(float) for each in (pose, poses[4]))
        assert np.abs(dreamed - true).mean() < 0.5 * np.abs(last - true).mean()
    assert torch.allclose(world.poses(state)[0, :2].double(), torch.from_numpy(flat[-1, :2]), atol=1e-4)


def test_what_is_told_is_the_specs_and_the_state_does_not_grow(world):
    state, out = world.enter(world.scenes, [1, 2])
    assert torch.equal(world.observe(state, ["camera"])["camera"][0], torch.from_numpy(world.scenes[0].frames[-1]))
    assert list(out.telemetry) == ["speed"] and world.given(state)["route"].tolist() == [True, False]
    assert not world.given(state)["layout"].any()
    size = state.size()
    state, seen = drive(world, state, 5)
    picture, out = seen[-1]
    assert picture.shape == (2, 32, 64, 3) and picture.dtype == torch.uint8 and state.size() == size
    assert state.clock.tolist() == [5, 5] and list(out.reward_terms) == ["progress", "time", "hit"]
    assert (out.confidence >= 0).all() and (out.confidence <= 1).all()
    world.check_state(state)
    for name, value in (("frame", 2.0), ("ground", 2.0), ("motion", float("nan"))):
        wrong = replace(state, **{name: torch.full_like(getattr(state, name), value)})
        with pytest.raises(ValueError, match=name):
            world.check_state(wrong)


def test_a_latent_is_the_picture_in_patches_and_nothing_is_lost(world):
    frames = torch.from_numpy(np.stack([scene.frames[-1] for scene in world.scenes]))
    latents = world.encode(frames[:, None])[:, 0]
    assert latents.shape == (2, 48, 8, 16) == (2, *world.modality("latent").shape)
    assert np.array_equal(world.decode(latents), frames.numpy())
    assert torch.equal(world.embed(frames.numpy()), latents)
    state = world.start(world.scenes, [1, 2])
    assert torch.equal(world.observe(state, ["latent"])["latent"], latents)
    with pytest.raises(ValueError, match=r"encodes frames uint8 \[B, 32, 64, 3\], got float32"):
        world.embed(frames.float().numpy())
    with pytest.raises(ValueError, match=r"this world shows \['camera', 'latent'\], got 'range'"):
        world.observe(state, ["range"])


def test_a_row_is_the_same_alone_and_in_a_batch(world):
    _, together = drive(world, world.start(world.scenes * 2, [1, 2, 3, 4]), 4)
    for row in range(4):
        _, alone = drive(world, world.start([world.scenes[row % 2]], [row + 1]), 4)
        for (a, told), (b, others) in zip(alone, together, strict=True):
            assert (a[0].int() - b[row].int()).abs().max() <= 1
            assert torch.allclose(told.reward[0], others.reward[row], atol=1e-4)


def test_snapshots_and_bytes_go_on_bit_for_bit(world):
    state, _ = drive(world, world.start(world.scenes, [1, 2]), 3)
    snapshot, data = state.clone(), state.to_bytes("me")
    _, after = drive(world, state, 4)
    assert same(after, drive(world, snapshot, 4)[1])
    assert same(after, drive(world, BevState.from_bytes(data, "me"), 4)[1])


def test_seeds_controls_and_temperature_decide_what_there_is(world):
    state, other = (world.start(world.scenes[:1], [seed]) for seed in (7, 8))
    assert torch.equal(state.key, other.key) and torch.equal(state.code, other.code)
    _, one = drive(world, state.clone(), 3)
    assert same(one, drive(world, world.start(world.scenes[:1], [7]), 3)[1])
    assert not torch.equal(one[-1][0], drive(world, other, 3)[1][-1][0])
    assert not torch.equal(one[-1][0], drive(world, state.clone(), 3, seed=4)[1][-1][0])
    far = replace(state.clone(), pose=state.pose + FAR)
    stepped = [
        world.step(world.reseed(far.clone(), [seed]), torch.zeros(1, 2), sampling=Sampling(temperature=warm))[0]
        for seed, warm in ((1, 1.0), (2, 1.0), (1, 0.0), (2, 0.0))
    ]
    assert not torch.equal(stepped[0].ground, stepped[1].ground), "new ground, by seed"
    assert torch.equal(stepped[2].ground, stepped[3].ground), "cold, it is the likeliest"


def test_ground_stays_as_it_is_until_the_car_nears_its_end_and_then_moves_by_whole_cells(world):
    state = world.reseed(world.start(world.scenes[:1] * 2, [1, 1]), [1, 2])
    begun, steps = state.clone(), 0
    assert torch.equal(begun.ground[0], begun.ground[1])
    fast = torch.tensor([0.0, 1.0]).expand(2, 2)
    while torch.equal(state.anchor, begun.anchor):
        assert torch.equal(state.ground, begun.ground), "no picture is made of the one before"
        state.motion[:] = torch.tensor([0.6, 0.0, 0.0]) / world.motion_scale
        state, _ = world.step(state, fast)
        steps += 1
        assert steps < 20
    gone = motion_between(begun.anchor, state.anchor)[0]
    assert gone[0] == pytest.approx(round(gone[0].item()), abs=1e-3) and gone[0] >= world.config.stride - 1
    cells = round(gone[0].item())
    assert torch.allclose(state.ground[:, :, :-cells], begun.ground[:, :, cells:], atol=1e-4), "what is known stays"
    assert not torch.allclose(state.ground[0, :, -cells:], state.ground[1, :, -cells:], atol=1e-3), "new, by seed"


def test_the_start_picture_fades_and_then_helps_no_more(world):
    state = world.start(world.scenes[:1], [1])
    other = replace(state.clone(), key=-state.key)
    gone = torch.tensor([0.0, world.config.reach + 1, 3e5])
    for moved, same_picture in zip(torch.eye(3)[:1] * gone[:, None, None], (False, False, True), strict=True):
        pose = advance_pose(state.key_pose, moved)
        given = pose, (state.others, state.looks), state.control, state.motion
        pictures = [world.render(replace(each.scenery, anchor=pose), *given)[0] for each in (state, other)]
        assert torch.equal(*pictures) == same_picture


def test_what_is_near_is_forgotten_before_what_is_far_away_and_what_was_not_in_the_picture_never_helps(world):
    gone = torch.tensor([[0.0, 0.0, 0.0], [6.1, 0.0, 0.0], [12.0, 0.0, 0.0], [19.0, 0.0, 0.0], [0.0, 0.0, 0.5]])
    fade = world.fade(gone)  # ground, 1e5, 30, 10 and 5 m; the reach is 12 m
    assert (fade[0] == 1).all() and fade[1, 0] < 1 and (fade[2, [0, 4]] == 0).all()
    assert (fade[3, [0, 4]] == 0).all() and 0 < fade[3, 3] < 0.2 and fade[3, 1] > 0.999
    helps = world.helps(gone, world.planes.places(gone))
    assert helps[0].all(), "all of it is in the picture"
    turned = helps[4, 1]
    assert not turned[:, -16:].any() and turned[12:20, :32].all(), "to the right there was nothing to see"


def before_the_car(scene: Scene, ahead: float) -> np.ndarray:
    """Somebody so many metres ahead of where a scene ends, facing as the car does, `[1, 8]`."""
    x, y, yaw = scene.poses_or_start()[-1]
    box = box_ahead(x + ahead * np.cos(yaw))
    box[0, 1], box[0, 6] = y + ahead * np.sin(yaw), yaw
    return box


def with_agents(scene: Scene, ahead: float) -> Scene:
    """The scene with one other, who comes 1 m nearer from state to state."""
    states = len(scene.frames)
    boxes = np.concatenate([before_the_car(scene, ahead + n)[:, :7] for n in range(states)][::-1])
    ids = np.zeros(states, np.int64)
    agents = Agents(np.arange(states + 1, dtype=np.int64), ids=ids, boxes=boxes, kinds=ids, names=("car",))
    return replace(scene, agents=agents)


def test_who_is_there_at_first_is_known_by_the_scene_or_read_off_it():
    world = make_bev_world(noise=0.0)
    scene = with_agents(world.scenes[0], 13.0)
    known = world.start([scene], [0])
    assert np.allclose(known.others[0, 0, :7], before_the_car(scene, 13.0)[0, :7], atol=1e-4) and not known.told.any()
    assert known.others[0, 0, 7] == pytest.approx(-10.0, abs=1e-3), "it comes nearer"
    assert (known.looks[0, 0, -4:] != 0).any() and not known.others[0, 1].any()
    assert not world.start(world.scenes[:1], [0]).others.any(), "nobody reads"

    class Reader:
        def read(self, pictures, generator, before):
            assert np.array_equal(pictures[0], scene.frames[-1]) and np.array_equal(before[0], scene.frames[-2])
            boxes = torch.tensor([[[9.0, 2.0, 0.7, 4.0, 1.8, 1.4, 0.3, 5.0], [20.0, 0, 0.7, 4.0, 1.8, 1.4, 0, 5.0]]])
            return SimpleNamespace(boxes=boxes, presence=torch.tensor([[0.9, 0.4]]))

    posed = replace(world.scenes[0], poses=world.scenes[0].poses_or_start() + np.array([0, 0, np.pi / 2], np.float32))
    pose = torch.from_numpy(posed.poses_or_start()[-1:])
    found = shown_others(Reader(), posed, pose, 0, None, 0.1)  # type: ignore[arg-type]
    assert found is not None
    rel = motion_between(pose, found[:, [0, 1, 6]])
    assert torch.allclose(rel, torch.tensor([[9.0, -2.0, -0.3]]), atol=1e-5) and found[0, 7] == 5.0


def test_one_that_is_placed_where_the_scene_shows_nobody_is_not_cut_out_of_its_picture():
    world = make_bev_world(noise=0.0)
    scene = with_agents(world.scenes[0], 13.0)
    boxes = np.concatenate([before_the_car(scene, 13.5), before_the_car(scene, 6.0)])
    told = world.start([replace(scene, conditions={**scene.conditions, "layout": boxes})], [0])
    near, far = (told.others[0, :, :2] - told.pose[0, :2]).norm(dim=1).argsort()
    assert told.told.all() and (told.looks[0, far, -4:] != 0).any() and not told.looks[0, near, -4:].any()


def test_the_reader_beside_a_world_is_taken_if_it_reads_its_pictures(tmp_path):
    make_bev_world().save_pretrained(tmp_path / "world")
    assert BevWorld.from_pretrained(tmp_path / "world", device="cpu").reader is None
    make_reader(image_size=(32, 64)).save(tmp_path / "world" / AGENTS)
    world = BevWorld.from_pretrained(tmp_path / "world", device="cpu")
    assert world.reader is not None and not any("reader" in name for name in world.state_dict())
    world.check_state(world.start(world.scenes[:1], [0]))
    make_reader(image_size=(32, 128)).save(tmp_path / "world" / AGENTS)
    with pytest.raises(ValueError, match=r"takes pictures of \[32, 128\], the world's are \[32, 64\]"):
        BevWorld.from_pretrained(tmp_path / "world", device="cpu")


def test_others_that_are_told_keep_their_looks(world):
    scene = world.scenes[0]
    told = world.start([replace(scene, conditions={**scene.conditions, "layout": box_ahead()})], [1])
    assert torch.allclose(told.others[0, 0], torch.from_numpy(box_ahead()[0])) and told.told.all()
    moved = box_ahead()
    moved[0, 0] += 1.0
    after = world.condition(told, {"layout": moved})
    assert torch.equal(after.looks[0, 0], told.looks[0, 0]), "it is the same one"
    moved[0, 0] += 50.0
    assert not torch.equal(world.condition(told, {"layout": moved}).looks[0, 0], told.looks[0, 0])
    kept = world.condition(told, {"layout": None})
    assert torch.equal(kept.others, told.others) and not kept.told.any()


def test_route_and_layout_are_told_and_taken_back(world):
    state = world.start(world.scenes[:1] * 2, [1, 1])
    told = world.condition(state, {"layout": box_ahead()}, rows=[1])
    assert world.given(told)["layout"].tolist() == [False, True]
    after, _ = world.step(told.clone(), torch.zeros(2, 2))
    assert not torch.equal(after.frame[0], after.frame[1])
    moved = float(after.others[1, 0, 0] - told.others[1, 0, 0])
    assert moved == pytest.approx(0.3, abs=1e-3), "3 m/s for .1 s"
    bent = world.condition(state, {"route": {"points": LINE + np.array([0, 3], np.float32)}})
    straight, curved = (replace(each.clone(), pose=each.pose + FAR) for each in (state, bent))
    steps = [world.step(each, torch.zeros(2, 2))[0] for each in (straight, curved)]
    assert not torch.equal(steps[0].ground, steps[1].ground), "new ground follows the route"
    free = world.condition(told, {"route": None, "layout": None})
    assert not torch.stack(list(world.given(free).values())).any()
    assert set(world.conditions(told)) == {"route", "arc", "layout"}
    with pytest.raises(ValueError, match="told the conditions"):
        world.condition(state, {"weather": "fog"})


def test_a_route_that_leads_elsewhere_shapes_the_ground_beyond_what_is_seen_well(world, monkeypatch):
    monkeypatch.setattr("drivedit.models.bev.world.SEEN_WELL", 10.0)
    state = world.start(world.scenes[:1] * 2, [1, 2])
    assert torch.equal(world.condition(state, {"route": {"points": LINE}}).ground, state.ground), "the same route"
    aside = {"points": LINE + np.array([0, 3], np.float32)}
    bent, again = (world.condition(state, {"route": aside}, rows=[1]) for _ in range(2))
    assert torch.equal(bent.ground[0], state.ground[0]) and torch.equal(bent.ground, again.ground)
    changed = (bent.ground != state.ground)[1].any(0)  # [X, Y]
    ahead = world.window.places(motion_between(state.pose, state.anchor))[0][1]
    assert not changed[ahead < 10].any() and changed[ahead > 10].float().mean() > 0.5
    world.check_state(bent)
    free = world.condition(state, {"route": None})
    assert not torch.equal(free.ground[0], state.ground[0]) and torch.equal(
        free.ground[1, :, :12], state.ground[1, :, :12]
    )


def test_what_this_kind_of_world_cannot_do_is_refused(world, caplog):
    state = world.start(world.scenes, [1, 2])
    with pytest.raises(ValueError, match="takes no dt"):
        world.step(state, torch.zeros(2, 2), torch.tensor(0.2))
    with pytest.raises(ValueError, match="in 1 pass, got sampling_steps 2"):
        world.step(state, torch.zeros(2, 2), sampling=Sampling(passes=2))
    with pytest.raises(ValueError, match="no guidance"):
        world.step(state, torch.zeros(2, 2), sampling=Sampling(guidance=2.0))
    with pytest.raises(ValueError, match="one seed per scene"):
        world.enter(world.scenes, [1])
    jump = field_scene(4)
    assert jump.poses is not None
    jump.poses[-1, 0] += 500
    with pytest.raises(ValueError, match="jump between frames 3 and 4"):
        world.enter([jump], [1])
    assert compile_step(world) is None and "BevWorld goes on without" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"renderer": PainterConfig((4, 2))}, "must be a square"),
        ({"depths": []}, "depths must be 1 to"),
        ({"motion_scale": [1.0]}, "must be 3 numbers"),
        ({"window": (4.0, 27.0, 8.0)}, "4 to 4096 cells on each side, a multiple of it, got \\(31, 16\\)"),
        ({"stride": 30.0}, "stride must be shorter than the window ahead, got 30.0 and 28.0 m"),
        ({"spec": replace(bev_config().spec, observations={"camera": Modality((20, 64, 3))})}, "multiples of 16"),
        ({"spec": replace(bev_config().spec, observations={"range": Modality((32, 64, 2), "float32", 0, 85)})},
         "shows one picture, uint8"),
    ],
)  # fmt: skip
def test_configurations_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        bev_config(**changes)


def test_a_world_that_knows_no_road_says_so():
    alone = BevWorld(replace(bev_config(), spec=replace(bev_config().spec, conditions=[]), others=0)).eval()
    assert alone.config.route_dim == 0
    state, _ = drive(alone, alone.start([field_scene(3, posed=False)], [1]), 2)
    assert state.others.shape == (1, 0, 8)
    with pytest.raises(ValueError, match="learned nothing about routes"):
        alone.start([field_scene(3)], [1])
    told = BevWorld(replace(bev_config(), spec=replace(bev_config().spec, conditions=["route"]), others=0))
    assert told.config.route_dim == 1


def test_a_folder_gives_the_same_world(world, tmp_path):
    world.save_pretrained(tmp_path / "w")
    loaded = World.from_pretrained(tmp_path / "w", device="cpu")
    assert isinstance(loaded, BevWorld) and loaded.config == world.config and loaded.card == world.card
    again = BevWorld.from_pretrained(tmp_path / "w", device="cpu")
    states = [each.start(each.scenes, [1, 2]) for each in (loaded, again)]
    assert same(drive(loaded, states[0], 3)[1], drive(again, states[1], 3)[1])


def test_pictures_are_rounded_to_bytes():
    frames = torch.tensor([-1.0, 0.0, 1.0, 0.0039]).view(1, 1, 1, 4).repeat(1, 3, 1, 1)
    assert shown(frames)[0, 0, :, 0].tolist() == [0, 128, 255, 128]
