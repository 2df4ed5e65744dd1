"""A domain as a package of one's own brings it: collected, learned, shipped, driven, recorded, judged and evaluated.

`tests/toy` is such a package as it lies on the disk after its installation: a folder of code, and the entry point that
announces it. No other file knows of it, and the commands are those of every domain.
"""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import drivedit_env
from drivedit.agents import __main__ as agents
from drivedit.config import Quantity, RewardTerm, all_domains, find_domain
from drivedit.data import __main__ as data
from drivedit.data import iter_episodes, record_episode
from drivedit.evaluation import __main__ as evaluation
from drivedit.models import World
from drivedit.training import __main__ as training
from drivedit.utils import load_object
from drivedit_env.env import DriveDiTEnv
from drivedit_env.viewer.play import main as play

TOY = Path(__file__).parents[1] / "toy"
ENV = "PlaneSimulator-v0"


@dataclass
class AgentLike:
    """Holds controls, as a driver of a recording."""

    controls: np.ndarray
    name: str = "held"

    def act(self, truth, observation):
        return self.controls


SMALL = [
    "--config", "video.yaml", "--world.vae.hidden_dims=[8,8,16,16]", "--world.vae.decoder_dims=null",
    "--world.vae.latent_dim", "8", "--world.patch", "1", "--world.end_threshold", "1.0", "--train.bf16", "false",
    "--train.save_every_s", "1000",
]  # fmt: skip
TINY = ["--world.student.d_model", "32", "--world.student.n_layers", "1", "--loss.clip_frames", "4"]


@pytest.fixture(scope="module")
def plane():
    """The domain, as if its package had been installed before this process began."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(TOY)
        all_domains.cache_clear()
        drivedit_env.register_environments()
        yield find_domain("plane")
    all_domains.cache_clear()
    gym.registry.pop(ENV, None)


@pytest.fixture(scope="module")
def here(plane, tmp_path_factory):
    """A folder with recordings, held-out ones, and a world that learned from the former."""
    folder = tmp_path_factory.mktemp("plane")
    record = ["collect", "--domain", "plane", "--episode-steps", "40", "--workers", "1", "--shard-steps", "800"]
    assert data.main([*record, "--out", f"{folder}/recordings", "--steps", "1600"]) == 0
    assert data.main([*record, "--out", f"{folder}/held", "--steps", "400", "--held-out", "--seed", "1"]) == 0
    common = [*SMALL, "--data.root", f"{folder}/recordings", "--out", f"{folder}/run"]
    training.main(["vae", *common, "--train.steps", "120", "--train.batch_size", "16"])
    training.main(["student", *common, *TINY, "--loss.rollout", "1", "--train.steps", "40"])
    return folder


def test_it_is_collected_as_its_spec_says(plane, here):
    episodes = list(iter_episodes(here / "recordings"))
    assert sum(len(episode) for episode in episodes) >= 1600 and {e.driver for e in episodes} == {"wanderer"}
    one = episodes[0]
    assert one.spec == plane.spec and one.picture.shape == (len(one) + 1, 16, 32, 1) and one.controls.shape[1] == 3
    assert list(one.telemetry) == ["speed", "height"] and np.allclose(one.poses[:, 1], one.telemetry["height"])
    ended = [episode for episode in episodes if episode.terminated.any()]
    assert ended and {episode.ending for episode in ended} == {"out"} and all(e.rewards["out"][-1] == -5 for e in ended)
    assert np.allclose(one.reward, sum(one.rewards.values()), atol=1e-6)
    assert all(episode.seed < plane.held_out_from for episode in episodes)
    assert all(episode.seed >= plane.held_out_from for episode in iter_episodes(here / "held", held_out=True))


def test_a_world_learns_it_and_is_driven(plane, here):
    world = World.from_pretrained(here / "run" / "student" / "world", device="cpu")
    spec = world.spec
    assert (spec.domain, spec.names("controls"), spec.names("telemetry")) == (
        "plane", ["push", "turn", "brake"], ["speed", "height"],
    )  # fmt: skip
    assert spec.rewards["near"].kind == "learned" and spec.rewards["near"].value > 0 and spec.conditions == []
    env = gym.make("drivedit_env:DriveDiT-v0", world=str(here / "run" / "student" / "world"), render_mode="rgb_array")
    seen, _ = env.reset(seed=0)
    seen, reward, _, _, info = env.step(np.array([1.0, 0.5, 0.0], np.float32))
    assert seen.shape == (16, 32, 1) and np.isfinite(float(reward)) and set(info["telemetry"]) == {"speed", "height"}
    picture = env.render()
    assert isinstance(picture, np.ndarray) and picture.shape[2] == 3
    window = gym.make("drivedit_env:DriveDiT-v0", world=str(here / "run" / "student" / "world"), render_mode="human")
    window.reset(seed=0)
    window.step(np.array([1.0, 0.5, 0.0], np.float32))  # grey, and a bar for each control
    window.close()
    starts = [scene.frames.shape for scene in world.scenes]
    assert starts and set(starts) == {(9, 16, 32, 1)}


def test_it_is_driven_in_the_viewer_recorded_and_learned_from_again(here, tmp_path, capsys):
    world, film = str(here / "run" / "student" / "world"), tmp_path / "drive.mp4"
    words = ["--world", world, "--agent", "circler", "--video", str(film), "--steps", "12"]
    assert play([*words, "--drives", str(tmp_path / "drives")]) == 0 and film.stat().st_size > 0
    episodes = list(iter_episodes(tmp_path / "drives"))  # the dream may end on the way
    assert sum(len(episode) for episode in episodes) == 12 and {episode.driver for episode in episodes} == {"circler"}
    driven = np.array([1.5, 0.8, 0.0], np.float32)
    assert all((episode.controls == driven).all() for episode in episodes), "as it was driven, to the bit"
    assert episodes[0].spec.domain == "plane"
    assert play(["--world", world]) == 1 and "this world has push, turn, brake" in capsys.readouterr().err
    common = [*SMALL, *TINY, "--loss.rollout", "1", "--train.steps", "1", "--data.validation_fraction", "0.5"]
    for name in ("a", "b"):  # one to learn from and one to look at
        (tmp_path / "more" / name).mkdir(parents=True)
        for shard in (tmp_path / "drives").glob("*.h5"):
            (tmp_path / "more" / name / f"shard-{name}.h5").write_bytes(shard.read_bytes())
    (tmp_path / "run" / "vae").mkdir(parents=True)
    (tmp_path / "run" / "vae" / "world").symlink_to(here / "run" / "vae" / "world")
    training.main(["student", *common, "--data.root", f"{tmp_path}/more", "--out", f"{tmp_path}/run"])
    assert (tmp_path / "run" / "student" / "world" / "model.safetensors").is_file()


def test_policies_are_judged_in_dream_and_simulator(here, tmp_path, capsys):
    words = ["judge", "--real", f"drivedit_env:{ENV}", "--world", str(here / "run" / "student" / "world")]
    few = ["--policies", "climber", "circler", "rester", "--starts", "2", "--horizon", "8", "--out", str(tmp_path)]
    assert agents.main([*words, *few]) == 0
    report = json.loads((tmp_path / "verdict.json").read_text())
    assert {"climber", "circler", "rester"} <= set(json.dumps(report).replace('"', " ").split())
    drive = ["drive", "--env", f"drivedit_env:{ENV}", "--agent", "climber", "--steps", "5"]
    assert agents.main([*drive, "--out", str(tmp_path / "true.mp4")]) == 0 and "return" in capsys.readouterr().out


def test_it_is_evaluated_on_held_out_drives(here, tmp_path, capsys):
    world = str(here / "run" / "student" / "world")
    words = ["world", "--world", world, "--quick", "--out", str(tmp_path)]
    assert evaluation.main(words) == 1 and "--domain plane --held-out" in capsys.readouterr().err
    assert evaluation.main([*words, "--held-out", str(here / "held"), "--write-card"]) == 0
    figures = json.loads((tmp_path / "report.json").read_text())["figures"]
    assert figures["psnr_1"] > 10 and np.isfinite(figures["mirrored_gain"])
    assert "true steering over mirrored" in (Path(world) / "CARD.md").read_text()
    assert (tmp_path / "sheet.png").stat().st_size > 1000


def test_it_is_shipped(here, tmp_path):
    template = tmp_path / "card.md"
    template.write_text("# plane\n\n{report}\n\n{commit} {parameters} {size}\n")
    (tmp_path / "report.md").write_text("as above\n")
    words = ["ship", "--world", f"{here}/run/student/world", "--report", str(tmp_path), "--template", str(template)]
    training.main([*words, "--to", f"{tmp_path}/shipped"])
    env = DriveDiTEnv(tmp_path / "shipped")
    first, _ = env.reset(seed=4)
    again, _ = DriveDiTEnv(here / "run" / "student" / "world").reset(seed=4)
    assert np.array_equal(first, again) and "# plane" in env.world.card


def test_a_reward_term_a_telemetry_value_and_a_control_are_a_line_each_of_its_config(plane, monkeypatch):
    spec = replace(
        plane.spec,
        controls=[*plane.spec.controls, Quantity("drag", 0, 2)],
        telemetry=[*plane.spec.telemetry, Quantity("far", 0, 40, 10.0, "m")],
        rewards={**plane.spec.rewards, "calm": RewardTerm("learned")},
    )
    monkeypatch.setattr("plane_world.domain.DOMAIN", replace(plane, spec=spec, policies=""))
    all_domains.cache_clear()
    simulator = load_object(plane.simulator)()

    def braked(rng):
        return AgentLike(np.array([1.0, 0.0, 0.0, 2.0], np.float32)), {"speed": 3.0}

    try:
        episode = record_episode(simulator, np.random.default_rng(0), 20, make=braked, domain="plane")
    finally:
        monkeypatch.undo()
        all_domains.cache_clear()
    assert (
        episode.spec == spec and episode.controls.shape == (20, 4) and list(episode.rewards) == ["near", "out", "calm"]
    )
    assert np.allclose(episode.rewards["calm"], -episode.telemetry["speed"][1:] / 10)
    assert np.allclose(episode.rewards["near"], np.exp(-episode.telemetry["far"][1:] / 6), atol=1e-6)
    assert episode.telemetry["speed"][-1] < 0.5 < episode.telemetry["speed"][0], "drag works"


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        ("nobody_is_here:DOMAIN", "nobody_is_here:DOMAIN is announced as a domain and cannot be imported: No module"),
        ("plane_world.domain:NOTHING", "must be a DomainConfig, got None"),
        ("drivedit.config.domains.carracing:DOMAIN", "more than once"),
    ],
)
def test_what_is_announced_and_is_no_domain_is_named(plane, entry, what, tmp_path, monkeypatch):
    place = tmp_path / "other-1.0.dist-info"
    place.mkdir()
    (place / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (place / "entry_points.txt").write_text(f"[drivedit.domains]\nother = {entry}\n")
    monkeypatch.syspath_prepend(tmp_path)
    all_domains.cache_clear()
    try:
        with pytest.raises((ValueError, ImportError), match=what):
            all_domains()
    finally:
        monkeypatch.undo()
        all_domains.cache_clear()


def test_an_unknown_domain_is_named_with_those_that_there_are(plane, capsys, tmp_path):
    assert data.main(["collect", "--domain", "moon", "--out", str(tmp_path)]) == 1
    assert re.search(r"no domain 'moon'; there are carracing, street, plane", capsys.readouterr().err)
