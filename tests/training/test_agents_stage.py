"""The agents stage: what is learnt of recordings, alignment, both methods, resuming, the command."""

import numpy as np
import pytest
import torch
from helpers.agents import SIZE, boxes_at, make_reader, peopled_episode, write_recordings

from drivedit.config import AgentsStageConfig, LoopConfig
from drivedit.data.clips import Drives
from drivedit.evaluation.agent_frames import AgentFrames, speeds_of
from drivedit.models.conditions.layout import moving
from drivedit.models.sets.agents import NUMBERS, AgentsReader
from drivedit.training.__main__ import main
from drivedit.training.agents import batches, held_figures
from drivedit.training.loop import train
from drivedit.training.methods.agents import AgentsMethod, align_agents, roughened
from drivedit.training.methods.method import Progress
from drivedit.utils import generator
from drivedit.utils.episodes import Agents

SMALL = [
    "--reader.image_size", str(list(SIZE)), "--reader.widths", "[8, 8, 8, 8]", "--reader.d_model", "16",
    "--reader.layers", "1", "--reader.heads", "2", "--reader.d_ff", "16", "--reader.sky", "0", "--reader.tokens", "3",
    "--reader.ego", '{"speed": 10.0}', "--data.validation_fraction", "0.3", "--loss.judged", "8", "--train.steps", "3",
    "--train.batch_size", "4", "--device", "cpu",
]  # fmt: skip


def frames_of(*episodes) -> AgentFrames:
    episodes = episodes or (peopled_episode(6, 0), peopled_episode(6, 1))
    return AgentFrames.of(Drives.of(episodes, episodes[0].spec), make_reader().config)


def test_recordings_tell_who_is_seen_from_the_own_car():
    episode = peopled_episode(6, 0)
    frames = frames_of(episode, peopled_episode(3, 1))
    assert episode.agents is not None
    there = episode.agents.boxes[0]
    assert frames.present.sum(1).tolist() == [1] * 11 and frames.known.all() and not frames.hidden.any()
    assert np.allclose(frames.boxes[:7, 0, :7], there, atol=1e-4)  # as far ahead at all states
    assert np.allclose(frames.boxes[:, 0, 7], 1 / episode.spec.dt, rtol=1e-3)
    assert np.flatnonzero(frames.begins).tolist() == [0, 7] and frames.ego.ravel().tolist() == [10.0] * 11
    index = np.array([0, 1, 7, 8])
    assert np.array_equal(frames.before(index), frames.frames[[0, 0, 7, 7]])
    episode.agents = None
    with pytest.raises(ValueError, match="no drive of these recordings knows"):
        frames_of(episode)


def test_speeds_are_those_of_layouts():
    rng, first = np.random.default_rng(0), np.array([0, 2, 4, 5, 7])
    boxes = np.concatenate([boxes_at(*rng.uniform(0, 9, (7, 2)).tolist())])[:, :7].astype(np.float32)
    boxes[:, 6] = rng.uniform(-3, 3, 7)
    agents = Agents(first, np.array([4, 2, 2, 4, 4, 9, 4]), boxes, np.zeros(7, np.int64))
    times = np.array([0.0, 0.1, 0.3, 0.4])
    state = np.repeat(np.arange(4), np.diff(first))
    told = speeds_of(agents.ids, boxes, state, np.zeros(4, int), times)
    assert np.allclose(told, np.concatenate(moving(agents, times))[:, 7], rtol=1e-4)


def test_alignment_brings_noise_to_those_who_are_there_and_no_other():
    rng = generator(0, "align")
    tokens, noise = torch.zeros(64, 3, NUMBERS), torch.randn(64, 3, NUMBERS, generator=rng)
    tokens[..., 0] = torch.tensor([1.0, 1.0, -1.0])
    tokens[:, :2, 1:] = torch.randn(64, 2, NUMBERS - 1, generator=rng)
    aligned = align_agents(noise, tokens, torch.ones(NUMBERS))
    assert torch.equal(aligned.sort(1).values, noise.sort(1).values) or torch.allclose(
        aligned.sum(1), noise.sum(1), atol=1e-5
    )
    there = tokens[..., :1] > 0

    def cost(order: torch.Tensor) -> torch.Tensor:
        apart = (tokens - order).square()
        return apart[..., 0].sum(1) + (apart * there)[..., 1:].sum((1, 2))

    assert (cost(aligned) <= cost(noise) + 1e-5).all() and (cost(aligned) < cost(noise) - 0.1).any()
    moved = tokens.clone()
    moved[:, 2, 1:] += 100  # nobody is there
    assert torch.equal(align_agents(noise, moved, torch.ones(NUMBERS)), aligned)


@pytest.mark.parametrize("kind", ["flow", "regression"])
def test_the_order_of_the_data_and_who_is_not_there_do_not_count(kind):
    frames = frames_of()
    batch, _ = batches(frames, np.array([1]), 4, 4)
    found = batch(generator(0, "batch"))
    method = AgentsMethod(make_reader(kind=kind), AgentsStageConfig(draws=2))

    def loss(**change: torch.Tensor) -> float:
        return method.loss({**found, **change}, Progress(0, 0.0), generator(0, "noise"))[0].item()

    order = [2, 0, 1]
    assert loss() == pytest.approx(loss(boxes=found["boxes"][:, order], present=found["present"][:, order]), rel=1e-5)
    beside = torch.where(found["present"][..., None], found["boxes"], torch.full_like(found["boxes"], 3.0))
    assert loss() == pytest.approx(loss(boxes=beside), rel=1e-5)
    assert loss() != pytest.approx(loss(present=~found["present"]), rel=1e-3)


def test_pictures_are_roughened_in_part_and_what_they_know_stays():
    x = torch.rand(32, 5, 8, 8, generator=generator(0, "x"))
    x[:, 4], x[16:, 3:] = 1.0, 0.0
    rough = roughened(x, 0.5, generator(0, "rough"))
    assert torch.equal(roughened(x, 0.0, generator(0, "rough")), x)
    assert torch.equal(rough[:, 4], x[:, 4]) and torch.equal(rough[16:, 3], x[16:, 3])
    changed = (rough != x)[:, :3].flatten(1).any(1)
    assert 0 < changed.sum() < 32 and (rough - x).abs().max() < 1.5


@pytest.mark.parametrize("kind", ["flow", "regression"])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path, kind):
    frames = frames_of()
    batch, _ = batches(frames, np.array([1]), 4, 4)

    def run(folder: str, *stops: int) -> dict[str, torch.Tensor]:
        for stop in stops:
            config = LoopConfig(steps=stop, lr=1e-3, warmup=1, cooldown=0.0, bf16=False, log_every=1)
            train(AgentsMethod(make_reader(kind=kind), AgentsStageConfig(draws=2)), batch, config, tmp_path / folder)
        return torch.load(tmp_path / folder / "last.pt", weights_only=True)["stage"]

    whole, parts = run("whole", 4), run("parts", 2, 4)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_one_car_is_learnt_from_few_pictures(tmp_path):
    """Of cars whose place a red square shows, many are found within 2 m after a short training."""
    episodes = [peopled_episode(1, seed) for seed in range(160)]
    frames = frames_of(*episodes)
    batch, held = batches(frames, np.arange(140, 160), 32, 40)
    reader = make_reader(d_model=32, d_ff=64, widths=(16, 24, 32, 32), heads=2)
    loss = AgentsStageConfig(draws=4, roughen=0.0)
    config = LoopConfig(steps=250, lr=5e-3, warmup=20, bf16=False, ema=0.98, log_every=100, cooldown=0.5)
    best = train(AgentsMethod(reader, loss), batch, config, tmp_path)
    assert isinstance(best, AgentsMethod)
    figures = held_figures(best.reader, frames, held, loss)
    assert figures["recall"] > 0.4 and figures["precision"] > 0.4, figures  # 0.2 by chance


def test_the_command_trains_both_kinds_and_writes_their_files(tmp_path, capsys):
    root = write_recordings(tmp_path / "recordings", [peopled_episode(4, seed) for seed in range(4)])
    words = ["agents", *SMALL, "--data.root", str(root), "--out", str(tmp_path / "run")]
    assert main(words) == 0 and main([*words, "--regression"]) == 0
    for name, kind in (("agents", "flow"), ("agents-regression", "regression")):
        assert AgentsReader.load(tmp_path / "run" / name / "agents.safetensors").config.kind == kind
    capsys.readouterr()
    assert main([*words[:-2], "--out", str(tmp_path / "other"), "--data.stream", "true"]) == 1
    assert "leave out data.stream" in capsys.readouterr().err
    wrong = [*words, "--reader.image_size", "[64, 64]"]
    assert main(wrong) == 1 and "takes pictures" in capsys.readouterr().err
    assert main([*words, "--reader.ego", '{"altitude": 1.0}']) == 1 and "altitude" in capsys.readouterr().err
