"""The published mains: recordings and films become a transformer in the one loop, and its few-step student."""

import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from helpers.films import write_table, write_video
from helpers.processes import run_processes
from helpers.training import make_episode
from safetensors.torch import load_file

from drivedit.config import MODEL_TYPES, VAEConfig
from drivedit.data.recordings import write_shard
from drivedit.models.dits import TRANSFORMERS, VideoTransformer3DModel
from drivedit.models.flow.phases import EulerSolver
from drivedit.models.flow.schedules import training_levels
from drivedit.models.text_encoder import HunyuanTextEncoder
from drivedit.models.vaes import WanVAE
from drivedit.training.api import distill, train
from drivedit.training.api.arguments import DistillationArguments, TrainingArguments
from drivedit.training.api.prompted import PromptedClips, read_list
from drivedit.training.methods import text_video
from drivedit.training.methods.method import Progress
from drivedit.training.methods.text_video import PhaseOptions, TextVideoPhases
from drivedit.utils import generator


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A list of two recordings, and a folder with an autoencoder for `mochi`."""
    folder = tmp_path_factory.mktemp("data")
    for name, seed in (("day", 0), ("night", 2)):
        write_shard(folder / name / "shard-00000.h5", [make_episode(12, seed), make_episode(9, seed + 1)])
    entries = [{"recording": "day", "prompt": "a bend"}, "night"]
    (folder / "list.json").write_text(json.dumps(entries))
    torch.manual_seed(0)
    WanVAE(VAEConfig(3, 12, [4, 4, 8, 8], 1, False, temporal_kernel=1)).save(folder / "vae.safetensors")
    return folder


def arguments(data, out, **changes) -> Namespace:
    small = {
        "data_json_path": str(data / "list.json"), "pretrained_model_name_or_path": str(data), "output_dir": str(out),
        "train_batch_size": 2, "max_train_steps": 3, "num_frames": 5, "d_model": 16, "n_layers": 1, "n_heads": 2,
        "text_width": 8, "device": "cpu", "mixed_precision": "no",
    }  # fmt: skip
    return Namespace(**small | changes)


def curve(out) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "run" / "curve.jsonl").read_text().splitlines()]


def test_recordings_become_a_transformer_and_that_a_student(data, tmp_path):
    out, short = tmp_path / "teacher", tmp_path / "student"
    train.main(arguments(data, out, log_validation=True, max_train_steps=20))
    made = TRANSFORMERS["mochi"].load(out / "transformer.safetensors")
    assert made.config.in_channels == 12 and made.config.grid == (4, 4) and made.config.d_model == 16
    assert WanVAE.load(out / "vae.safetensors").config.latent_dim == 12
    assert "val/loss" in curve(out)[-1] and curve(out)[0]["step"] == 20
    teaching = {"teacher_model_path": str(out), "pretrained_model_name_or_path": "", "num_euler_timesteps": 4}
    more = teaching | {"multi_phased_distill_schedule": "2-4,3-2", "use_ema": True, "distill_cfg": 1.0}
    distill.main(arguments(data, short, **more))
    student = TRANSFORMERS["mochi"].load(short / "transformer.safetensors")
    assert student.config == made.config and not torch.equal(student.of_text.weight, made.of_text.weight)
    x = torch.randn(1, 12, 2, 8, 8)
    assert student(x, torch.zeros(1, 3, 8), torch.full((1,), 500.0)).shape == x.shape


def test_a_run_goes_on_where_it_stopped(data, tmp_path):
    for out, stops in (("whole", (4,)), ("parts", (2, 4))):
        for stop in stops:
            train.main(arguments(data, tmp_path / out, max_train_steps=stop, seed=3))
    one, two = (
        torch.load(tmp_path / out / "run" / "last.pt", weights_only=True)["stage"] for out in ("whole", "parts")
    )
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_adapters_alone_are_trained_and_merged_at_the_end(data, tmp_path):
    start, out = tmp_path / "start", tmp_path / "adapted"
    train.main(arguments(data, start))
    train.main(arguments(data, out, pretrained_model_name_or_path=str(start), use_lora=True, lora_rank=2))
    before, after = (TRANSFORMERS["mochi"].load(f / "transformer.safetensors").state_dict() for f in (start, out))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"trunk.blocks.0.qkv.weight", "trunk.blocks.0.out.weight"}
    assert (out / "lora.safetensors").is_file()


def adapted_in_shards(_rank: int, data: Path, out: Path) -> None:
    train.main(arguments(data, out, use_lora=True, lora_rank=2, use_cpu_offload=True, learning_rate=1e-2))


def test_adapters_in_shards_learn_what_one_process_learns(data, tmp_path):
    """Adapters that are added after the network is spread are never synchronised elsewhere: here they come before."""
    one, two = tmp_path / "one", tmp_path / "two"
    train.main(arguments(data, one, use_lora=True, lora_rank=2, gradient_accumulation_steps=2, learning_rate=1e-2))
    run_processes(2, adapted_in_shards, data, two)
    first, second = (load_file(out / "lora.safetensors") for out in (one, two))
    assert first.keys() == second.keys() and any(
        value.abs().max() > 1e-3 for name, value in first.items() if ".b" in name
    )
    assert all(torch.allclose(first[name], second[name], atol=1e-5) for name in first)


def test_what_is_missing_or_wrong_is_told(data, tmp_path):
    def fails(error, match, main=train.main, **changes):
        with pytest.raises(error, match=match):
            main(arguments(data, tmp_path / "out", **changes))

    fails(ValueError, "data_json_path must be given", data_json_path="")
    fails(FileNotFoundError, "there is no list", data_json_path=str(tmp_path / "none.json"))
    fails(FileNotFoundError, "no pretrained text-to-video weights", pretrained_model_name_or_path=str(tmp_path))
    fails(ValueError, "latents of 16 channels.* makes 12", model_type="wan")
    fails(ValueError, "model_type must be one of mochi", model_type="sora")
    fails(ValueError, "mixed_precision must be one of no, bf16, got 'fp16'", mixed_precision="fp16")
    fails(ValueError, r"4 k \+ 1", num_frames=8)
    fails(ValueError, "no drive has 41 frames", num_frames=41)
    fails(KeyError, "unknown key learning_rat;", learning_rat=1e-3)
    fails(ValueError, "must divide the number of processes", sp_size=3)
    teach = {"teacher_model_path": str(data), "main": distill.main}
    fails(ValueError, "teacher_model_path must be given", main=distill.main)
    fails(FileNotFoundError, "there is no .*transformer.safetensors", **teach)
    fails(ValueError, "from 1 to 4 phases of 4 points, got 8", num_euler_timesteps=4,
          multi_phased_distill_schedule="2000-2,4000-4,6000-8", **teach)  # fmt: skip
    fails(ValueError, "a schedule of phases", multi_phased_distill_schedule="soon", **teach)
    fails(ValueError, "pred_decay_type must be one of l1, l2", pred_decay_type="l3", **teach)


def test_the_tables_have_the_published_defaults():
    made = TrainingArguments("list.json")
    published = {
        "model_type": "mochi", "train_batch_size": 16, "max_train_steps": None, "learning_rate": 1e-4,
        "use_lora": False, "lora_rank": 128, "lora_alpha": 256, "sp_size": 1,
    }  # fmt: skip
    assert {name: getattr(made, name) for name in published} == published
    teaching = DistillationArguments("list.json", teacher_model_path="x")
    assert (teaching.num_euler_timesteps, teaching.distill_cfg, teaching.ema_decay) == (50, 3.0, 0.95)
    assert set(MODEL_TYPES) >= {"mochi", "hunyuan_hf", "hunyuan"}


def test_lists_name_recordings_and_films(data, tmp_path):
    sources = read_list(data / "list.json", tmp_path)
    assert [source.prompt for source in sources] == ["a bend", None] and sources[1].folder == data / "night"
    video, table = write_video(tmp_path / "drive.mp4", range(90)), write_table(tmp_path / "drive.csv")
    entry = {"video": video.name, "controls": table.name, "prompt": "my street"}
    (tmp_path / "films.json").write_text(json.dumps([entry]))
    for _ in range(2):  # the second time it is there
        (film,) = read_list(tmp_path / "films.json", tmp_path / "imported")
    assert film.prompt == "my street" and list(film.folder.glob("shard-*.h5"))
    for wrong in (
        [],
        {},
        [{"recording": "a", "video": "b", "controls": "c"}],
        [{"video": "b"}],
        [{"caption": "a"}],
        [3],
    ):
        (tmp_path / "wrong.json").write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match="must be a list|an entry is"):
            read_list(tmp_path / "wrong.json", tmp_path)
    (tmp_path / "wrong.json").write_text("[")
    with pytest.raises(ValueError, match="no JSON"):
        read_list(tmp_path / "wrong.json", tmp_path)


def test_clips_come_with_their_words_and_some_are_told_none(data, tmp_path):
    vae = WanVAE.load(data / "vae.safetensors")
    sources = read_list(data / "list.json", tmp_path)
    clips = PromptedClips(sources, vae, HunyuanTextEncoder(width=8), 5, untold=0.5, held_out=True)
    batch = clips.draw(generator(0, "draw", 0), 64)
    assert batch["latents"].shape == (64, 12, 2, 8, 8) and batch["text"].shape == (64, 64, 8)
    words = HunyuanTextEncoder(width=8).encode("a bend", max_sequence_length=64)
    told = torch.stack([torch.equal(row, words[0][0]) * torch.ones(1) for row in batch["text"]]).mean()
    assert 0.1 < told < 0.5 and (batch["mask"].sum(1) == 2).float().mean() == told
    same = clips.draw(generator(0, "draw", 0), 64)
    assert all(torch.equal(batch[name], same[name]) for name in batch)
    held = {(number, start) for number, start, _ in clips.held}
    shown = {(number, at) for number, start, _ in clips.clips for at in range(start, start + 5)}
    assert held and not held & shown


def test_the_schedule_of_a_run_is_counted_in_its_steps(monkeypatch):
    seen = []
    network, solver = VideoTransformer3DModel(3, 1, 8, 1, 1, 4, (2, 2)), EulerSolver(training_levels(4), 4, 4)
    method = TextVideoPhases(network, network, solver, "1-4,2-2", PhaseOptions())

    def distance(networks, latents, words, index, noise, solver, options):
        seen.append(options.multiphase)
        return latents.mean(), latents

    monkeypatch.setattr(text_video, "phase_distance", distance)
    for step in range(4):
        batch = {"latents": torch.zeros(2, 3, 1, 2, 2), "text": torch.zeros(2, 1, 4)}
        method.loss(batch, Progress(step, 0.0), torch.Generator())
    assert seen == [4, 2, 2, 2]
