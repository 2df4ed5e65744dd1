"""Damaged folders of worlds: each is refused with an error that users understand, or is exactly the same world.

Some of the damage is a stranger's, who writes the digests anew: such a folder may also be another world, by another
name, but no other error may come of it, and no time or memory be taken for what it declares.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save

from drivedit.config import Modality, StudentConfig, VAEConfig, WorldConfig
from drivedit.config.domains.carracing import SPEC
from drivedit.models import DiTWorld
from drivedit.models.finding import CONFIG, FILES, SCENES, WEIGHTS
from drivedit.utils import fingerprint

CPU_SECONDS = 5.0  # no folder of this size takes longer
ODD: list[Any] = [
    None, True, -1, 0, 1, 7, 10**9, 10**18, 10**400, 1e-9, 1e308, float("nan"), float("inf"), "", "wide", [], [3], {},
    {"a": 1}, [[1, 2], [3, 4]],
]  # fmt: skip
FIELDS = [
    "poses", "times", "bounds", "closed", "attributes", "observations/camera", "conditions/route", "agents/names",
    "conditions/route/bounds", "conditions/route/closed",
]  # of scenes  # fmt: skip


def small_world(seed: int) -> DiTWorld:
    """A world of two scenes in 60 kB."""
    student = StudentConfig(
        16, 8, 1, 1, dropout=0.0, tokens_per_frame=4, window=2, history=1, control_dim=7, route_dim=65, map_dim=1
    )
    vae = VAEConfig(3, 4, [4, 4, 4, 4], 0, False, 0.1, temporal_kernel=1)
    generator = torch.Generator().manual_seed(seed)
    angle = np.linspace(0, 6, 40)
    scene = {
        "frames": torch.randint(0, 256, (3, 32, 32, 3), generator=generator, dtype=torch.uint8).numpy(),
        "controls": np.zeros((2, 2), np.float32),
        "route": np.stack([90 * np.cos(angle), 90 * np.sin(angle)], -1).astype(np.float32),
    }
    spec = replace(SPEC, observations={"camera": Modality((32, 32, 3))})
    config = WorldConfig(spec, vae, student, view=(61.73, 49.38, 0.5, 0.75), map_cells=1)
    world = DiTWorld(config, [scene, scene], "# A card\n")
    for weight in world.parameters():
        weight.data = 0.1 * torch.randn(weight.shape, generator=generator)
    return world


def run(files: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Damages folders of a world and loads them.

    Args:
        files: How many damaged folders.
        seed: Decides them all.

    Returns:
        How often each thing came of it (`refused`, `same`, `another`), and a line for everything that should not.
    """
    outcomes: Counter[str] = Counter()
    bad = []
    with tempfile.TemporaryDirectory() as work:
        whole, other, damaged = (Path(work) / name for name in ("whole", "other", "damaged"))
        small_world(0).save_pretrained(whole)
        small_world(1).save_pretrained(other)
        wanted = _content(DiTWorld.from_pretrained(whole, device="cpu"))
        for number in range(files):
            rng = np.random.default_rng([seed, number])
            shutil.rmtree(damaged, ignore_errors=True)
            shutil.copytree(whole, damaged)
            name, harm = list(HARMS.items())[number % len(HARMS)]
            harm(damaged, other, rng)
            began = time.process_time()
            outcome = _outcome(damaged, wanted, name.startswith("stranger"))
            if time.process_time() - began > CPU_SECONDS:
                outcome = f"took {time.process_time() - began:.1f} s"
            outcomes[outcome] += 1
            if outcome not in ("refused", "same", "another"):
                bad.append(f"file {number} of seed {seed} ({name}): {outcome}")
    return outcomes, bad


def _outcome(folder: Path, wanted: dict[str, bytes], stranger: bool) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = _content(DiTWorld.from_pretrained(folder, device="cpu"))
    except (ValueError, FileNotFoundError) as error:
        told = str(error)
        plain = type(error) in (ValueError, FileNotFoundError) and any(
            w in told for w in ("damaged", "lacks", "no world")
        )
        return "refused" if plain else f"refused in other words: {type(error).__name__}: {told[:200]}"
    except BaseException as error:  # whatever comes is what is looked for
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{type(error).__name__}: {str(error)[:200]}"
    if found == wanted:
        return "same"
    return "another" if stranger and found["fingerprint"] != wanted["fingerprint"] else "it is another world"


def _content(world: DiTWorld) -> dict[str, bytes]:
    """All that a world does, by name."""
    content = {"fingerprint": world.fingerprint.encode(), "digest": world.digest().encode()}
    return content | {name: value.numpy().tobytes() for name, value in world.state_dict().items()}


# -- damage by chance ----------------------------------------------------------------------------------------------


def _pick(folder: Path, rng: np.random.Generator) -> Path:
    """A file, most often the one that says most in the fewest bytes."""
    return folder / str(rng.choice(FILES, p=[0.5, 0.2, 0.2, 0.1]))


def _flip(folder: Path, other: Path, rng: np.random.Generator) -> None:
    file = _pick(folder, rng)
    data = bytearray(file.read_bytes())
    for _ in range(rng.integers(1, 4)):
        near = min(len(data), 4000) if rng.integers(2) else len(data)  # where the descriptions are
        data[rng.integers(near)] ^= 1 << int(rng.integers(8))
    file.write_bytes(data)


def _overwrite(folder: Path, other: Path, rng: np.random.Generator) -> None:
    file = _pick(folder, rng)
    data, length = bytearray(file.read_bytes()), int(rng.integers(1, 40))
    at = int(rng.integers(min(len(data), 4000)))
    kind = rng.integers(4)
    if kind == 0:
        data[at : at + length] = rng.bytes(length)
    elif kind == 1:
        del data[at : at + length]
    elif kind == 2:
        data[at:at] = data[at : at + length]
    else:
        data[:8] = rng.bytes(8) if rng.integers(2) else int(2 ** rng.integers(63)).to_bytes(8, "little")
    file.write_bytes(data)


def _cut(folder: Path, other: Path, rng: np.random.Generator) -> None:
    file = _pick(folder, rng)
    data = file.read_bytes()
    file.write_bytes(data[: rng.integers(len(data))])


def _swap(folder: Path, other: Path, rng: np.random.Generator) -> None:
    """Files change places, come from another world, or are something else altogether."""
    one, two = (folder / str(name) for name in rng.choice([CONFIG, WEIGHTS, SCENES], 2, replace=False))
    kind = rng.integers(6)
    if kind == 0:
        first = one.read_bytes()
        one.write_bytes(two.read_bytes())
        two.write_bytes(first)
    elif kind == 1:
        shutil.copy(other / one.name, one)
    elif kind == 2:
        one.unlink()
    elif kind == 3:
        one.unlink()
        one.mkdir()
    elif kind == 4:
        one.write_bytes(b"")
    else:
        one.unlink()
        one.symlink_to(two)


def _json(folder: Path, other: Path, rng: np.random.Generator) -> None:
    """Another value in config.json, whose digest stays."""
    stored = json.loads((folder / CONFIG).read_text())
    _edit(stored, rng)
    (folder / CONFIG).write_text(json.dumps(stored))


def _text(folder: Path, other: Path, rng: np.random.Generator) -> None:
    """Something else than an object in config.json."""
    texts = ["7", "[]", "null", '"a"', "true", "{}", "[" * 5000, '{"a":' * 5000, "nan", "\ud800", '{"format": 2}', ""]
    text = str(rng.choice(np.array(texts, object)))
    (folder / CONFIG).write_bytes(text.encode(errors="surrogatepass"))


# -- a stranger's worlds -------------------------------------------------------------------------------------------


def _sign(folder: Path, stored: dict[str, Any]) -> None:
    """Writes config.json with the digests that its content asks for."""
    stored["sha256"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (WEIGHTS, SCENES)}
    stored["digest"] = fingerprint({name: stored.get(name) for name in ("world", "sha256")})
    (folder / CONFIG).write_text(json.dumps(stored))


def _settings(folder: Path, other: Path, rng: np.random.Generator) -> None:
    stored = json.loads((folder / CONFIG).read_text())
    _edit(stored["world"], rng)
    if not rng.integers(8):
        stored["world"] = ODD[rng.integers(len(ODD))]
    _sign(folder, stored)


def _tensors(folder: Path, other: Path, rng: np.random.Generator) -> None:
    tensors = load((folder / WEIGHTS).read_bytes())
    one, two = (str(name) for name in rng.choice(sorted(tensors), 2, replace=False))
    changes: list[Callable[[], Any]] = [
        lambda: tensors.pop(one),
        lambda: tensors.update({one: tensors[two], two: tensors[one]}),
        lambda: tensors.update({f"{one}.more": tensors[one].clone()}),
        lambda: tensors.update({one: tensors[one].float()}),
        lambda: tensors.update({one: tensors[one].to(torch.bfloat16)}),
        lambda: tensors.update({one: tensors[one].to(torch.float8_e4m3fn)}),
        lambda: tensors.update({one: tensors[one].to(torch.int16)}),
        lambda: tensors.update({one: tensors[one][None]}),
        lambda: tensors.update({one: tensors[one].flatten()[:1]}),
        lambda: tensors[one].view(-1)[:1].fill_(float("nan")),
        lambda: tensors[one].view(-1)[-1:].fill_(float("-inf")),
        tensors.clear,
    ]
    changes[rng.integers(len(changes))]()
    (folder / WEIGHTS).write_bytes(save({name: value.clone() for name, value in tensors.items()}))
    _sign(folder, json.loads((folder / CONFIG).read_text()))


def _scenes(folder: Path, other: Path, rng: np.random.Generator) -> None:
    tensors = load((folder / SCENES).read_bytes())
    name = str(rng.choice(sorted(tensors)))
    values = [
        torch.tensor(10**9), torch.tensor(-1), torch.tensor(2.0), torch.tensor([2, 2]), torch.zeros(0), torch.zeros(1),
        torch.full((2, 2), float("nan")), torch.zeros(2, 2), torch.zeros(200_000, 2), torch.zeros(4), torch.zeros(3, 3),
        torch.zeros(3, 32, 32, 3), torch.zeros(3, 64, 64, 3, dtype=torch.uint8), torch.zeros(2, dtype=torch.bfloat16),
        torch.zeros(10_000, 0, 32, 3, dtype=torch.uint8), torch.zeros(2, dtype=torch.complex64),
    ]  # fmt: skip
    value = values[rng.integers(len(values))]
    changes: list[Callable[[], Any]] = [
        lambda: tensors.update({name: value}),
        lambda: tensors.update({name: value}),
        lambda: tensors.pop(name),
        lambda: tensors.update({str(rng.choice(["0.fog", "9.frames", "x", "1000000000.frames", ".", ""])): value}),
        lambda: tensors.update({f"0.{rng.choice(FIELDS)}": value}),
    ]
    changes[rng.integers(len(changes))]()
    (folder / SCENES).write_bytes(save(tensors))
    _sign(folder, json.loads((folder / CONFIG).read_text()))


def _headers(folder: Path, other: Path, rng: np.random.Generator) -> None:
    """A safetensors header that declares what is not there."""
    name = str(rng.choice([WEIGHTS, SCENES]))
    data = (folder / name).read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    _edit(header, rng)
    text = json.dumps(header).encode()
    (folder / name).write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    _sign(folder, json.loads((folder / CONFIG).read_text()))


def _edit(tree: Any, rng: np.random.Generator) -> None:
    """Changes one value somewhere in a tree of JSON, in place: an odd one, a near one, none, or one more."""
    inside = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    if not inside:
        return
    key = inside[rng.integers(len(inside))]
    value = tree[key]
    if isinstance(value, (dict, list)) and value and rng.integers(5):
        _edit(value, rng)
    elif isinstance(tree, dict) and not rng.integers(6):
        del tree[key]
    elif isinstance(tree, dict) and not rng.integers(8):
        tree[f"{key}x"] = value
    elif isinstance(value, (int, float)) and rng.integers(2):
        tree[key] = [value + 1, -value, 2 * value, value / 3, str(value), float(value)][rng.integers(6)]
    else:
        tree[key] = ODD[rng.integers(len(ODD))]


HARMS: dict[str, Callable[[Path, Path, np.random.Generator], None]] = {
    "bits": _flip, "bytes": _overwrite, "cut": _cut, "files": _swap, "values": _json, "text": _text,
    "stranger's settings": _settings, "stranger's tensors": _tensors, "stranger's scenes": _scenes,
    "stranger's headers": _headers,
}  # fmt: skip
