"""A narrower decoder for a trained world: what is cut, what is kept, and that training brings the picture back."""

import copy
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.training import make_episode
from helpers.worlds import make_world

from drivedit.config import DataConfig, LoopConfig, VAEStageConfig
from drivedit.data.recordings import write_shard
from drivedit.models import VAE3D, DiTWorld
from drivedit.models.dit.vae import ResBlock
from drivedit.training.__main__ import main
from drivedit.training.methods.decoder import DecoderMethod, prune_decoder
from drivedit.training.methods.method import Progress
from drivedit.training.stages import decoder, vae


@pytest.fixture
def network() -> VAE3D:
    torch.manual_seed(0)
    net = VAE3D(3, 4, (8, 8, 16, 16), 2, False, temporal_kernel=1, decoder_dims=(4, 8, 8, 16)).eval()
    for parameter in net.parameters():
        parameter.data.normal_(0, 0.2)
    return net


def test_channels_that_say_nothing_are_cut_first(network):
    """Half of the channels of every block are silent or unheard: without them the picture is the same."""
    z = torch.randn(6, 4, 2, 3)
    with torch.no_grad():
        for layer in network.decoder:
            if isinstance(layer, ResBlock):
                first, second = layer.conv1.conv.state_dict(), layer.conv2.conv.state_dict()
                dead = torch.randperm(len(first["bias"]))[: len(first["bias"]) // 2]
                silent, unheard = dead[::2], dead[1::2]
                first["weight"][silent], first["bias"][silent] = 0.0, -1.0
                second["weight"][:, unheard] = 0.0
        wanted = network.decode(z[:, :, None])
        small = prune_decoder(network, (4, 4, 4, 8), z)
        assert torch.allclose(small.decode(z[:, :, None]), wanted, atol=1e-5)
        assert not torch.allclose(prune_decoder(network, (4, 2, 2, 4), z).decode(z[:, :, None]), wanted, atol=1e-2)
    sizes = [layer.conv1.conv.out_channels for layer in small.decoder if isinstance(layer, ResBlock)]
    assert sizes == [8, 8, 4, 4, 4, 4] and small.config.decoder_inner == [4, 4, 4, 8]
    same = network.encoder.state_dict()
    assert all(torch.equal(value, same[name]) for name, value in small.encoder.state_dict().items())
    with pytest.raises(ValueError, match="wider than the decoder: 32 > 16"):
        prune_decoder(network, (4, 8, 8, 32), z)
    with pytest.raises(ValueError, match="decoder_inner must have 4 entries"):
        prune_decoder(network, (4, 8), z)


def test_it_learns_the_picture_that_the_latents_stand_for(network):
    """Pictures of the whole decoder are what the narrow one is shown; the encoder and the latents stay."""
    z = torch.randn(64, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        frames = ((network.decode(z[:, :, None])[:, :, 0].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    flat = torch.zeros(1, 4, 1, 1), torch.ones(1, 4, 1, 1), torch.full((1, 4, 1, 1), 0.01)
    small = prune_decoder(network, (4, 4, 4, 8), z)
    encoder = copy.deepcopy(small.encoder.state_dict())
    method = DecoderMethod(small, VAEStageConfig(), flat)
    optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], 3e-3)
    quality = []
    for step in range(60):
        loss, logs = method.loss(
            {"latents": z, "frames": frames}, Progress(step, 0.0), torch.Generator().manual_seed(step)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        quality.append(logs["psnr"].item())
    assert quality[-1] > quality[0] + 3
    assert all(torch.equal(value, encoder[name]) for name, value in method.vae.encoder.state_dict().items())


def test_the_world_around_it_stays(tmp_path):
    write_shard(tmp_path / "recordings" / "shard-00000.h5", [make_episode(30, 0), make_episode(25, 1)])
    loop = LoopConfig(steps=3, batch_size=4, bf16=False, warmup=1, log_every=1)
    data = DataConfig(str(tmp_path / "recordings"), validation_fraction=0.5)
    vae(make_world().config, loop, data, VAEStageConfig(), str(tmp_path), "cpu")
    before = DiTWorld.from_pretrained(tmp_path / "vae" / "world", device="cpu")
    made = decoder(
        str(tmp_path / "vae" / "world"),
        inner=[8, 4, 8, 8],
        train_=loop,
        data=data,
        loss=VAEStageConfig(),
        out=str(tmp_path),
        device="cpu",
    )
    after = DiTWorld.from_pretrained(tmp_path / "decoder" / "world", device="cpu")
    assert after.config == replace(before.config, vae=made.vae.config) and after.config != before.config
    for name, value in before.state_dict().items():
        if not name.startswith(("vae.decoder", "vae.to_frame")):
            assert torch.equal(after.state_dict()[name], value), name
    assert len(after.scenes) == len(before.scenes) and after.card.startswith(before.card)
    frame = after.decode(torch.zeros(1, *after.latent_shape()))
    assert frame.shape == (1, 64, 64, 3) and not np.array_equal(frame, before.decode(torch.zeros(1, 4, 8, 8)))
    shutil.rmtree(tmp_path / "decoder")
    words = ["decoder", "--world", f"{tmp_path}/vae/world", "--inner", "[8, 4, 8, 8]", "--out", str(tmp_path)]
    words += ["--data.root", data.root, "--data.validation_fraction", "0.5", "--device", "cpu"]
    main([*words, "--train.steps", "1", "--train.batch_size", "2", "--train.bf16", "false"])
    assert (tmp_path / "decoder" / "world" / "model.safetensors").is_file()
    with pytest.raises(SystemExit):
        main(["decoder", "--world", f"{tmp_path}/vae/world"])  # without widths, before anything is read
