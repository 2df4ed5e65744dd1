"""Parameters load whole tensors, shards of them and packed ones."""

import copy

import pytest
import torch

from drivedit.models.parameter import BasevLLMParameter, ModelWeightParameter, PackedvLLMParameter


def test_a_loader_loads():
    weight = BasevLLMParameter(torch.zeros(2, 3), BasevLLMParameter.load_whole)
    weight.load(torch.ones(2, 3))
    assert weight.requires_grad and torch.equal(weight.data, torch.ones(2, 3))
    twin = copy.deepcopy(weight)
    twin.load(torch.zeros(2, 3))
    assert isinstance(twin, BasevLLMParameter) and weight.data.all() and not twin.data.any()
    with pytest.raises(ValueError, match=r"\[2, 3\].*\[3, 2\]"):
        weight.load(torch.ones(3, 2))


@pytest.mark.parametrize(("axis", "shape"), [(0, (4, 4)), (1, (8, 2))])
def test_shards_put_together_are_the_whole(axis, shape):
    whole, shards = torch.randn(8, 4), []
    for rank in range(2):
        weight = ModelWeightParameter(torch.empty(shape), BasevLLMParameter.load_whole)
        load = (weight.load_column_parallel_weight, weight.load_row_parallel_weight)[axis]
        load(whole, rank)
        shards.append(weight.data)
        with pytest.raises(ValueError, match="shard 2"):
            load(whole, 2)
    assert torch.equal(torch.cat(shards, axis), whole)


def test_packed_shards_are_counted_in_elements():
    def packed(**options) -> PackedvLLMParameter:
        data = torch.zeros(8, 4, dtype=torch.int32)
        return PackedvLLMParameter(data, BasevLLMParameter.load_whole, packed_factor=8, **options)

    assert packed().adjust_shard_indexes_for_packing(64, 16) == (8, 2)
    assert packed(marlin_tile_size=16).adjust_shard_indexes_for_packing(64, 16) == (128, 32)
    assert not packed().requires_grad
    with pytest.raises(ValueError, match="multiples of 8, got 60"):
        packed().adjust_shard_indexes_for_packing(60, 16)
    with pytest.raises(ValueError, match="positive"):
        PackedvLLMParameter(torch.zeros(1), BasevLLMParameter.load_whole, packed_factor=0)
