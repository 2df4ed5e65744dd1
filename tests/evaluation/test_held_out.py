"""Worlds judged on recorded drives alone: how drives are cut, what is refused, and what each figure means."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from fuzz.episodes import EVERYTHING, with_everything
from helpers.drawn_film import film

from drivedit.config import DEFAULT_WORLD, Quantity, StudentConfig, VAEConfig, WorldConfig, all_domains, find_domain
from drivedit.data.clips import fit_config
from drivedit.data.exchange.films import Plan, import_drives
from drivedit.evaluation import __main__ as command
from drivedit.evaluation import held_out
from drivedit.evaluation.dreams import Dream
from drivedit.evaluation.metrics.figures import BEST_PSNR
from drivedit.evaluation.reports import card, recorded_figures
from drivedit.evaluation.sizes import Sizes
from drivedit.evaluation.suites import recorded
from drivedit.evaluation.suites.benchmark import evaluate_world
from drivedit.models import DiTWorld
from drivedit.utils.shards import read_shard, write_shard

SMALL = Sizes(clips=6, horizon=20, rounds=1)
CONFIG = WorldConfig(
    vae=VAEConfig(latent_dim=8, hidden_dims=[8, 8, 16, 16], num_res_blocks=1, use_attention=False, temporal_kernel=1),
    student=StudentConfig(
        32, 32, 1, 2, dropout=0.0, tokens_per_frame=16, window=4, history=2, control_dim=7, route_dim=61
    ),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Films and what they became: `plain` 16 x 32, `large` 96 x 160 with positions, `training`, `short`, `rewarded`."""
    folder = tmp_path_factory.mktemp("films")
    sizes = {"plain": (16, 32), "large": (96, 160), "training": (16, 32), "short": (16, 32), "rewarded": (16, 32)}
    for name, size in sizes.items():
        video, table = film(
            folder, name, {"short": 1.2, "plain": 6.0}.get(name, 9.0), size, seed=len(name), places=name == "large"
        )
        if name == "rewarded":
            head, *lines = (folder / "rewarded.csv").read_text().splitlines()
            ended = [*[0] * (len(lines) - 2), 1, 1]
            rows = [
                f"{line},{0.1 * number % 1:.2f},{end}"
                for number, (line, end) in enumerate(zip(lines, ended, strict=True))
            ]
            (folder / "rewarded.csv").write_text("\n".join([f"{head},reward,terminated", *rows]) + "\n")
        plan = Plan(fps=15, size=size, episode_steps=60)
        import_drives(folder / f"{name}.rec", [video], [table], plan=plan, held_out=name != "training", progress=False)
    return folder


def untrained(held: held_out.HeldOut, **spec) -> DiTWorld:
    """A world of random weights that fits the drives; its heads are not zero, as they are before training."""
    torch.manual_seed(0)
    config = fit_config(CONFIG, held.drives)
    world = DiTWorld(replace(config, spec=replace(config.spec, **spec))).eval()
    for weight in world.heads.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    return world


def opened(folder, name: str) -> held_out.HeldOut:
    with held_out.opened(folder / f"{name}.rec") as held:
        return held


# -- drives ------------------------------------------------------------------------------------------------------


class Lengths:
    """Drives of which only the lengths matter."""

    def __init__(self, *steps: int) -> None:
        self.first = np.cumsum([0, *(count + 1 for count in steps)])


@pytest.mark.parametrize(
    ("steps", "expected", "context"),
    [
        ((120,), [(12, 100)], 8),  # from the end on; what is left is too short
        ((240,), [(24, 100), (132, 100)], 8),
        (
            (140, 140),
            [(0, 24), (32, 100), (141, 24), (173, 100)],
            8,
        ),  # long ones first, and short ones where they are few
        ((30, 12), [(0, 22), (31, 4)], 8),
        ((6,), [(0, 3)], 3),
    ],
)
def test_drives_are_cut_into_clips_from_their_ends(tmp_path, steps, expected, context):
    held = held_out.HeldOut(tmp_path, "")
    held.__dict__["drives"] = Lengths(*steps)
    clips = held_out.cut(held, 4, 100)
    assert list(zip(clips.first.tolist(), clips.steps.tolist(), strict=True)) == expected and clips.context == context
    ends = clips.first + clips.context + clips.steps
    assert (ends < held.drives.first[clips.drive + 1]).all() and (clips.first >= held.drives.first[clips.drive]).all()


def test_of_many_clips_some_are_taken_evenly_and_no_steps_are_an_error(tmp_path):
    held = held_out.HeldOut(tmp_path, "")
    held.__dict__["drives"] = Lengths(*[108] * 9, 50)
    clips = held_out.cut(held, 3, 100)
    assert clips.drive.tolist() == [0, 4, 8] and (clips.steps == 100).all()
    held.__dict__["drives"] = Lengths(1, 1)
    with pytest.raises(ValueError, match="two steps or more"):
        held_out.cut(held, 3, 100)


def test_what_does_not_fit_is_refused_and_both_are_named(folder, tmp_path, capsys):
    plain = opened(folder, "plain")
    world = untrained(plain)
    with pytest.raises(ValueError, match="pictures of 16 x 32 x 3, the recording 96 x 160 x 3"):
        evaluate_world(world, tmp_path, held_out=folder / "large.rec")
    with pytest.raises(ValueError, match="frames per second: 30, the recording 15"):
        evaluate_world(untrained(plain, dt=1 / 30), tmp_path, held_out=folder / "plain.rec")
    with pytest.raises(ValueError, match=r"telemetry: \['battery'\], the recording \[\]"):
        battery = untrained(plain, telemetry=[Quantity("battery")])
        evaluate_world(battery, tmp_path, held_out=folder / "plain.rec")
    with pytest.raises(ValueError, match="is a training recording.*--held-out"):
        evaluate_world(world, tmp_path, held_out=folder / "training.rec")
    with pytest.raises(ValueError, match="shows 64 x 64 at 16.67 fps, the world 16 x 32 at 15 fps.*give --held-out"):
        evaluate_world(untrained(plain, domain=DEFAULT_WORLD), tmp_path)
    with pytest.raises(ValueError, match=r"driven by \['steering', 'throttle'\], the world by \['bow', 'engine'\]"):
        controls = [Quantity("bow"), Quantity("engine")]
        evaluate_world(untrained(plain, **{**vars(find_domain(DEFAULT_WORLD).spec), "controls": controls}), tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no shard"):
        evaluate_world(world, tmp_path, held_out=tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder nothing/here"):
        evaluate_world(world, tmp_path, held_out="nothing/here")
    assert not list(tmp_path.iterdir()), "nothing was computed"


@pytest.mark.parametrize(
    ("domain", "why", "name"),
    [
        ("nowhere", "there is no simulator of the domain 'nowhere'", "NAME"),
        ("lake", r"the domain lake says nothing .* no probes", "lake"),
    ],
)
def test_a_world_that_cannot_be_probed_is_judged_by_recorded_drives(folder, tmp_path, monkeypatch, domain, why, name):
    shipped = find_domain(DEFAULT_WORLD)
    lake = replace(shipped, spec=replace(shipped.spec, domain="lake"), env_id="Lake-v0", public={}, probes="")
    monkeypatch.setattr(held_out, "all_domains", lambda: {**all_domains(), "lake": lake})
    drives = tmp_path / "drives"
    episodes = read_shard(folder / "plain.rec" / "shard-00000.h5")
    write_shard(drives / "shard-00000.h5", episodes, {"held_out": True, "env": lake.env_id})
    world = untrained(opened(folder, "plain"), domain=domain)
    with pytest.raises(ValueError, match=f"{why}.* give --held-out.* collect --domain {name} --held-out, or import"):
        evaluate_world(world, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    report = evaluate_world(world, tmp_path / "out", held_out=drives, sizes=SMALL, quiet=True)
    assert "psnr_1" in report["figures"] and re.search(why, report["left_out"][0])
    assert re.search(why, (tmp_path / "out" / "report.md").read_text())


def test_worlds_that_are_shipped_keep_their_cards(tmp_path, capsys):
    assert command.main(["world", "--out", str(tmp_path), "--write-card"]) == 1
    assert "carracing is none" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--clips", "--workers", "--sampling-steps"])
def test_counts_are_positive(option, capsys):
    assert command.main(["world", option, "0"]) == 1
    assert f"{option} must be at least 1, got 0" in capsys.readouterr().err


def test_figures_in_a_card_are_replaced_and_leave_it_when_the_world_learns_on(tmp_path):
    path = tmp_path / "CARD.md"
    path.write_text("# mine\n")
    for table in ("| one |", "| two |"):
        card.write_card(path, table, "python -m drivedit.evaluation world", "f00d")
    text = path.read_text()
    assert text.count(card.HEADING) == 1 and "| two |" in text and "| one |" not in text and "`f00d`" in text
    licence = "\n## Licence\n\nmine\n"
    assert card.without_figures(text + licence) == "# mine\n" + licence


# -- figures -----------------------------------------------------------------------------------------------------


def test_a_world_with_positions_is_told_the_route_and_judged_by_its_turns(folder, tmp_path):
    held = opened(folder, "large")
    world = untrained(held)
    assert world.config.student.route_dim and world.spec.names("telemetry") == ["speed"]
    report = evaluate_world(world, tmp_path, held_out=folder / "large.rec", sizes=SMALL, quiet=True)
    figures = report["figures"]
    assert {"turn_correlation", "distance_slope", "turn_left", "free_psnr_20", "told_speed", "kept_speed"} <= set(
        figures
    )
    assert report["route"] and "told the route" in (tmp_path / "report.md").read_text()


def test_short_drives_give_what_can_be_given_and_say_so(folder, tmp_path):
    held = opened(folder, "short")
    report = evaluate_world(untrained(held), tmp_path, held_out=folder / "short.rec", sizes=SMALL, quiet=True)
    assert report["held_out"]["longest"] == 9 and report["held_out"]["context"] == 8
    assert "psnr_1" in report["figures"] and "psnr_10" not in report["figures"]
    assert any("beyond 9 frames" in text for text in report["left_out"])


def test_a_clip_has_what_the_world_knows_of_its_drive(tmp_path):
    episode = with_everything(12, 0)
    episode.poses[:, :2] += 300
    write_shard(tmp_path / "shard-00000.h5", [episode], {"held_out": True})
    clips = held_out.cut(held_out.HeldOut(tmp_path, ""), 1, 4)
    spec = replace(EVERYTHING, conditions=["route"], attributes={"weather": ["fog"]})
    scene, agents = clips.scene(0, spec), episode.agents
    first, now = int(clips.first[0]), int(clips.first[0]) + clips.context
    assert list(scene.observations) == ["picture", "range"] and scene.attributes == {"weather": "fog"}
    assert scene.agents is not None and agents is not None and scene.poses is not None and scene.route is not None
    here, rows = np.append(episode.poses[now, :2], np.zeros(5)), slice(*agents.first[[first, now + 1]])
    assert np.allclose(scene.agents.boxes, agents.boxes[rows] - here, atol=1e-4) and not scene.poses[-1, :2].any()
    assert np.allclose(scene.route, episode.route - here[:2], atol=1e-4)
    assert clips.scene(0, spec, free=True).route is None and clips.scene(0, EVERYTHING).conditions == {}


class Perfect:
    """Dreams what the recording shows, whatever the controls, and notes the scenes."""

    def __init__(self, monkeypatch, clips: held_out.Clips, obedient: bool) -> None:
        self.clips, self.obedient = clips, obedient
        monkeypatch.setattr(recorded, "dream", self)
        monkeypatch.setattr(recorded, "reconstruct", lambda _, frames: frames)

    def __call__(self, world, scenes, controls, *, seed, **_) -> Dream:
        rows, steps = range(len(scenes)), controls.shape[1]
        drives = self.clips.held.drives

        def take(array, row):
            at = self.clips.first[row] + self.clips.context + 1
            return np.array(array[at : at + steps])

        frames = np.stack([take(drives.frames, row) for row in rows])
        wrong = np.array([not np.array_equal(take(drives.control, row), controls[row]) for row in rows])
        frames[wrong] = 255 - frames[wrong] if self.obedient else frames[wrong]
        reward, ended = (
            np.stack([take(drives.earned("progress"), row) for row in rows]),
            np.stack([take(drives.ended, row) for row in rows]),
        )
        nothing = np.zeros((len(scenes), steps))
        return Dream(frames, 2 * reward, ended * 0.9, nothing[..., None], nothing, np.zeros((len(scenes), steps, 3)))


def test_the_control_that_the_spec_names_is_mirrored_and_held_to_the_sides(folder, monkeypatch):
    held = opened(folder, "rewarded")
    world, clips, told = untrained(held), held_out.cut(held, 6, 20), []
    perfect = Perfect(monkeypatch, clips, True)
    monkeypatch.setattr(recorded, "dream", lambda *given, **how: told.append(given[2]) or perfect(*given, **how))
    monkeypatch.setattr(held.drives, "spec", replace(held.drives.spec, steering="throttle"))
    recorded.measure(world, clips, quiet=True)
    true, _, mirrored, left, straight, right, _ = told
    assert np.array_equal(mirrored, true[:, : mirrored.shape[1]] * [1, -1]) and np.abs(true[..., 1]).max() > 0.1
    assert (left[..., 1] < 0).all() and not straight[..., 1].any() and np.array_equal(right[..., 1], -left[..., 1])
    assert np.array_equal(left[..., 0], right[..., 0])
    assert "response to steering" not in str(recorded_figures.missing(world, clips, {}))
    monkeypatch.setattr(
        held.drives, "spec", replace(held.drives.spec, controls=[Quantity("a"), Quantity("b")], steering="")
    )
    assert "response to steering (which control turns is not known" in str(recorded_figures.missing(world, clips, {}))


@pytest.mark.parametrize("obedient", [True, False])
def test_a_perfect_world_has_perfect_figures(folder, monkeypatch, obedient):
    held = opened(folder, "rewarded")
    world = untrained(held)
    assert world.spec.rewards["progress"].value and world.config.end_threshold < 1
    clips = held_out.cut(held, 6, 20)
    Perfect(monkeypatch, clips, obedient)
    measured = recorded.measure(world, clips, quiet=True)
    curve = recorded_figures.curves(measured)
    figures = recorded_figures.figures(world, clips, measured, curve)
    assert figures["psnr_1"] == figures["psnr_20"] == figures["autoencoder_psnr_10"] == BEST_PSNR
    assert figures["sharpness_10"] == 1 and figures["copy_psnr_20"] < 40
    assert figures["reward"] == pytest.approx(1) and figures["ending_auc"] == 1 and figures["endings"] == 1
    assert figures["other_told"] == figures["mirrored_told"] == float(obedient)
    assert (figures["other_gain"] > 40) if obedient else (figures["other_gain"] == figures["mirrored_gain"] == 0)
    assert not {"turn_correlation", "told_speed"} & set(figures)
    told = dict((label, value) for label, value, _ in recorded_figures.lines(figures, 15.0))
    assert told["PSNR after 10 frames (0.67 s), dB"] == "60.0" and not any(
        math.isnan(value) for value in figures.values()
    )
