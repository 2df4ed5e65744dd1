"""The trainer of PixelHDM: what a step reaches, memory that runs out, runs that go on, and what is refused."""

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from drivedit.config import PixelHDMConfig
from drivedit.config.pixel_training import DataConfig, TrainingConfig
from drivedit.data import create_dataloader_from_config_v2
from drivedit.models import PixelHDM, create_pixelhdm_for_t2i_from_config, create_pixelhdm_from_config
from drivedit.training.methods.method import Progress
from drivedit.training.methods.pixel import PixelMatching
from drivedit.training.pixel_trainer import Trainer, create_trainer
from drivedit.training.zclip import WARM, ZClip

CONFIG = PixelHDMConfig.for_testing()
FULL = replace(CONFIG, repa_enabled=True, freq_loss_enabled=True, text_hidden_size=24)
PLAIN = TrainingConfig(learning_rate=1e-3, mixed_precision="no")
MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB."


def make(config: PixelHDMConfig = CONFIG, training: TrainingConfig = PLAIN, **more: Any) -> Trainer:
    torch.manual_seed(0)
    model = create_pixelhdm_for_t2i_from_config(config, load_dino_encoder=config.repa_enabled)
    return create_trainer(model, config, training, **more)


def make_batch(size: int = 4) -> dict[str, Any]:
    images = torch.rand(size, 3, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return {"images": images, "captions": [f"road number {n}" for n in range(size)]}


def projector(trainer: Trainer) -> torch.Tensor:
    """Weights of the projector that features are aligned through."""
    assert trainer.method.losses.alignment is not None
    return trainer.method.losses.alignment.projector.weight.detach().clone()


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.method.parameters()])


class RunsOut:
    """A network's forward pass that runs out of memory at its first calls, and notes how many pictures it was given."""

    def __init__(self, trainer: Trainer, times: int, error: Exception | None = None) -> None:
        self.forward, self.left, self.sizes = trainer.model.forward, times, []
        self.error = error or torch.OutOfMemoryError(MEMORY)
        trainer.model.forward = self  # type: ignore[method-assign]

    def __call__(self, x: torch.Tensor, *given: Any, **named: Any) -> Any:
        self.sizes.append(len(x))
        self.left -= 1
        if self.left >= 0:
            raise self.error
        return self.forward(x, *given, **named)


# -- a step ----------------------------------------------------------------------------------------------------------


def test_a_step_reaches_every_weight_and_the_projector_too():
    config = replace(FULL, cfg_dropout=0.0)
    model = create_pixelhdm_for_t2i_from_config(config)
    method = PixelMatching(model, model.text_encoder, model.dino_encoder)
    loss, parts = method.loss(make_batch(), Progress(0, 0.0), torch.Generator().manual_seed(0))
    loss.backward()
    without = [name for name, p in method.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == [] and method.losses.alignment is not None
    assert {id(p) for p in method.losses.parameters()} <= {id(p) for p in method.groups(0)[0].parameters}
    assert loss.item() == pytest.approx(sum(map(float, parts.values()))) and all(part > 0 for part in parts.values())


def test_a_step_tells_its_figures_and_moves_projector_and_averages():
    trainer, batch = make(FULL), make_batch()
    before, aligned = weights(trainer), projector(trainer)
    figures = trainer.train_step(batch)
    assert list(figures) == ["loss", "vloss", "freq_loss", "repa_loss", "gamma_l2", "grad_norm", "lr"]
    assert figures["lr"] == 1e-3 and trainer.step == 1
    assert (weights(trainer) != before).float().mean() > 0.99
    assert not torch.equal(projector(trainer), aligned)
    trainer.train_step(batch)
    assert not torch.equal(trainer.averaged.out.weight, trainer.model.out.weight)


def test_alignment_ends_and_its_encoder_is_no_longer_asked():
    trainer = make(replace(FULL, repa_early_stop=1))
    assert trainer.train_step(make_batch())["repa_loss"] > 0
    assert trainer.method.losses.alignment is not None
    trainer.method.losses.alignment._encoder = (None,)  # which would be an error, were it asked
    assert trainer.train_step(make_batch())["repa_loss"] == 0.0


def test_the_rate_rises_while_it_is_warm():
    trainer = make(training=replace(PLAIN, warmup_steps=4))
    rates = [trainer.train_step(make_batch())["lr"] for _ in range(6)]
    assert rates == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3, 1e-3])


def test_a_share_of_captions_is_left_out():
    told = {}
    for share in (0.0, 1.0):
        config = replace(CONFIG, cfg_dropout=share)
        method = PixelMatching(model := create_pixelhdm_for_t2i_from_config(config), model.text_encoder)
        told[share] = method.draw(make_batch(), torch.Generator().manual_seed(0))
    assert told[0.0]["text_mask"].sum(1).tolist() == [3, 3, 3, 3] and told[1.0]["text_mask"].sum() == 0
    assert told[1.0]["pooled_text_embed"].abs().sum() == 0 and torch.equal(told[0.0]["noisy"], told[1.0]["noisy"])
    method = PixelMatching(model, model.text_encoder)
    model.config = replace(CONFIG, cfg_dropout=0.25)
    drawn = method.draw(make_batch(400), torch.Generator().manual_seed(0))
    assert 70 <= (~drawn["text_mask"].any(1)).sum() <= 130  # 100 are expected with a deviation of 8.7


# -- memory that runs out --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("times", "sizes"), [(1, [4, 4]), (2, [4, 4, 2, 2]), (3, [4, 4, 2, 1, 1, 1, 1])])
def test_memory_that_runs_out_loses_nothing(times, sizes):
    """Once: the same batch again; then in halves; and the step is that of the whole batch."""
    calm, short = make(FULL), make(FULL)
    counted = RunsOut(short, times)
    calm_figures, figures = calm.safe_train_step(make_batch()), short.safe_train_step(make_batch())
    assert counted.sizes == sizes and figures is not None and calm_figures is not None
    assert figures == pytest.approx(calm_figures, rel=1e-4)
    grads = [p.grad is None for p in short.method.parameters()]
    assert all(grads) and torch.allclose(weights(short), weights(calm), atol=2e-4)  # a step of AdamW is 1e-3
    assert (weights(short) - weights(calm)).abs().mean() < 1e-6


def test_gradients_of_parts_add_up_to_that_of_the_whole():
    found = []
    for times in (0, 2):
        trainer = make(FULL)
        RunsOut(trainer, times)
        trainer.steps.take = lambda step, of=trainer: found.append(  # type: ignore[method-assign]
            torch.cat([p.grad.flatten() for p in of.method.parameters() if p.grad is not None])
        )
        trainer.safe_train_step(make_batch(5))  # halves of 3 and 2 pictures
    assert torch.allclose(*found, atol=1e-6) and found[0].norm() > 0.1


def test_memory_that_never_suffices_leaves_the_weights_as_they_were():
    trainer = make()
    before = weights(trainer)
    counted = RunsOut(trainer, 4)
    assert trainer.safe_train_step(make_batch()) is None and counted.sizes == [4, 4, 2, 1]
    assert torch.equal(weights(trainer), before) and trainer.step == 0
    assert trainer.safe_train_step(make_batch()) is not None  # and the next one goes well
    again = make()
    RunsOut(again, 1)
    assert again.safe_train_step(make_batch(), max_retries=0) is None


def test_captions_stay_with_their_pictures_in_parts():
    trainer, seen = make(replace(CONFIG, cfg_dropout=0.0)), []
    error = trainer.method.error
    trainer.method.error = lambda drawn, now: seen.append(drawn) or error(drawn, now)  # type: ignore[method-assign]
    trainer.train_step(make_batch(5))
    whole = seen.pop()
    trainer.step = 0
    trainer._step(make_batch(5), 2)
    assert [len(part["clean"]) for part in seen] == [3, 2]
    for name in whole:
        assert torch.equal(torch.cat([part[name] for part in seen]), whole[name]), name


def test_other_errors_pass():
    for error in (ValueError("a wrong shape"), RuntimeError("another fault")):
        trainer = make()
        counted = RunsOut(trainer, 9, error)
        with pytest.raises(type(error), match=str(error)):
            trainer.safe_train_step(make_batch())
        assert counted.sizes == [4]
    trainer = make()
    RunsOut(trainer, 9)
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        trainer.safe_train_step(make_batch(), retry_on_oom=False)
    with pytest.raises(RuntimeError, match="out of memory in the 5th batch in a row; lower batch_size"):
        RunsOut(trainer, 99)
        trainer.dataloader = [make_batch()] * 9
        next(trainer._figures(9, None, 0))


# -- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    for number in range(7):
        shape = (16, 16, 3) if number % 2 else (16, 32, 3)
        Image.fromarray(rng.integers(0, 255, shape, np.uint8)).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(f"road {number}")
    return tmp_path


def loader(folder: Path) -> Any:
    data = DataConfig(min_bucket_size=16, max_bucket_size=32, bucket_step=16, target_pixels=256, drop_last=False)
    return create_dataloader_from_config_v2(folder, CONFIG, data, 2)


def test_a_run_that_goes_on_equals_one_that_was_not_stopped(folder, tmp_path):
    whole = make(dataloader=loader(folder), out=tmp_path / "whole")
    steps: list[int] = []
    last = whole.train(num_steps=7, log_interval=2, callback=lambda step, _: steps.append(step), use_progress_bar=False)
    assert steps == [1, 2, 3, 4, 5, 6, 7] and last["loss"] > 0 and whole.epoch == 1  # of 4 batches
    for until in (3, 7):
        part = make(dataloader=loader(folder), out=tmp_path / "part")
        part.train(num_steps=until, log_interval=2, use_progress_bar=False)
    assert part.step == 7 and torch.equal(weights(part), weights(whole))
    assert torch.equal(part.averaged.out.weight, whole.averaged.out.weight)
    assert part.zclip.state_dict() == whole.zclip.state_dict()
    curves = [(tmp_path / name / "curve.jsonl").read_text().splitlines() for name in ("whole", "part")]
    assert [json.loads(row)["step"] for row in curves[0]] == [2, 4, 6] and curves[0][0] == curves[1][0]
    told = json.loads((tmp_path / "whole" / "loop.json").read_text())
    assert told["train"]["seed"] == 0 and told["about"]["model"]["hidden_dim"] == CONFIG.hidden_dim
    network = PixelHDM.load(tmp_path / "part" / "model.safetensors")
    assert torch.equal(network.out.weight, whole.averaged.out.weight)


def test_ctrl_c_ends_a_run_after_its_step_with_a_checkpoint(folder, tmp_path):
    trainer = make(dataloader=loader(folder), out=tmp_path / "run")

    def interrupt(step: int, _: Any) -> None:
        if step == 2:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trainer.train(num_steps=5, callback=interrupt, use_progress_bar=False)
    assert trainer.step == 2
    again = make(dataloader=loader(folder), out=tmp_path / "run")
    again.load_checkpoint(tmp_path / "run" / "last.pt")
    assert again.step == 2 and torch.equal(weights(again), weights(trainer))
    assert again.dataloader.state_dict() == {"epoch": 0, "batch": 2}  # type: ignore[union-attr]


def test_epochs_are_counted_and_saved(folder, tmp_path):
    trainer = make(dataloader=loader(folder), out=tmp_path / "run")
    saved: list[int] = []
    trainer.save = lambda: saved.append(trainer.step)  # type: ignore[method-assign]
    trainer.train(num_epochs=3, save_interval=5, save_every_epochs=2, use_progress_bar=False)
    assert trainer.step == 12 and trainer.epoch == 3 and saved == [5, 8, 10, 12]
    assert trainer.train(num_epochs=3, use_progress_bar=False) == {}
    assert trainer.train(num_steps=0, use_progress_bar=False) == {}


def test_runs_that_cannot_be_are_named(folder, tmp_path):
    with pytest.raises(RuntimeError, match="training needs batches: give a dataloader"):
        make().train(num_steps=1)
    with pytest.raises(ValueError, match="give num_steps or num_epochs, got both: 3 and 2"):
        make(dataloader=loader(folder)).train(3, 2)
    with pytest.raises(RuntimeError, match="no step in two epochs; does the dataloader give batches"):
        make(dataloader=[], out=tmp_path / "none").train(num_steps=1, use_progress_bar=False)
    make(dataloader=loader(folder), out=tmp_path / "run").train(num_steps=1, use_progress_bar=False)
    other = replace(CONFIG, patch_layers=3)
    with pytest.raises(ValueError, match="holds a run with other options: model.patch_layers was 2, now it is 3"):
        make(other, dataloader=loader(folder), out=tmp_path / "run").train(num_steps=2, use_progress_bar=False)
    with pytest.raises(RuntimeError, match="of another .*it has patch_layers 2 and not 3"):
        make(other).load_checkpoint(tmp_path / "run" / "last.pt")
    with pytest.raises(FileNotFoundError):
        make().load_checkpoint(tmp_path / "none.pt")
    twice = make(replace(CONFIG, use_gradient_checkpointing=True))
    twice.load_checkpoint(tmp_path / "run" / "last.pt")  # it may compute activations twice from now on
    assert twice.step == 1


def test_what_does_not_fit_is_named():
    bare = Trainer(create_pixelhdm_from_config(CONFIG), training_config=PLAIN)
    with pytest.raises(ValueError, match="captions need a text encoder, got 'road number 0' and none"):
        bare.train_step(make_batch())
    assert bare.train_step({"images": make_batch()["images"]})["loss"] > 0  # pictures alone need none
    given = Trainer(bare.model, training_config=PLAIN, text_encoder=make().model.text_encoder)  # type: ignore[arg-type]
    assert given.train_step(make_batch())["loss"] > 0
    with pytest.raises(ValueError, match="a caption for each of 4 images, got 2"):
        make().train_step({**make_batch(), "captions": ["one", "two"]})
    with pytest.raises(ValueError, match="the model is of another configuration: it has pixel_layers 1 and not 2"):
        create_trainer(bare.model, replace(CONFIG, pixel_layers=2), PLAIN)
    with pytest.raises(RuntimeError, match="set repa_enabled to False"):
        alone = create_pixelhdm_from_config(replace(CONFIG, repa_enabled=True))
        Trainer(alone, training_config=PLAIN).train_step({"images": make_batch()["images"]})
    trainer = make()
    before = weights(trainer)
    with pytest.raises(FloatingPointError, match="step 0: the loss is nan"):
        trainer.train_step({**make_batch(), "images": make_batch()["images"] * torch.nan})
    assert torch.equal(weights(trainer), before)


# -- norms that stand out --------------------------------------------------------------------------------------------


def test_norms_that_stand_out_are_bounded_by_mean_and_spread():
    norms = 1 + 0.1 * torch.randn(WARM, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    clip = ZClip(2.5, 0.99)
    for norm in norms[:-1].tolist():
        clip.add(norm)
        assert clip.bound() == float("inf")
    clip.add(norms[-1].item())
    expected = norms.mean() + 2.5 * norms.std(correction=0)  # the first ones count alike
    assert clip.bound() == pytest.approx(expected.item())
    for _ in range(3000):
        clip.add(3.0)
    assert clip.bound() == pytest.approx(3.0, abs=1e-4)  # and are forgotten


def test_a_gradient_that_stands_out_is_brought_down():
    trainer, norms = make(), []
    for _ in range(WARM):
        trainer.zclip.add(1e-3)
    trainer.zclip.variance = 1e-8
    trainer.steps.take = lambda step: norms.append(  # type: ignore[method-assign]
        torch.cat([p.grad.flatten() for p in trainer.method.parameters() if p.grad is not None]).norm().item()
    )
    figures = trainer.train_step(make_batch())
    assert figures["grad_norm"] > 0.01 and norms == [pytest.approx(1e-3 + 2.5e-4, rel=1e-3)]
