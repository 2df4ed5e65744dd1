"""The published names of the set flow: data and training modules, Hydra configurations."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("hydra")

from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from lightning import Trainer
from omegaconf import OmegaConf, open_dict

from drivedit.data.parameter_files import write_parameters, write_statistics
from drivedit.models.sets.cnn import ASTWithProjectionHead
from drivedit.models.sets.tokens import align_tokens, assignment_distance
from drivedit.models.sets.transformer import ApproxEquivTransformer, LearntProjection
from drivedit.training.sets.eval import evaluate
from drivedit.training.sets.ksin_datamodule import KSinDataModule, make_sin
from drivedit.training.sets.modules import KSinFlowMatchingModule, SurgeFlowMatchingModule
from drivedit.training.sets.surge_datamodule import SurgeDataModule
from drivedit.training.sets.train import CONFIGS, train

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*GPU"),
    pytest.mark.filterwarnings("ignore:.*epoch parameter in"),
]


def make_ksin(**options: Any) -> KSinDataModule:
    told = {"k": 3, "signal_length": 16, "train_val_test_sizes": (20, 7, 5), "batch_size": 6}
    module = KSinDataModule(**{**told, **options})
    module.setup()
    return module


def quiet(folder: Path, **options: Any) -> Trainer:
    return Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, default_root_dir=folder,
        enable_model_summary=False, **options,
    )  # fmt: skip


def test_a_batch_of_sines_is_signals_parameters_noise_and_what_makes_signals():
    for name, sizes in (("train", [6, 6, 6]), ("val", [6, 1]), ("test", [5])):
        batches = list(getattr(make_ksin(), f"{name}_dataloader")())
        assert [len(batch[0]) for batch in batches] == sizes
        for signal, params, noise, synth in batches:
            assert torch.equal(signal, make_sin(params, 16)) and torch.equal(synth(params), signal)
            assert noise.shape == params.shape == (len(signal), 6)
    broken = next(iter(make_ksin(break_symmetry=True).val_dataloader()))
    assert torch.equal(broken[0], make_sin(broken[1], 16, True))


@pytest.mark.parametrize("workers", [1, 2])
def test_items_and_noise_do_not_depend_on_the_number_of_workers(workers):
    alone, many = (list(make_ksin(num_workers=count).train_dataloader()) for count in (0, workers))
    for one, other in zip(alone, many, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one[:3], other[:3], strict=True))


def test_epochs_differ_and_come_again():
    loader = make_ksin().train_dataloader()
    first, second = ([batch[2] for batch in loader] for _ in range(2))
    assert not torch.equal(torch.cat(first), torch.cat(second))
    loader.sampler.set_epoch(0)  # type: ignore[attr-defined]
    assert torch.equal(torch.cat([batch[2] for batch in loader]), torch.cat(first))
    validated = make_ksin().val_dataloader()
    assert torch.equal(*(torch.cat([batch[2] for batch in validated]) for _ in range(2)))


@pytest.mark.parametrize("ot", [True, "token", "both"])
def test_coupling_moves_noise_alone_and_only_in_training(ot):
    plain, coupled = make_ksin(), make_ksin(ot=ot)
    for one, other in zip(plain.train_dataloader(), coupled.train_dataloader(), strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
        assert sorted(one[2].flatten().tolist()) == sorted(other[2].flatten().tolist())
        assert (other[2] - other[1]).norm() < (one[2] - one[1]).norm()
        if ot == "token":
            assert torch.equal(other[2], align_tokens(one[2], one[1], 2))
    assert torch.equal(*(next(iter(each.val_dataloader()))[2] for each in (plain, coupled)))


def test_processes_share_the_batches_of_an_epoch():
    from drivedit.training.sets.loading import Batches

    alone = list(Batches(27, 4, True))
    shares = [list(Batches(27, 4, True, share=(rank, 2))) for rank in range(2)]
    assert [key for pair in zip(*shares, strict=True) for key in pair] == alone[:6]
    assert [len(Batches(27, 4, False, share=(rank, 2))) for rank in range(2)] == [4, 3]
    rows = [row for _, start, stop in alone for row in range(start, stop)]
    assert len(set(rows)) == len(rows) == 24
    assert len(list(Batches(3, 4, True))) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"k": 0}, "k must be at least 1"),
        ({"shift_test_distribution": True, "break_symmetry": True}, "exclude each other"),
        ({"ot": "batch"}, "ot must be one of"),
        ({"train_val_test_seeds": (1, 2, 1)}, "must differ"),
        ({"batch_size": 0}, "1 row in a batch"),
    ],
)
def test_sines_that_cannot_be_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        make_ksin(**options).train_dataloader()


def test_a_shifted_test_distribution_is_one_of_the_test_alone():
    data = make_ksin(shift_test_distribution=True, train_val_test_sizes=(2000, 2000, 2000))
    means = [data.params[name][:, :3].mean().item() for name in ("train", "val", "test")]
    assert means == pytest.approx([-0.31, -0.31, 0.31], abs=0.03)
    ordered = make_ksin(sort_frequencies=True).params["train"][:, :3]
    assert (ordered.diff(dim=1) >= 0).all()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path, rng = tmp_path_factory.mktemp("surge"), np.random.default_rng(0)
    for name, count in (("train", 9), ("val", 3), ("test", 4), ("heard", 2)):
        arrays = {
            "params": rng.uniform(-1, 1, (count, 5)), "mel_spec": rng.normal(4, 3, (count, 2, 8, 9)),
            "m2l": rng.normal(size=(count, 4, 3)), "audio": rng.normal(size=(count, 2, 20)),
        }  # fmt: skip
        if name == "heard":
            del arrays["params"]
        rows = [dict(zip(arrays, row, strict=True)) for row in zip(*arrays.values(), strict=True)]
        write_parameters(path / f"{name}.h5", count, rows)
        if name == "train":
            write_statistics(path)
    return path


def make_surge(root: Path, **options: Any) -> SurgeDataModule:
    module = SurgeDataModule(root, **{"batch_size": 4, **options})
    module.setup()
    return module


def test_files_give_batches_of_what_is_asked_for(folder):
    data = make_surge(folder)
    batch = next(iter(data.train_dataloader()))
    assert {name: None if value is None else list(value.shape) for name, value in batch.items()} == {
        "params": [4, 5], "noise": [4, 5], "mel_spec": [4, 2, 8, 9], "m2l": None, "audio": None
    }  # fmt: skip
    assert torch.cat([each["mel_spec"] for each in data.train_dataloader()]).std().item() == pytest.approx(1, abs=0.05)
    raw = next(iter(make_surge(folder, use_saved_mean_and_variance=False).val_dataloader()))["mel_spec"]
    assert raw.mean().item() == pytest.approx(4, abs=0.5) and len(raw) == 3
    other = next(iter(make_surge(folder, conditioning="m2l").test_dataloader()))
    assert other["mel_spec"] is None and other["m2l"].shape == (4, 4, 3) and other["audio"].shape == (4, 2, 20)
    data.teardown()
    SurgeDataModule(folder).teardown()
    assert next(iter(data.val_dataloader()))["params"].shape == (3, 5)  # opens again


@pytest.mark.parametrize("conditioning", ["mel", "m2l"])
def test_every_feature_stays_with_its_parameters_under_a_coupling(folder, conditioning):
    """The original forgot one of them, and trained on pairs that did not belong together."""
    name = {"mel": "mel_spec", "m2l": "m2l"}[conditioning]
    plain, coupled = (make_surge(folder, ot=ot, conditioning=conditioning) for ot in (False, True))
    moved = 0
    for one, other in zip(plain.train_dataloader(), coupled.train_dataloader(), strict=True):
        assert torch.equal(one["params"], other["params"]) and torch.equal(one[name], other[name])
        assert sorted(one["noise"].tolist()) == sorted(other["noise"].tolist())
        moved += not torch.equal(one["noise"], other["noise"])
    assert moved


def test_the_first_batch_can_be_repeated_and_files_can_be_feigned(folder):
    keys = list(make_surge(folder, repeat_first_batch=True).train_dataloader())
    assert len(keys) == 2 and all(torch.equal(keys[0][name], keys[1][name]) for name in ("params", "noise", "mel_spec"))
    fake = make_surge(folder / "nowhere", fake=True, batch_size=2)
    assert next(iter(fake.train_dataloader()))["mel_spec"].shape == (2, 2, 128, 401)
    heard = next(iter(fake.test_dataloader()))
    assert heard["params"].shape == (2, 90) and heard["audio"].shape == (2, 2, 176_400)
    assert next(iter(fake.val_dataloader()))["audio"] is None
    fake.teardown()


def test_a_file_to_predict_may_lack_parameters(folder):
    data = SurgeDataModule(folder, predict_file="heard.h5")
    data.setup("predict")
    batch = next(iter(data.predict_dataloader()))
    assert batch["params"] is None and batch["noise"] is None and batch["mel_spec"].shape == (2, 2, 8, 9)
    own = SurgeDataModule(folder)
    own.setup("predict")
    assert next(iter(own.predict_dataloader()))["params"].shape == (4, 5)


def test_bad_files_are_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"stats\.npz is missing"):
        make_surge(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"train\.h5"):
        make_surge(tmp_path, use_saved_mean_and_variance=False)
    for name in ("val.h5", "test.h5", "stats.npz"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "train.h5").write_bytes((folder / "train.h5").read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"train\.h5 is cut short"):
        make_surge(tmp_path)
    (tmp_path / "train.h5").write_bytes((folder / "train.h5").read_bytes())
    np.savez(tmp_path / "stats.npz", mean=np.zeros((2, 7, 1)), std=np.ones((2, 7, 1)))
    with pytest.raises(ValueError, match=r"statistics of shape \[2, 7, 1\] do not fit mel_spec \[2, 8, 9\]"):
        make_surge(tmp_path)
    for options, said in (({"conditioning": "mfcc"}, "mel, m2l, got 'mfcc'"), ({"ot": "token"}, "permutes tokens")):
        with pytest.raises(ValueError, match=said):
            SurgeDataModule(folder, **options)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="setup"):
        SurgeDataModule(folder).train_dataloader()


def test_the_published_example_trains_a_step(tmp_path):
    """As documented: `learn_projection` is off, and the original could not even be made."""
    encoder = ASTWithProjectionHead(d_model=32, d_out=16, n_layers=1, n_heads=2, patch_stride=15)
    field = ApproxEquivTransformer(
        projection=LearntProjection(d_model=32, d_token=16, num_params=90, num_tokens=8), num_layers=1, d_model=32,
        conditioning_dim=16, num_heads=2, d_ff=32, num_tokens=8,
    )  # fmt: skip
    model = SurgeFlowMatchingModule(
        encoder=encoder, vector_field=field, optimizer=torch.optim.AdamW,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR, conditioning="mel", num_params=90,
    )  # fmt: skip
    before = [weight.clone() for weight in model.parameters()]
    trainer = quiet(tmp_path, max_steps=1, limit_val_batches=0)
    trainer.fit(model, SurgeDataModule(tmp_path, fake=True, batch_size=2, ot=False))
    assert trainer.callback_metrics["train/loss"].isfinite() and "train/penalty" in trainer.callback_metrics
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_the_published_sizes_can_be_made():
    with torch.device("meta"):
        ASTWithProjectionHead(d_model=512, d_out=128)
        projection = LearntProjection(d_model=512, d_token=128, num_params=90, num_tokens=32)
        field = ApproxEquivTransformer(projection=projection, d_model=512, conditioning_dim=128)
        assert field(torch.zeros(2, 90), torch.zeros(2, 1), torch.zeros(2, 128)).shape == (2, 90)


def make_surge_module(**options: Any) -> SurgeFlowMatchingModule:
    torch.manual_seed(0)
    encoder = ASTWithProjectionHead(8, 6, 2, 1, 4, 3, 2, (8, 9), n_queries=2)
    field = ApproxEquivTransformer(
        LearntProjection(8, 8, 5, 3), 2, 8, 6, 2, 8, 3, learn_projection=True, projection_penalty=0.1
    )
    told = {"optimizer": partial(torch.optim.Adam, lr=1e-2), "scheduler": None, "warmup_steps": 0, "num_params": 5}
    return SurgeFlowMatchingModule(
        encoder, field, **{**told, "validation_sample_steps": 2, "test_sample_steps": 2, **options}
    )


def test_it_learns_validates_tests_and_predicts_from_files(folder, tmp_path):
    model, trainer = make_surge_module(), quiet(tmp_path, max_epochs=2)
    trainer.fit(model, SurgeDataModule(folder, batch_size=4))
    assert {"train/loss", "train/penalty", "val/param_mse"} <= set(trainer.callback_metrics)
    told = trainer.test(model, SurgeDataModule(folder, batch_size=4), verbose=False)
    assert set(told[0]) == {"test/param_mse"}
    for name, rows in (("heard.h5", 2), (None, 4)):
        (result,) = trainer.predict(model, SurgeDataModule(folder, predict_file=name)) or []
        samples: Any = result[0]
        assert samples.shape == (rows, 5) and samples.isfinite().all()
        assert result[1]["mel_spec"].shape == (rows, 2, 8, 9)  # type: ignore[call-overload,index]
    with pytest.raises(ValueError, match="conditioned on m2l, which the batch lacks"):
        trainer.predict(make_surge_module(conditioning="m2l"), SurgeDataModule(folder))
    with pytest.raises(ValueError, match="got 'audio'"):
        make_surge_module(conditioning="audio")


def test_networks_are_compiled_for_training_alone():
    for stage, compiled in (("fit", True), ("test", False)):
        model = make_surge_module(compile=True)
        model.setup(stage)
        parts = (model.flow.encoder, model.flow.vector_field)
        assert [part._compiled_call_impl is not None for part in parts] == [compiled] * 2


def test_warm_up_and_schedule_end_with_the_run(folder, tmp_path):
    seen: list[float] = []
    model = make_surge_module(scheduler=torch.optim.lr_scheduler.CosineAnnealingLR, warmup_steps=4)
    step = model.training_step

    def watched(batch: Any, batch_idx: int) -> torch.Tensor:
        seen.append(model.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]
        return step(batch, batch_idx)

    model.training_step = watched  # type: ignore[method-assign]
    quiet(tmp_path, max_steps=10, limit_val_batches=0).fit(model, SurgeDataModule(folder, batch_size=4))
    assert seen[:5] == pytest.approx([0.002, 0.004, 0.006, 0.008, 0.01])
    assert all(a > b for a, b in zip(seen[4:], seen[5:], strict=False)) and seen[-1] < 0.001


def config(*words: str, name: str = "train") -> Any:
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        cfg = compose(name, [*words])
    with open_dict(cfg):
        cfg.trainer.update(accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)
        cfg.callbacks = None if cfg.callbacks is None else {"checkpoint": cfg.callbacks.checkpoint}
    return cfg


SMALL = (
    "data.k=2", "data.signal_length=16", "data.batch_size=8", "data.train_val_test_sizes=[16,8,8]", "model.d_model=16",
    "model.num_layers=1", "model.num_heads=2", "model.d_ff=16", "model.validation_sample_steps=2",
    "model.test_sample_steps=2", "trainer.max_epochs=1",
)  # fmt: skip


@pytest.mark.parametrize("experiment", ["baseline", "broken"])
def test_hydra_trains_tests_and_evaluates_sines(tmp_path, experiment):
    words = (f"experiment=ksin/{experiment}", f"out={tmp_path}", *SMALL)
    state = torch.get_rng_state()
    metrics, objects = train(config(*words, "test=true"))
    assert torch.equal(torch.get_rng_state(), state)
    assert set(objects) == {"cfg", "datamodule", "model", "callbacks", "logger", "trainer"}
    assert isinstance(objects["model"], KSinFlowMatchingModule) and isinstance(objects["datamodule"], KSinDataModule)
    wanted = {"param_mse", "lsd", "chamfer", "assignment"}
    assert {f"{split}/{name}" for split in ("val", "test") for name in wanted} | {"train/loss"} <= set(metrics)
    path = tmp_path / "checkpoints" / "last.ckpt"
    judged, made = evaluate(config(*words, f"ckpt_path={path}", name="eval"))
    assert judged["test/assignment"] == metrics["test/assignment"]
    _, params, noise, _ = next(iter(made["datamodule"].test_dataloader()))
    cfg = config(*words, f"ckpt_path={path}", "mode=predict", name="eval")
    samples = evaluate(cfg)[1]["predictions"][0][0]
    assert judged["test/assignment"].item() == pytest.approx(assignment_distance(samples, params, 2).mean().item())
    assert "val/lsd" in evaluate(config(*words, f"ckpt_path={path}", "mode=val", name="eval"))[0]
    resumed = config(*words, f"ckpt_path={path}", "trainer.max_epochs=-1", "trainer.max_steps=4")
    assert train(resumed)[1]["trainer"].global_step == 4


def test_hydra_makes_the_networks_of_files():
    cfg = config("experiment=surge/fake")
    assert cfg.model.scheduler.eta_min == 1e-6 and cfg.model.encoder.n_queries == 8
    assert cfg.model.vector_field.projection.num_tokens == 128 and cfg.model.conditioning == "mel"
    assert OmegaConf.create({"p": "${mul:2,${k}}", "k": 3}).p == 6


def test_what_is_missing_is_named(tmp_path):
    cfg = config(*SMALL, f"out={tmp_path}")
    with pytest.raises(ValueError, match="ckpt_path is missing"):
        evaluate(cfg)
    with pytest.raises(ValueError, match="mode must be one of test, val, predict, got 'all'"):
        evaluate(config(*SMALL, "ckpt_path=x", "mode=all", name="eval"))
    with open_dict(cfg):
        del cfg.model["_target_"]
    with pytest.raises(InstantiationException, match="model needs a _target_"):
        train(cfg)
