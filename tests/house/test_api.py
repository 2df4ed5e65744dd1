"""The published API: every name is where it is documented, and takes what is documented.

A row is a dotted path and the documented parameters with their defaults. What the package adds is keyword-only. Classes
that a configuration feeds are listed with it: their defaults must agree. To publish another name, add a row.
"""

import ast
import importlib
import inspect
import json
from dataclasses import fields
from typing import Any

import pytest
import torch
from helpers.published import API, FIELDS

import drivedit.config as config
from drivedit.config import BaseConfig, ModelConfig, StudentConfig, WorldConfig, get_large_config, get_small_config

FEEDS: dict[str, list[str]] = {
    "drivedit.config.VAEConfig": ["drivedit.models.VAE3D"],
    "drivedit.config.StudentConfig": ["drivedit.models.DiTStudent"],
    "drivedit.config.TeacherConfig": ["drivedit.models.DiTTeacher"],
    "drivedit.config.TrainingConfig": [
        "drivedit.training.SelfForcingTrainer", "drivedit.training.DistillationTrainer"
    ],
}  # fmt: skip
NOT_CONFIGURED = {"student_model", "teacher_model", "vae_model", "optimizer", "device", "use_wandb"}


def find(path: str) -> Any:
    """The object at a dotted path: the longest module, then attributes."""
    parts = path.split(".")
    for split in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:split]))
        except ModuleNotFoundError:
            continue
        for name in parts[split:]:
            found = getattr(found, name)
        return found
    raise ModuleNotFoundError(path)


def parameters(path: str) -> dict[str, inspect.Parameter]:
    found = dict(inspect.signature(find(path)).parameters)
    found.pop("self", None)
    return found


def documented(row: str) -> dict[str, inspect.Parameter]:
    scope: dict[str, Any] = {"ReduceOp": torch.distributed.ReduceOp}
    exec(compile(ast.parse(f"def f({row}): pass"), "row", "exec"), scope)
    return dict(inspect.signature(scope["f"]).parameters)


def plain(default: Any) -> Any:
    return list(default) if isinstance(default, tuple) else default


@pytest.mark.parametrize("path", API)
def test_signatures_are_the_documented_ones(path):
    wanted, found = documented(API[path]), parameters(path)
    positional = {k: p for k, p in found.items() if p.kind is not p.KEYWORD_ONLY}
    required = inspect.Parameter.empty  # what the documents require may have a default
    assert {
        k: (p.kind, required if k in wanted and wanted[k].default is required else plain(p.default))
        for k, p in positional.items()
    } == {k: (p.kind, plain(p.default)) for k, p in wanted.items()}
    assert list(positional) == list(wanted)
    added = [p for k, p in found.items() if k not in wanted]
    assert all(p.default is not p.empty for p in added), "what is added must have a default"


@pytest.mark.parametrize("path", [*API, *FIELDS])
def test_names_are_exported_and_explained(path):
    package, name = ".".join(path.split(".")[:2]), path.split(".")[2]
    public = importlib.import_module(package).__all__
    assert name in public or inspect.ismodule(find(f"{package}.{name}"))
    assert inspect.getdoc(find(path))


@pytest.mark.parametrize("path", FIELDS)
def test_configurations_have_the_documented_fields(path):
    wanted = FIELDS[path].split()
    assert [field.name for field in fields(find(path))][: len(wanted)] == wanted


@pytest.mark.parametrize(("source", "target"), [(s, t) for s, targets in FEEDS.items() for t in targets])
def test_configurations_agree_with_what_they_feed(source, target):
    stored, found = find(source)().to_dict(), parameters(target)
    shared = stored.keys() & found.keys()
    assert {k: stored[k] for k in shared} == {k: plain(found[k].default) for k in shared}
    assert found.keys() - shared - NOT_CONFIGURED == set()
    if ".models." in target:
        assert list(stored) == list(found)


def test_every_training_setting_has_a_reader():
    read = {name for target in FEEDS["drivedit.config.TrainingConfig"] for name in parameters(target)}
    loader_and_optimizer = {"lr", "batch_size"}
    assert set(find("drivedit.config.TrainingConfig")().to_dict()) - read == loader_and_optimizer


@pytest.mark.parametrize("name", [n for n in config.__all__ if n.endswith("Config") and n != "BaseConfig"])
def test_configurations_survive_json(name, tmp_path):
    kind = getattr(config, name)
    original = config.find_domain("carracing") if name == "DomainConfig" else kind()
    assert kind.from_json(original.to_json()) == original
    original.save_json(tmp_path / "it.json")
    assert kind.from_json(str(tmp_path / "it.json")) == original
    assert [file.name for file in tmp_path.iterdir()] == ["it.json"]


def test_nested_configurations_are_rebuilt_and_checked():
    changed = get_small_config()
    changed.student.d_model = 256
    again = ModelConfig.from_dict(json.loads(changed.to_json()))
    assert again == changed and isinstance(again.student, StudentConfig) and again != get_small_config()
    with pytest.raises(KeyError, match="student.d_modell"):
        ModelConfig.from_dict({"student": {"d_modell": 3}})
    with pytest.raises(ValueError, match="student.d_model: .*integer"):
        ModelConfig.from_dict({"student": {"d_model": "wide"}})
    with pytest.raises(FileNotFoundError):
        ModelConfig.from_json("no such file.json")
    with pytest.raises(ValueError, match="Expecting|line 1"):
        ModelConfig.from_json("{not json")
    assert issubclass(WorldConfig, BaseConfig)


def test_a_failed_write_keeps_the_old_configuration(tmp_path, monkeypatch):
    file = tmp_path / "it.json"
    get_small_config().save_json(file)
    before = file.read_text()

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        get_large_config().save_json(file)
    assert file.read_text() == before and len(list(tmp_path.iterdir())) == 1


def test_small_and_large_models_fit_together():
    import torch

    from drivedit.models import VAE3D, DiTStudent, DiTTeacher, FrameTokenizer

    sizes = []
    for made, side in ((get_small_config(), 64), (get_large_config(), 256)):
        with torch.device("meta"):
            vae, student = VAE3D.from_config(made.vae), DiTStudent.from_config(made.student)
            teacher = DiTTeacher.from_config(made.teacher)
        tokenizer = FrameTokenizer.between(vae.latent_dim, student.latent_dim)
        tokens = tokenizer.tokens(torch.zeros(1, vae.latent_dim, side // 8, side // 8))
        assert tokens.shape == (1, student.tokens_per_frame, student.latent_dim)
        assert student.capacity * student.tokens_per_frame == student.max_seq_len  # all of the window at once
        assert teacher.trunk.latent_dim == student.latent_dim and teacher.control_dim == student.control_dim
        sizes.append(sum(p.numel() for net in (vae, student, teacher) for p in net.parameters()))
    assert sizes[0] < 5e6 < 5e8 < sizes[1]
    latents = torch.randn(2, 3, 8, 4, 6)
    small = FrameTokenizer(8, 2)
    assert torch.equal(small.latents(small.tokens(latents), 4, 6), latents)
    assert torch.equal(small.tokens(latents)[0, 0, 1], latents[0, 0, :, :2, 2:4].flatten())
