"""Filmed drives become recordings, and recordings without route, reward and telemetry become worlds to drive in."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import gymnasium as gym
import numpy as np
import pytest
from fuzz.episodes import same
from helpers.films import FPS, STEPS, shade, write_table, write_video
from helpers.worlds import film_spec, spec_of

from drivedit.config import RewardTerm, StudentConfig, VAEConfig, WorldConfig, WorldSpec
from drivedit.data import __main__ as data_commands
from drivedit.data.clips import Drives, fit_config
from drivedit.data.exchange.control_table import ControlTable
from drivedit.data.exchange.films import Plan, import_drives
from drivedit.data.exchange.video import Video
from drivedit.data.recordings import iter_episodes, read_attrs, shard_paths, write_shard
from drivedit.data.sheet import write_sheet
from drivedit.training import __main__ as training_commands
from drivedit.training.latents import route_codes
from drivedit.utils.video import VideoWriter

WORLD = WorldConfig(
    WorldSpec(),
    VAEConfig(3, 4, [8, 8, 16, 16], 1, False, 0.1, temporal_kernel=1),
    StudentConfig(16, 16, 1, 2, dropout=0.0, tokens_per_frame=16, window=3, history=2, control_dim=7, route_dim=61),
)


def test_three_commands_from_a_video_to_a_world_that_steps(film, tmp_path):
    video, table = (str(path) for path in film)
    mine, run, preset = str(tmp_path / "mine"), str(tmp_path / "run"), tmp_path / "tiny.yaml"
    preset.write_text(json.dumps({"world": WORLD.to_dict(), "train": {"bf16": False, "batch_size": 2}}))
    cut = ["--episode-steps", "15"]
    assert data_commands.main(["import", "--video", video, "--controls", table, "--out", mine, *cut]) == 0
    common = ["--config", str(preset), "--data.root", mine, "--out", run, "--device", "cpu", "--train.steps"]
    training_commands.main(["vae", *common, "3"])
    training_commands.main(["student", *common, "4", "--loss.clip_frames", "4", "--loss.rollout", "1"])

    env = gym.make("drivedit_env:DriveDiT-v0", world=f"{run}/student/world", device="cpu")
    obs, info = env.reset(seed=0)
    assert info["telemetry"] == {} and env.metadata["render_fps"] == FPS
    for _ in range(3):
        obs, reward, terminated, truncated, info = env.step(np.array([0.3, 0.2], np.float32))
        assert obs.shape == (64, 64, 3) and reward == 0 and not terminated and not truncated
        assert info["reward_terms"] == {"progress": 0.0} and 0 <= info["confidence"] <= 1
    with pytest.raises(ValueError, match="nothing about routes"):
        env.reset(options={"route": np.array([[0, 0], [50, 0]])})
    latent = gym.make_vec("drivedit_env:DriveDiT-v0", num_envs=2, world=f"{run}/student/world", obs_type="latent")
    latent.reset(seed=0)
    assert np.isfinite(latent.step(np.zeros((2, 2), np.float32))[0]).all()


def test_frames_are_taken_at_equal_times_and_controls_are_means(film, tmp_path):
    video, table = film
    plan = Plan(fps=10, episode_steps=100)
    paths = import_drives(tmp_path / "mine", [video], [table], plan=plan, progress=False)
    (episode,) = list(iter_episodes(tmp_path / "mine"))
    assert read_attrs(paths[0])["spec"].dt == 0.1 and episode.picture.shape == (46, 64, 64, 3)
    seen = episode.picture[:, 8:-8, 8:-8].mean((1, 2, 3))
    assert np.abs(seen - [shade(2 * k) for k in range(46)]).max() < 3, "every second frame; the rest is the codec's"
    assert np.allclose(episode.controls[:, 1], 0.25)
    middles = (np.arange(45) + 0.5) / 10
    assert np.allclose(episode.controls[:, 0], 0.5 * middles / 4.58, atol=1e-4)  # the table ends at 4.58 s
    assert np.isnan(episode.reward).all() and episode.telemetry == {} and np.isnan(episode.poses).all()
    assert not episode.terminated.any() and len(episode.route) == 0
    assert write_sheet(tmp_path / "mine", tmp_path / "sheet.png", rows=2).stat().st_size > 0


def test_means_of_a_step_and_of_a_coarse_table(tmp_path):
    path = tmp_path / "step.csv"
    path.write_text("time,steering,throttle\n0,0,-1\n1,0,-1\n1.000001,1,-1\n3,1,-1\n")
    controls = ControlTable(path).controls(np.array([0.0, 0.75, 1.25, 2.0]))
    assert np.allclose(controls, [[0, -1], [0.5, -1], [1, -1]], atol=1e-5)
    path.write_text("time,steering,throttle\n0,-1,0\n10,1,0.5\n")
    assert np.allclose(ControlTable(path).controls(np.array([4.0, 6.0])), [[0, 0.25]])


def test_holes_and_lengths_cut_a_drive(tmp_path):
    video = write_video(tmp_path / "drive.mp4", [i for i in range(STEPS + 1) if not 40 < i < 60])
    assert Video(video).rate == FPS and Video(video).left_out(10) == pytest.approx(1.0)
    numbers = [number for number, _, _ in Video(video).frames(10, (16, 32))]
    assert numbers == [*range(21), *range(30, 46)]
    numbers = [number for number, _, _ in Video(video).frames(FPS, (16, 32))]
    assert numbers == [*range(41), *range(60, 91)]
    table = write_table(tmp_path / "drive.csv")
    plan = Plan(fps=10, size=(16, 32), episode_steps=9)
    import_drives(tmp_path / "mine", [video, video], [table, table], plan=plan, progress=False)
    episodes = list(iter_episodes(tmp_path / "mine"))
    assert [len(e) for e in episodes] == [9, 10, 9, 5] * 2 and episodes[0].picture.shape[1:] == (16, 32, 3)
    assert [round(e.start["second"] * 10) for e in episodes[:4]] == [0, 10, 30, 40]
    after = episodes[2]
    assert abs(after.picture[0].mean() - shade(60)) < 3
    assert after.controls[0, 0] == pytest.approx(0.5 * 3.05 / 4.58, abs=1e-4)


def test_positions_give_poses_a_route_and_speed_is_telemetry(film, tmp_path):
    speed, radius = 12.0, 40.0
    table = write_table(
        tmp_path / "drive.csv",
        start=100.0,
        x=lambda t: radius * np.sin(speed * t / radius),
        y=lambda t: radius * np.cos(speed * t / radius) - radius,  # from the origin along +x, to the right
        speed=lambda t: np.full(len(t), speed),
    )
    plan = Plan(fps=10, offset=100.0, episode_steps=20)
    import_drives(tmp_path / "mine", [film[0]], [table], plan=plan, progress=False)
    drives = Drives.open(tmp_path / "mine")
    assert len(drives) == 2 and drives.fps == 10
    turned = speed * np.arange(21) / 10 / radius
    pose = drives.pose[drives.states(0)]
    assert np.allclose(pose[:, 0], radius * np.sin(turned), atol=0.01)
    assert np.allclose(pose[1:, 2], -turned[1:], atol=0.02)
    assert np.allclose(drives.motion()[2:20, 0], 1.2, atol=0.02) and np.allclose(
        drives.motion()[2:20, 2], 0.03, atol=0.02
    )
    steps = np.linalg.norm(np.diff(drives.routes[0], axis=0), axis=1)
    assert (
        steps.min() >= 2
        and steps.max() < 2.3
        and np.allclose(np.linalg.norm(drives.routes[0] + [0, radius], axis=1), radius, atol=0.1)
    )
    world = fit_config(WORLD, drives)
    assert [(value.name, value.scale) for value in world.spec.telemetry] == [("speed", 20.0)]
    assert world.student.route_dim == 61 and world.spec.conditions == ["route"]
    assert np.abs(route_codes(drives, world)).max() > 0.1


def test_a_wide_film_with_rewards_becomes_a_world_that_earns(tmp_path):
    """5:3 at 15 frames/s, no positions, through both stages with the shipped preset at a tiny size."""
    video = write_video(tmp_path / "drive.mp4", range(61), (96, 160), fps=15)
    table = write_table(tmp_path / "drive.csv", 4.2, reward=lambda t: 1 + np.sin(t))
    mine, run, tiny = str(tmp_path / "mine"), str(tmp_path / "run"), tmp_path / "tiny.yaml"
    small = {"vae": WORLD.vae.to_dict(), "student": {**WORLD.student.to_dict(), "route_dim": 61}}
    tiny.write_text(json.dumps({"world": small, "train": {"bf16": False, "batch_size": 2}}))
    source = ["--video", str(video), "--controls", str(table), "--out", mine, "--size", "48", "80"]
    assert data_commands.main(["import", *source, "--episode-steps", "15"]) == 0
    common = ["--config", "video.yaml", "--config", str(tiny), "--data.root", mine, "--out", run, "--device", "cpu"]
    training_commands.main(["vae", *common, "--train.steps", "2"])
    training_commands.main(["student", *common, "--train.steps", "2", "--loss.clip_frames", "4", "--loss.rollout", "1"])
    env = gym.make("drivedit_env:DriveDiT-v0", world=f"{run}/student/world", device="cpu")
    assert env.reset(seed=0)[0].shape == (48, 80, 3) and env.metadata["render_fps"] == 15
    _, reward, _, _, info = env.step(np.array([0.3, 0.2], np.float32))
    assert info["reward_terms"] == {"progress": pytest.approx(reward)} and reward != 0


def write_pictures(folder: Path, count: int = 8, controls: bool = True) -> np.ndarray:
    frames = np.random.default_rng(0).integers(0, 255, (count, 32, 48, 3), dtype=np.uint8)
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"frame_{number + 5}.png"), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    if controls:
        rows = [{"steering": 0.1 * i, "acceleration": -0.1 * i, "goal_x": 3.0, "goal_y": 1.0} for i in range(count)]
        (folder / "controls.json").write_text(json.dumps({"controls": rows}))
    return frames


def test_pictures_are_imported_without_loss(tmp_path):
    frames = write_pictures(tmp_path / "root" / "b")
    write_pictures(tmp_path / "root" / "a", 4)
    out = tmp_path / "mine"
    arguments = ["import", "--images", str(tmp_path / "root"), "--out", str(out), "--size", "32", "48", "--fps", "5"]
    assert data_commands.main(arguments) == 0
    short, long = iter_episodes(out)
    assert (short.start["source"], long.start["source"]) == ("a", "b") and read_attrs(shard_paths(out)[0])[
        "spec"
    ].dt == 0.2
    assert np.array_equal(long.picture, frames), "in the order of the numbers, frame_9 before frame_10"
    assert np.allclose(long.controls, [[0.1 * i, -0.1 * i] for i in range(7)])
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_world_is_suited_to_what_recordings_know(film, tmp_path):
    plan = Plan(fps=10, size=(32, 64), episode_steps=20)
    import_drives(tmp_path / "a", [film[0]], [film[1]], plan=plan, progress=False)
    drives = Drives.open(tmp_path / "a")
    world = fit_config(WORLD, drives, clip_frames=40)
    assert world.image_size == (32, 64) and world.student.tokens_per_frame == 8 and world.spec.fps == 10
    assert world.student.max_seq_len == 320 and fit_config(WORLD, drives).student.max_seq_len == 256
    assert not world.spec.telemetry and world.spec.rewards == {"progress": RewardTerm("learned", 0.0)}
    assert (
        world.end_threshold == 1
        and world.student.route_dim == world.student.map_dim == 0
        and route_codes(drives, world).shape
        == (
            len(drives.frames),
            0,
        )
    )
    assert not drives.motion().any()
    wanted = replace(WORLD, spec=spec_of(32, 64))
    drives.telemetry = {name: np.ones(len(drives.frames)) for name in wanted.spec.names("telemetry")}
    drives.rewards["progress"] = np.ones(len(drives.frames))
    known = fit_config(wanted, drives)
    assert known.spec.telemetry == wanted.spec.telemetry and known.spec.rewards == wanted.spec.rewards
    drives.rewards["progress"] = np.where(np.arange(len(drives.frames)) % 4 == 0, 10.0, 0.0)
    world = fit_config(WORLD, drives)
    assert world.spec.rewards["progress"].value == pytest.approx(5, rel=0.03), "the root mean square"
    drives.rewards["progress"][:] = 0
    assert fit_config(WORLD, drives).spec.rewards["progress"].value == 0
    with pytest.raises(ValueError, match="multiples of 24"):
        fit_config(WorldConfig(patch=3), drives)
    with pytest.raises(ValueError, match="fuel"):
        fit_config(WorldConfig(film_spec(32, 64, ("fuel",))), drives)
    with pytest.raises(ValueError, match=r"the world has .*64, 64, 3.*the recordings has .*32, 64, 3"):
        fit_config(WorldConfig(film_spec(64, 64)), drives)


def test_recordings_that_do_not_belong_together_are_refused(film, tmp_path):
    for number, (fps, size) in enumerate([(10, 64), (5, 64), (10, 32)]):
        plan = Plan(fps, (size, size), episode_steps=20)
        import_drives(tmp_path / str(number), [film[0]], [film[1]], plan=plan, progress=False)
    episodes = [list(iter_episodes(tmp_path / str(number))) for number in range(3)]
    write_shard(tmp_path / "0" / "shard-00001.h5", episodes[1])
    with pytest.raises(ValueError, match=r"dt: .*shard-00000.h5 has 0.1, .*shard-00001.h5 has 0.2"):
        Drives.open(tmp_path / "0")
    write_shard(tmp_path / "0" / "shard-00001.h5", episodes[2])
    with pytest.raises(ValueError, match=r"observations: .*\[64, 64, 3\].*\[32, 32, 3\]"):
        Drives.open(tmp_path / "0")


@pytest.mark.filterwarnings("ignore:.*is set to None:UserWarning")
def test_filmed_drives_go_through_minari_without_loss(film, tmp_path, monkeypatch):
    pytest.importorskip("minari")
    from drivedit.data.exchange.minari import export_minari, import_minari

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    plan = Plan(fps=5, size=(16, 32), episode_steps=8)
    import_drives(tmp_path / "mine", [film[0]], [film[1]], plan=plan, progress=False)
    export_minari(tmp_path / "mine", "drivedit/filmed-v0")
    (back,) = import_minari("drivedit/filmed-v0", tmp_path / "back")
    assert read_attrs(back)["spec"].dt == 0.2 and read_attrs(back)["env"] == ""
    for before, after in zip(iter_episodes(tmp_path / "mine"), iter_episodes(tmp_path / "back"), strict=True):
        assert same(before, after)


TABLES = {
    "columns": ("time,steering\n0,0\n1,0\n", "must have the columns time, steering, throttle.*got time, steering"),
    "no name": ("time,steering,throttle,\n0,0,0,0\n", "may have speed, x, y, yaw.*names of their own"),
    "one position": ("time,steering,throttle,x\n0,0,0,0\n", "x and y together"),
    "empty": ("", "got nothing"),
    "short": ("time,steering,throttle\n0,0,0\n", "there are fewer"),
    "not increasing": ("time,steering,throttle\n0,0,0\n1,0,0\n1,0,0\n", "line 4 has 1 after 1"),
    "text": ("time,steering,throttle\n0,0,0\n1,left,0\n", "line 3 .* must hold 3 numbers, got '1,left,0'"),
    "ragged": ("time,steering,throttle\n0,0,0\n1,0\n", "line 3"),
    "range": ("time,steering,throttle\n0,0,0\n9,90,0\n", r"steering in .* must lie in \[-1, 1\], got 90 \(degrees"),
    "percent": ("time,steering,throttle\n0,0,0\n9,0,-60\n", "throttle in .* got -60 .*full throttle and full brake"),
    "terminated": ("time,steering,throttle,terminated\n0,0,0,0\n9,0,0,2\n", "must be 0 or 1, got 2"),
    "late": ("time,steering,throttle\n1,0,0\n9,0,0\n", "covers 1.00 to 9.00 s, but drive.mp4 shows 0.00 to 4.50"),
    "early": ("time,steering,throttle\n0,0,0\n2,0,0\n", "covers 0.00 to 2.00"),
}


@pytest.mark.parametrize("kind", TABLES)
def test_tables_that_cannot_be_used_are_named(film, tmp_path, kind):
    text, message = TABLES[kind]
    table = tmp_path / "bad.csv"
    table.write_text(text)
    with pytest.raises(ValueError, match="(?s)" + message.replace("drive.mp4", ".*drive.mp4")):
        import_drives(tmp_path / "mine", [film[0]], [table], progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["bad.csv"], "nothing half-made is left"


def test_videos_and_folders_that_cannot_be_used_are_named(film, tmp_path, capsys):
    video, table = film
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"this is no video" * 100)
    cases = [
        (["--video", str(bad), "--controls", str(table)], "cannot be decoded"),
        (["--video", str(tmp_path / "none.mp4"), "--controls", str(table)], "there is no video"),
        (["--video", str(video), "--controls", str(tmp_path / "none.csv")], "there is no table"),
        (["--video", str(video)], "1 videos, 0 tables"),
        (["--video", str(video), "--controls", str(table), "--fps", "50"], "has 20 frames per second"),
        (["--video", str(video), "--controls", str(table), "--size", "60", "64"], "multiples of 16, got 60 x 64"),
        (["--images", str(tmp_path / "none")], "there is no folder"),
        (["--images", str(tmp_path)], "no pictures"),
    ]
    for arguments, message in cases:
        assert data_commands.main(["import", "--out", str(tmp_path / "mine"), *arguments]) == 1
        assert message in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something"):
        import_drives(tmp_path / "mine", [video], [table])
    cut = tmp_path / "cut.mp4"
    with VideoWriter(tmp_path / "noise.mp4", FPS) as writer:
        for frame in np.random.default_rng(0).integers(0, 255, (30, 64, 64, 3), dtype=np.uint8):
            writer.write(frame)
    data = (tmp_path / "noise.mp4").read_bytes()
    cut.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"cut.mp4 cannot be decoded"):
        import_drives(tmp_path / "other", [cut], [table], progress=False)


def test_pictures_that_cannot_be_used_are_named(tmp_path):
    write_pictures(tmp_path / "a" / "x", controls=False)
    with pytest.raises(FileNotFoundError, match=r"controls\.json"):
        import_drives(tmp_path / "mine", images=tmp_path / "a", progress=False)
    path = tmp_path / "a" / "x" / "controls.json"
    for text, message in (
        ('{"controls": [{"steering": 0}]}', "acceleration"),
        ('{"controls": [{"steering": 0, "throttle": 0}]}', "1 controls, but 8 pictures"),
        ('{"controls": [{"steering": 0, "throttle": NaN}]}', "not finite"),
        ("{", "not of the form"),
        (json.dumps({"controls": [{"steering": 45, "throttle": 0}] * 8}), "largest is 45"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            import_drives(tmp_path / "mine", images=tmp_path / "a", progress=False)
    path.write_text(json.dumps({"controls": [{"steering": 0, "throttle": 0}] * 8}))
    (tmp_path / "a" / "x" / "frame_7.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"frame_7\.png is damaged"):
        import_drives(tmp_path / "mine", images=tmp_path / "a", progress=False)
