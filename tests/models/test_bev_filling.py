"""New ground: what draws it and what dreams it."""

import pytest
import torch
from helpers.fields import bev_config, make_bev_world

from drivedit.models.bev.filling import Drawer, Filler
from drivedit.utils import generator

ROWS = 2


def drawn(name: str, *shape: int) -> torch.Tensor:
    return torch.randn(ROWS, *shape, generator=generator(0, name))


@pytest.fixture(scope="module")
def given() -> tuple[torch.Tensor, ...]:
    """Ground, what is known of it, the road, the code, and what is seen."""
    filler = make_bev_world().filler
    known = (torch.arange(32) < 16).float()[None, None, :, None].expand(ROWS, 1, 32, 16)
    return drawn("ground", 4, 32, 16) * known, known, drawn("road", 6, 32, 16), drawn("code", 4), filler.unseen(known)


def test_a_flow_that_knows_the_latents_arrives_at_them_in_any_number_of_passes(given):
    filler, wanted = Filler(bev_config()), drawn("latents", 48, 8, 4)

    def oracle(told, noisy, level, code):
        return (noisy - wanted) / level[:, None, None, None]

    filler.forward = oracle  # type: ignore[method-assign]
    for passes in (1, 4, 7):
        filler.passes = passes
        found = filler.dreamed(given[0], drawn("noise", 48, 8, 4), given[3])
        assert torch.allclose(found, wanted, atol=1e-4)


def test_all_that_is_told_shapes_what_is_dreamed(given):
    filler, noise = make_bev_world().filler, drawn("noise", 48, 8, 4)

    def dreamed(*told: torch.Tensor) -> torch.Tensor:
        return filler.dreamed(filler.given(*told), noise, told[3])

    first = dreamed(*given)
    assert first.shape == noise.shape and torch.equal(first, dreamed(*given))
    for place in range(5):
        told = list(given)
        told[place] = told[place] + 0.5
        assert not torch.allclose(dreamed(*told), first, atol=1e-5), place
    assert not torch.equal(filler.dreamed(filler.given(*given), noise + 1, given[3]), first)


def test_what_is_known_stays_and_the_rest_is_drawn_of_latents(given):
    world, noise = make_bev_world(), drawn("noise", *make_bev_world().noise_shape())
    ground, known, road, code, seen = given
    ground = ground.tanh()
    filled = world.filled(ground, known, road, code, seen, noise)
    assert (
        torch.equal(filled[:, :, :16], ground[:, :, :16]) and (filled[:, :, 16:] != 0).all() and filled.abs().max() < 1
    )
    latents = world.filler.dreamed(world.filler.given(*given), noise, code)
    assert latents.shape == (ROWS, *world.noise_shape())
    again = world.drawer(latents, road, code)
    other = world.filled(0 * ground, 0 * known, road, code, seen, noise)
    assert again.shape == other.shape == filled.shape


def test_a_latent_is_drawn_where_it_lies_and_the_road_with_it():
    drawer, latents = Drawer(bev_config()), drawn("latents", 48, 8, 4)
    road, code = drawn("road", 6, 32, 16), drawn("code", 4)
    first = drawer(latents, road, code)
    assert first.shape == (ROWS, 4, 32, 16)
    other = latents.clone()
    other[:, :, 1, 1] += 1
    changed = (drawer(other, road, code) != first).any(1)[0]
    assert changed[4:8, 4:8].all()
    road[:, :, 20, 10] += 1
    assert (drawer(latents, road, code) != first)[0, :, 20, 10].all()
