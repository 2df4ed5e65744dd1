"""Low-rank adapters in training: what they change and what they leave, and the stage that makes a file of them."""

import copy
from dataclasses import replace

import pytest
import torch
from helpers.training import make_batch, make_episode
from helpers.worlds import make_world

from drivedit.config import DataConfig, DistillConfig, LoopConfig, StudentStageConfig, WorldSpec
from drivedit.data.recordings import write_shard
from drivedit.models import DiTWorld
from drivedit.models.adapters import Adapter
from drivedit.training.adapting import adapt
from drivedit.training.lora import add_lora, factors, fold_in, patterns_of
from drivedit.training.methods.energy import EnergyScore
from drivedit.training.methods.method import Progress

PARTS = ("vae.*", "dynamics.*", "heads.*")
LOOP = LoopConfig(steps=4, batch_size=2, warmup=1, bf16=False, lr=1e-2, ema=0.5, log_every=1)
DATA = DataConfig(validation_fraction=0.5)
LOSS = DistillConfig(method="energy", clip_frames=4, rollout=1)


def loss_of(world: DiTWorld) -> torch.Tensor:
    method = EnergyScore(world, StudentStageConfig(clip_frames=4, rollout=1)).eval()
    return method.loss(make_batch(4), Progress(0, 0.0), torch.Generator().manual_seed(0))[0]


def test_at_first_a_network_computes_what_it_did_and_only_factors_learn():
    plain, world = make_world(), make_world()
    names = add_lora(world, 4, 8.0, PARTS)
    assert torch.equal(loss_of(world), loss_of(plain)) and "vae.to_moments" in names
    free = {name for name, weight in world.named_parameters() if weight.requires_grad}
    assert free and all("lora_" in name for name in free)
    loss_of(world).backward()
    assert {n for n, w in world.named_parameters() if w.grad is not None} == {n for n in free if "vae." not in n}
    groups = EnergyScore(world, StudentStageConfig()).groups(0)
    learned = [weight for group in groups for weight in (*group.parameters, *group.matrices)]
    assert learned and all(weight.requires_grad for weight in learned)


def test_folded_in_a_network_computes_what_it_did_with_factors():
    world = make_world()
    add_lora(world, 3, 6.0, PARTS)
    generator = torch.Generator().manual_seed(0)
    for name, weight in world.named_parameters():
        if "lora_B" in name:
            weight.data = 0.1 * torch.randn(weight.shape, generator=generator)
    frames, beside = torch.rand(2, 3, 1, 64, 64, generator=generator), loss_of(world)
    with torch.no_grad():
        recon = world.vae(frames)[0]
        found = factors(world)
        base = {n: w.clone() for n, w in make_world().state_dict().items()}
        fold_in(world)
        assert set(world.state_dict()) == set(base) and torch.allclose(world.vae(frames)[0], recon, atol=1e-5)
    assert torch.allclose(loss_of(world), beside, atol=1e-5)
    other = make_world()
    other.adapt(Adapter(other.digest(), 6.0 / 3, found))
    for name, weight in world.state_dict().items():
        assert torch.allclose(other.state_dict()[name], weight, atol=2e-3), "the file has half precision"


def test_patterns_choose_layers_and_those_that_match_none_are_named():
    world = make_world()
    assert add_lora(world, 2, 2.0, ["*.qkv", "heads.mlp.*"]) == [
        "dynamics.blocks.0.qkv", "dynamics.blocks.1.qkv", "heads.mlp.0", "heads.mlp.2",
    ]  # fmt: skip
    assert set(factors(world)) == {f"{name}.weight" for name in (
        "dynamics.blocks.0.qkv", "dynamics.blocks.1.qkv", "heads.mlp.0", "heads.mlp.2")}  # fmt: skip
    with pytest.raises(ValueError, match=r"targets \['\*.to_q'\] match none of the layers .*dynamics.blocks.0.qkv"):
        add_lora(make_world(), 2, 2.0, ["*.qkv", "*.to_q"])
    with pytest.raises(ValueError, match="rank must be at least 1"):
        add_lora(make_world(), 0, 2.0)


def test_names_that_are_usual_elsewhere_are_understood():
    published = ["to_k", "to_q", "to_v", "to_out.0"]
    assert patterns_of(published) == ["*qkv", "*out"]
    assert add_lora(make_world().dynamics, 2, 2.0, patterns_of(published)) == [
        "blocks.0.qkv", "blocks.0.out", "blocks.1.qkv", "blocks.1.out",
    ]  # fmt: skip


@pytest.mark.parametrize(("dtype", "apart"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_merged_weights_tell_the_same_to_rounding(dtype, apart):
    net = make_world().dynamics.to(dtype)
    add_lora(net, 2, 4.0, ["*qkv", "*out"])
    for name, weight in net.named_parameters():
        if "lora_B" in name:
            weight.data = 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    told = [net(torch.ones(1, 32, 16, dtype=dtype), sigma=torch.zeros(1, 2, dtype=dtype))[0]]
    copied = copy.deepcopy(net)
    for each in (net, copied):
        fold_in(each)
        told.append(each(torch.ones(1, 32, 16, dtype=dtype), sigma=torch.zeros(1, 2, dtype=dtype))[0])
    assert (told[1] - told[0]).abs().max() <= apart and torch.equal(told[1], told[2])


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with a world, and recordings."""
    folder = tmp_path_factory.mktemp("adapting")
    make_world().save_pretrained(folder / "base")
    write_shard(
        folder / "recordings" / "shard-0.h5", [make_episode(14, seed, ended=seed == 1) for seed in range(4)], {}
    )
    return folder


def run(here, out, **changes):
    data = replace(DATA, root=str(here / "recordings"))
    options = {"rank": 2, "scenes": 2, "pictures": LOOP, "train_": LOOP, "loss": LOSS, **changes}
    return adapt(str(here / "base"), data=data, out=str(out), device="cpu", **options)


def test_a_stopped_run_goes_on_to_the_same_adapter_which_is_of_its_world(here, tmp_path):
    path = run(here, tmp_path / "one")
    torch.rand(1)  # factors are drawn by the seed alone
    for stopped in ({"train_": replace(LOOP, minutes=1e-9)}, {}):
        again = run(here, tmp_path / "two", **stopped)
    one, two = Adapter.load(path), Adapter.load(again)
    pairs = [pair for name in one.factors for pair in zip(one.factors[name], two.factors[name], strict=True)]
    assert all(torch.equal(*pair) for pair in pairs) and one.card == two.card
    base = DiTWorld.from_pretrained(here / "base", device="cpu")
    adapted = DiTWorld.from_pretrained(here / "base", device="cpu", adapter=path)
    assert one.base == base.fingerprint and len(adapted.scenes) == 2 and "Stage `adapt`" in one.card
    changed = {name for name, w in adapted.state_dict().items() if not torch.equal(w, base.state_dict()[name])}
    assert {"error_range", "dynamics.blocks.0.up.weight", "heads.squeeze.weight"} <= changed
    assert any(name.startswith("vae.decoder") for name in changed) and "dynamics.blocks.0.up.bias" not in changed
    assert path.stat().st_size < (here / "base" / "model.safetensors").stat().st_size + 60_000


def test_of_rank_zero_all_weights_learn_and_a_world_is_written(here, tmp_path):
    folder = run(here, tmp_path, rank=0, pictures=replace(LOOP, steps=0), loss=replace(LOSS, drop_control=0.5))
    base, world = (DiTWorld.from_pretrained(place, device="cpu") for place in (here / "base", folder))
    assert not torch.equal(world.dynamics.position, base.dynamics.position)
    assert torch.equal(world.vae.to_moments.weight, base.vae.to_moments.weight), "pictures stay with 0 steps"
    assert world.guidable and not base.guidable


def test_recordings_of_another_kind_and_patterns_without_a_layer_are_refused_before_the_first_step(here, tmp_path):
    episode = make_episode(14, 0)
    controls = [replace(each, name=f"other_{each.name}") for each in episode.spec.controls]
    spec: WorldSpec = replace(episode.spec, controls=controls)
    episodes = [replace(episode, spec=spec) for _ in range(2)]
    write_shard(tmp_path / "recordings" / "shard-0.h5", episodes, {})
    with pytest.raises(ValueError, match=r"the world and the recordings do not fit: controls: .*steering.*other_steer"):
        adapt(str(here / "base"), data=DataConfig(str(tmp_path / "recordings")), out=str(tmp_path / "run"))
    with pytest.raises(ValueError, match="match none of the layers"):
        run(here, tmp_path / "run", targets=["blocks.*.nothing"])
    with pytest.raises(ValueError, match="no null control: loss.drop_control needs --rank 0 .* got 0.5 and rank 2"):
        run(here, tmp_path / "run", loss=replace(LOSS, drop_control=0.5))
    assert not list((tmp_path / "run").rglob("*.pt"))
