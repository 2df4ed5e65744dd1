"""Clips of a world: what the environment dreams, in start scenes that words choose, as films that go on."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import gymnasium as gym
import numpy as np
import pytest
import torch
from helpers.worlds import BOXES, make_peopled_world, spec_of

from drivedit.config import InferenceArgs, WorldSpec
from drivedit.inference import DreamPipeline, InferenceEngine, films, generate
from drivedit.inference import __main__ as dispatcher
from drivedit.models import DiTWorld

WEATHER = {
    "weather": ["clear", "rain"],
    "time": ["day", "night"],
    "traffic": ["none", "light"],
    "lamps": ["none", "big ones"],
}


def engine_of(world: DiTWorld, **settings: Any) -> InferenceEngine:
    return InferenceEngine(DreamPipeline(world), InferenceArgs("world", "in memory", **settings))


def swinging(steps: int) -> np.ndarray:
    return np.stack([0.5 * np.sin(np.arange(steps)), np.full(steps, 0.3)], 1).astype(np.float32)


def command(words: str, *more: str) -> int:
    return dispatcher.main([*words.split(), *more])


# -- the same dream as the environment's -------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"scene": 2}, {"route": "random"}])
def test_a_clip_is_what_the_environment_dreams(fast_world, options):
    """Bit for bit: it enters, draws and steps as the environment does."""
    controls = swinging(6)
    done = engine_of(fast_world, seed=11).run(controls=torch.from_numpy(controls), options=options)
    env: Any = gym.make("drivedit_env:DriveDiT-v0", world=fast_world)
    seen = [env.reset(seed=11, options=options)[0]] + [env.step(action)[0] for action in controls]
    frames = (done["samples"][0] * 255).round().byte().permute(1, 2, 3, 0).numpy()
    assert np.abs(frames.astype(int) - np.stack(seen)).max() <= 1  # decoded together
    latents = engine_of(fast_world, seed=11, output_type="latent").run(
        controls=torch.from_numpy(controls), options=options
    )["samples"]
    assert torch.equal(latents[0, :, -1], env.unwrapped.get_state().world.latents[0, 0])
    assert done["size"] == (64, 64, 7) and done["seeds"] == [11] and done["ended"] == [None]


def test_rows_have_their_own_seeds_scenes_and_controls(tiny_world):
    controls = torch.from_numpy(np.stack([swinging(3), -swinging(3)]))
    engine = engine_of(tiny_world, seed=3, output_type="latent")
    both = engine.run(["", ""], controls=controls, options=[{"scene": 0}, {"scene": 1}])
    assert both["scenes"] == [0, 1] and both["seeds"] == [3, 4]
    alone = engine.run("", replace(engine.args, seed=4), controls=controls[1], options={"scene": 1})["samples"]
    assert torch.allclose(alone, both["samples"][1:], atol=1e-4)
    again = engine.run(["", ""], controls=controls, options=[{"scene": 0}, {"scene": 1}])["samples"]
    assert torch.equal(again, both["samples"])
    still = engine.run("", replace(engine.args, num_frames=3))["samples"]
    assert still.shape[2] == 3


def test_others_are_told_as_the_environment_tells_them():
    world = make_peopled_world()
    log = [BOXES + [0, 0.7 * step, 0, 0, 0, 0, 0, 0] for step in range(3)]
    options = {"scene": 0, "layout": log}
    done = engine_of(world, output_type="latent").run(controls=torch.zeros(4, 2), options=options)["samples"]
    env: Any = gym.make("drivedit_env:DriveDiT-v0", world=world, obs_type="latent")
    env.reset(seed=1024, options=options)
    seen = [env.step(np.zeros(2, np.float32))[0] for _ in range(4)]
    assert torch.allclose(done[0].transpose(0, 1)[1:], torch.from_numpy(np.stack(seen)), atol=1e-5)


def test_a_drive_s_end_is_told(tiny_world):
    always = DiTWorld(replace(tiny_world.config, end_threshold=0.0), tiny_world.scenes)
    always.load_state_dict(tiny_world.state_dict())
    assert engine_of(always.eval(), num_frames=4).run()["ended"] == [1]


def test_guidance_reaches_the_world(tiny_world):
    with pytest.raises(ValueError, match="takes no guidance on its controls, got 2"):
        engine_of(tiny_world, num_frames=3, guidance_scale=2.0).run()
    taught = DiTWorld(replace(tiny_world.config, null_control=True), tiny_world.scenes)
    taught.load_state_dict(tiny_world.state_dict())
    plain, guided = (
        engine_of(taught.eval(), num_frames=3, guidance_scale=scale, output_type="latent").run()["samples"]
        for scale in (1.0, 2.0)
    )
    assert not torch.allclose(plain[:, :, 1:], guided[:, :, 1:], atol=1e-3)
    assert torch.equal(plain[:, :, 0], guided[:, :, 0])


@pytest.mark.parametrize(
    ("settings", "given", "message"),
    [
        ({"height": 32}, {}, "frames are 64 x 64, got height 32"),
        ({"width": 0}, {}, "got width 0"),
        ({"num_frames": 1}, {}, "at least 1 more frame, got 1"),
        ({"num_frames": None}, {}, "how long is the clip"),
        ({"num_inference_steps": 0}, {}, "num_inference_steps must be at least 1"),
        ({}, {"negative_prompt": "blur"}, "takes no negative_prompt"),
        ({}, {"controls": torch.zeros(5, 3)}, r"controls must be \[1, T - 1, 2\] .*got \[5, 3\]"),
        ({}, {"controls": torch.zeros(2, 5, 2)}, r"controls must be \[1"),
        ({"num_frames": 9}, {"controls": torch.zeros(5, 2)}, "9 frames need 8 controls, got 5"),
        ({}, {"controls": torch.full((5, 2), 1.5)}, "controls must be finite, steering in"),
        ({}, {"controls": torch.full((5, 2), torch.nan)}, "controls must be finite"),
        ({}, {"options": {"scene": 9}}, "option scene is an index from 0 to 2"),
        ({}, {"options": {"weather": "rain"}}, "reset options are"),
        ({}, {"options": [{}, {}]}, "got 2"),
        ({}, {"seeds": [1, 2]}, "one seed and one prompt for each clip"),
    ],
)
def test_what_a_world_cannot_dream_is_named(tiny_world, settings, given, message):
    with pytest.raises(ValueError, match=message):
        engine_of(tiny_world, **{"num_frames": 4, **settings}).run(**given)


@pytest.fixture
def weathered(tiny_world) -> DiTWorld:
    """A world whose scenes are of three kinds."""
    kinds = [
        {"weather": "clear", "time": "day"},
        {"weather": "rain", "time": "day"},
        {"weather": "rain", "time": "night"},
    ]
    spec: WorldSpec = replace(tiny_world.spec, attributes=WEATHER)
    scenes = [replace(scene, attributes=kind) for scene, kind in zip(tiny_world.scenes, kinds, strict=True)]
    world = DiTWorld(replace(tiny_world.config, spec=spec), scenes)
    world.load_state_dict(tiny_world.state_dict())
    return world.eval()


def test_a_prompt_chooses_the_scene(weathered):
    engine = engine_of(weathered, num_frames=2)
    assert engine.run("night rain")["scenes"] == [2]
    assert set(engine.run(["rain"] * 12)["scenes"]) == {1, 2}
    with pytest.raises(ValueError, match="no scene of this world has the attributes"):
        engine.run("clear night")
    with pytest.raises(ValueError, match="scene and attributes exclude each other"):
        engine.run("rain", options={"scene": 0})


# -- films -------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tiny_world, tmp_path, monkeypatch) -> Path:
    world = copy.deepcopy(tiny_world)
    world.latent_std.fill_(100)  # its pictures are else all of one grey
    world.save_pretrained(tmp_path / "world")
    monkeypatch.chdir(tmp_path)
    np.savetxt("drive.csv", swinging(5), delimiter=",", header="steering,throttle", comments="")
    return tmp_path


def frames_of(path: str | Path) -> int:
    with av.open(str(path)) as film:
        return sum(1 for _ in film.decode(video=0))


def test_the_command_films_a_clip(folder, capsys):
    assert command("generate --world ./world --scene random --controls drive.csv --out clip.mp4") == 0
    assert capsys.readouterr().out.strip() == "clip.mp4" and frames_of("clip.mp4") == 6
    assert command("generate --world ./world --frames 4 --height 128 --out large.webp") == 0
    assert command("generate --world ./world --prompt rain") == 1
    assert "has no attributes" in capsys.readouterr().err


def test_a_batch_goes_on_where_it_was(folder, monkeypatch, capsys):
    """What is there stays, what is missing is made as if nothing had been interrupted; other settings are refused."""
    words = "generate --world ./world --scene 0 1 random --controls drive.csv --together 2 --clips"
    assert command(words, "5", "--out", "whole") == 0
    whole = {path.name: path.read_bytes() for path in Path("whole").glob("*.mp4")}
    assert sorted(whole) == [f"clip-{number:05d}.mp4" for number in range(5)] and len(set(whole.values())) == 5
    written, write = [], films.write_film

    def stopped(path, *arguments, **options):
        written.append(Path(path).name)
        if len(written) == 4:
            raise KeyboardInterrupt
        write(path, *arguments, **options)

    monkeypatch.setattr("drivedit.inference.generate.write_film", stopped)
    assert command(words, "5", "--out", "broken") == 130
    assert sorted(path.name for path in Path("broken").glob("*.mp4")) == sorted(whole)[:3]
    assert command(words, "5", "--out", "broken") == 0
    assert written[4:] == ["clip-00003.mp4", "clip-00004.mp4"]
    assert {path.name: path.read_bytes() for path in Path("broken").glob("*.mp4")} == whole
    assert command(words, "5", "--out", "broken", "--seed", "1", "--height", "128") == 1
    assert "broken has clips with another height, seed: choose another folder" in capsys.readouterr().err
    assert json.loads(Path("broken/clips.json").read_text())["seed"] == 0
    assert command(words, "7", "--out", "broken") == 0 and len(list(Path("broken").glob("*.mp4"))) == 7


def test_routes_and_others_are_tables(folder, capsys):
    angle = np.linspace(0, 2 * np.pi, 80)
    ellipse = np.stack([90 * np.cos(angle), 60 * np.sin(angle)], 1)
    np.savetxt("road.csv", ellipse, delimiter=",", header="x,y", comments="")
    words = "generate --world ./world --frames 3 --out clip.mp4"
    assert command(words, "--route", "road.csv", "--closed") == 0
    assert command(words, "--route", "random") == 0
    assert command(words, "--route", "winding") == 1
    assert command(words, "--layout", "scene") == 1
    told = capsys.readouterr().err
    assert "option route is 'random' or an array" in told and "layout" in told


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steering\n0\n", "must have the columns steering, throttle .*got steering and 1 lines"),
        ("steering,throttle\n", "got steering, throttle and 0 lines"),
        ("steering,throttle\n0,1\n0,much\n", "throttle in line 3 of .* must be a finite number"),
        ("steering,throttle\n0,1\n0\n", "throttle in line 3"),
        ("steering,throttle\n0,nan\n", "throttle in line 2"),
        ("time,steering,throttle\n0,0,0\n0,0,0\n", "time in .* must increase"),
    ],
)
def test_tables_that_tell_no_controls_are_named(tmp_path, text, message):
    (tmp_path / "drive.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        films.read_controls(tmp_path / "drive.csv", spec_of())


def test_tables_with_times_are_read_at_the_world_s_steps(tmp_path):
    path = tmp_path / "drive.csv"
    path.write_text("time,Throttle,steering,speed\n5,0,0,1\n5.5,0,1,x\n6,1,1,x\n")
    driven = films.read_controls(path, spec_of(dt=0.25))
    assert driven.dtype == np.float32 and driven.tolist() == [[0, 0], [0.5, 0], [1, 0], [1, 0.5], [1, 1]]
    path.write_text("throttle,steering\n0.5,1\n")
    assert films.read_controls(path, spec_of()).tolist() == [[1, 0.5]]
    with pytest.raises(FileNotFoundError, match="there is no table"):
        films.read_controls(tmp_path / "none.csv", spec_of())


def test_the_published_command_films_worlds_and_refuses_what_is_not_shipped(folder, capsys):
    words = "--model_type world --model_path ./world --num_frames 3 --output_path film.mp4"
    assert generate.main([*words.split()]) == 0 and frames_of("film.mp4") == 3
    words = "--model_type mochi --model_path nothing --prompt sunset --output_path no.mp4"
    assert generate.main([*words.split()]) == 1 and command("video " + words.replace("_", "-")) == 1
    assert capsys.readouterr().err.count("no pretrained text-to-video weights") == 2 and not Path("no.mp4").exists()
    with pytest.raises(SystemExit):
        generate.main(["--prompt", "sunset"])
