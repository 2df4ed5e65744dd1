"""Readers of agents: equivariance, tokens and back, who can be seen, samples and their mean, files."""

import math

import numpy as np
import pytest
import torch
from helpers.agents import SIZE, boxes_at, make_config, make_reader
from torch import Tensor

from drivedit.config import AgentsConfig
from drivedit.models.sets.agent_sets import AgentSamples, AgentSet, ospa, summarise
from drivedit.models.sets.agents import NUMBERS, AgentsReader
from drivedit.models.sets.tokens import as_params, as_tokens
from drivedit.models.sets.visible import own_frame, pixel_outlines, shown_shares, visible
from drivedit.utils import generator, write_tensors

PICTURES = np.random.default_rng(0).integers(0, 255, (3, *SIZE, 3), np.uint8)


def shaken(reader: AgentsReader) -> AgentsReader:
    """With weights that are nowhere zero, so that nothing is equal by chance."""
    rng = generator(0, "shaken")
    for weight in reader.parameters():
        weight.data += 0.1 * torch.randn(weight.shape, generator=rng).to(weight)
    return reader


def permuted(params: Tensor, order: list[int], fixed: int) -> Tensor:
    return torch.cat([params[:, :fixed], as_params(as_tokens(params[:, fixed:], NUMBERS)[:, order])], 1)


def test_the_field_and_the_sampler_do_not_know_the_order_of_agents():
    reader, order = shaken(make_reader()).double(), [2, 0, 1]
    x = torch.randn(6, 1 + 3 * NUMBERS, generator=generator(0, "x"), dtype=torch.float64)
    observed = reader.picture(torch.from_numpy(PICTURES)).double()
    cells, t = reader.flow.encoder(observed), torch.full((6, 1), 0.3, dtype=torch.float64)
    field = reader.flow.vector_field
    apart = field(permuted(x, order, 1), t, cells) - permuted(field(x, t, cells), order, 1)
    assert apart.abs().max() < 1e-12 and field(x, t, cells).std() > 0.1
    one, other = (reader.flow.sample(observed, noise, 3, solver="rk4") for noise in (x, permuted(x, order, 1)))
    assert (permuted(one, order, 1) - other).abs().max() < 1e-12


def test_the_picture_is_seen_and_rows_of_a_picture_lie_side_by_side():
    reader = shaken(make_reader())
    cells = reader.flow.encoder(reader.picture(torch.from_numpy(PICTURES)))
    x, t = torch.randn(6, 1 + 3 * NUMBERS, generator=generator(0, "x")), torch.full((6, 1), 0.3)
    field = reader.flow.vector_field
    together = field(x, t, cells)
    each = torch.cat([field(x[2 * k : 2 * k + 2], t[:2], cells[k : k + 1]) for k in range(3)])
    assert torch.allclose(together, each, atol=1e-5)
    assert (together - field(x, t, cells.flip(0))).abs().max() > 1e-3
    assert (together - field(x, t, None)).abs().max() > 1e-3
    dropped = field.apply_dropout(cells, 1.0, rng=generator(0, "dropout"))
    assert torch.allclose(field(x, t, dropped), field(x, t, None), atol=1e-5)
    with pytest.raises(ValueError, match="5 rows are not a whole number for each of 3 pictures"):
        field(x[:5], t[:5], cells)


def test_tokens_go_back_to_the_boxes_that_they_tell():
    reader = make_reader()
    boxes = torch.from_numpy(np.concatenate([boxes_at((12.0, -3.0), yaw=3.0), boxes_at((30.0, 8.0), speed=-2.0)]))
    boxes = torch.cat([boxes, torch.zeros(1, 8)])[None].float()
    present = torch.tensor([[True, True, False]])
    tokens, ego = reader.numbers(boxes, present), torch.tensor([[7.0]])
    assert tokens[0, :, 0].tolist() == [1, 1, -1]
    back, own = reader.split(reader.params(tokens, ego))
    told, there = reader.boxes(back)
    assert torch.allclose(told[there], boxes[present], atol=1e-4) and torch.equal(there, present)
    assert own.item() == pytest.approx(7.0)


def test_what_is_near_hides_what_is_behind_it():
    outline = np.array([[2, 2, 6, 6], [4, 2, 8, 6], [-4, 0, 4, 8], [5, 5, 5, 9]], float)
    depth = np.array([5.0, 9.0, 20.0, 2.0])
    shares = shown_shares(outline, depth, (8, 16))
    assert shares.tolist() == pytest.approx([1.0, 0.5, (32 - 8) / 64, 0.0])
    assert shown_shares(outline, np.array([5.0, -1.0, -1.0, -1.0]), (8, 16)).tolist() == [1, 0, 0, 0]
    assert shown_shares(outline[:0], depth[:0], (8, 16)).shape == (0,)


def test_agents_count_that_are_near_in_view_and_not_hidden():
    config = make_config(tokens=2, farthest=50.0, least_pixels=1.0)
    boxes = boxes_at((20.0, 0.0), (10.0, 0.0), (15.0, 6.0), (-10.0, 0.0), (70.0, 0.0), (8.0, 30.0))
    found = visible(config, boxes, *pixel_outlines(config, boxes))
    assert found.tolist() == [1, 2]  # 0 is behind 1; the others are behind the car, too far, and out of the picture
    alone = boxes[[0, 3]]
    assert visible(config, alone, *pixel_outlines(config, alone)).tolist() == [0]
    assert visible(config, boxes[:0], *pixel_outlines(config, boxes[:0])).shape == (0,)


def test_a_box_is_seen_where_the_camera_has_it():
    config = make_config(camera=make_config().camera.from_dict({"fov": 90.0, "height": 0.75, "pitch": 0.0}))
    box = np.array([[10.0, 5.0, 0.75, 0.01, 0.01, 0.01, 0.0, 0.0]])
    outline, depth = pixel_outlines(config, box)
    height, width = SIZE
    assert depth[0] == pytest.approx(10.0)
    assert outline[0].reshape(2, 2).mean(0) == pytest.approx([width / 2 - width / 4, height / 2], abs=0.1)
    posed = own_frame(np.array([[3.0, 14.0, 0.75, 4, 2, 1.5, math.pi, 6.0]]), np.array([[3.0, 4.0, math.pi / 2]]))
    assert posed[0, [0, 1, 6, 7]] == pytest.approx([10.0, 0.0, math.pi / 2, 6.0])


def test_samples_are_those_of_their_noise_and_differ():
    reader = shaken(make_reader())
    one, same, other = (reader.sample(PICTURES, generator(seed, "a"), 2, 2) for seed in (0, 0, 1))
    assert torch.equal(one.boxes, same.boxes) and not torch.equal(one.boxes, other.boxes)
    assert one.boxes.shape == (3, 2, 3, 8) and one.present.shape == (3, 2, 3) and one.ego["speed"].shape == (3, 2)
    noise = reader.noise([generator(k, "row") for k in range(3)], 2)
    whole, part = reader.sample(PICTURES, noise=noise), reader.sample(PICTURES[1:], noise=noise[1:])
    assert torch.allclose(whole.boxes[1:], part.boxes, atol=0.3)  # in bfloat16, where there is that
    moved = reader.sample(PICTURES, noise=noise, before=PICTURES[::-1].copy())
    unsure = reader.sample(PICTURES, noise=noise, before=PICTURES[::-1].copy(), known=np.zeros(3, bool))
    assert torch.equal(unsure.boxes, whole.boxes) and not torch.equal(moved.boxes, whole.boxes)
    assert reader.imagine(4, generator(0, "a"), 2).boxes.shape == (1, 4, 3, 8)


def test_a_regression_tells_one_set():
    reader = shaken(make_reader(kind="regression"))
    read = reader.read(PICTURES, samples=3)
    assert read.spread.abs().max() < 1e-3 and set(read.presence.unique().tolist()) <= {0.0, 1.0}
    with pytest.raises(ValueError, match="a regression draws no sets"):
        reader.imagine(1, generator(0, "a"))


def samples_of(*sets: list[tuple[float, float]], tokens: int = 3) -> AgentSamples:
    boxes, present = torch.zeros(1, len(sets), tokens, 8), torch.zeros(1, len(sets), tokens, dtype=torch.bool)
    for k, places in enumerate(sets):
        boxes[0, k, : len(places)] = torch.from_numpy(boxes_at(*places)).float() if places else torch.zeros(0, 8)
        present[0, k, : len(places)] = True
    return AgentSamples(boxes, present, {"speed": torch.arange(len(sets))[None].float()})


def test_the_mean_set_matches_samples_to_one_another():
    read = summarise(samples_of([(10, 0), (20, 3)], [(21, 3), (11, 0)], [(9, 0), (19, 3)], [(10, 0)]))
    assert read.presence[0].tolist() == [1.0, 0.75, 0.0]
    assert read.boxes[0, :2, :2].tolist() == [pytest.approx([10, 0]), pytest.approx([20, 3])]
    assert read.spread[0, 0, 0].item() == pytest.approx(math.sqrt(0.5))
    assert read.spread[0, 1, 0].item() == pytest.approx(math.sqrt(2 / 3)) and read.boxes[0, 2].abs().max() == 0
    assert read.ego["speed"].item() == 1.5
    assert read.samples.boxes[0, :, 0, 0].tolist() == [10, 11, 9, 10]
    nobody = summarise(samples_of([], [], [], []))
    assert nobody.presence.abs().max() == 0 and nobody.spread.isfinite().all()
    both = AgentSet.cat([read, nobody])
    assert torch.equal(both.rows(torch.tensor([1])).boxes, nobody.boxes) and len(both.to("cpu").presence) == 2


def test_angles_have_a_mean_of_angles():
    samples = samples_of([(10, 0)], [(10, 0)])
    samples.boxes[0, :, 0, 6] = torch.tensor([math.pi - 0.1, 0.1 - math.pi])
    read = summarise(samples)
    assert abs(abs(read.boxes[0, 0, 6].item()) - math.pi) < 1e-3
    assert read.spread[0, 0, 6].item() == pytest.approx(0.1, abs=1e-3)


def test_ospa_counts_who_is_missing():
    def distance(first: list[tuple[float, float]], second: list[tuple[float, float]]) -> float:
        one, other = samples_of(first), samples_of(second)
        return ospa(one.boxes[..., :2], one.present, other.boxes[..., :2], other.present).item()

    assert distance([], []) == 0
    assert distance([(5, 0), (9, 1)], [(9, 1), (5, 0)]) == 0
    assert distance([(5, 0)], [(5, 3)]) == pytest.approx(3)
    assert distance([(5, 0)], [(5, 90)]) == pytest.approx(10)
    assert distance([(5, 0), (9, 1)], [(5, 1)]) == pytest.approx((1 + 10) / 2)
    assert distance([(5, 1)], [(5, 0), (9, 1)]) == pytest.approx((1 + 10) / 2)


def test_a_reader_is_the_same_from_its_file(tmp_path):
    reader, path = shaken(make_reader()), tmp_path / "agents.safetensors"
    reader.save(path)
    again = AgentsReader.load(path)
    assert again.config == reader.config
    one, other = (each.sample(PICTURES, generator(0, "a"), 2, 2).boxes for each in (reader, again))
    assert (one - other).abs().median() < 0.2  # weights are kept in half precision
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match="damaged"):
        AgentsReader.load(path)
    write_tensors(path, {"a": torch.zeros(1)}, "other-1", {})
    with pytest.raises(ValueError, match="format 'other-1'"):
        AgentsReader.load(path)
    with pytest.raises(ValueError, match="at most 6 MB"):
        make_reader(d_model=1024, d_ff=4096).save(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"kind": "best"}, "kind must be"), ({"heads": 3}, "divide"), ({"sky": 30}, "16 rows"), ({"tokens": 0}, "sizes"),
     ({"units": {"distance": (0.0, 1.0)}}, "units are told"), ({"least_shown": 2.0}, "least_shown")],
)  # fmt: skip
def test_configurations_that_cannot_be_are_refused(change, said):
    with pytest.raises(ValueError, match=said):
        make_config(**change)
    assert AgentsConfig.from_dict(make_config().to_dict()) == make_config()


def test_pictures_that_do_not_fit_are_named():
    reader = make_reader()
    for wrong in (PICTURES[:, :16], PICTURES.astype(np.float32), PICTURES[0], PICTURES[:0]):
        with pytest.raises(ValueError, match=r"takes pictures uint8 \[B, 32, 64, 3\], got"):
            reader.read(wrong, generator(0, "a"))
    with pytest.raises(ValueError, match="a generator, or the noise"):
        reader.read(PICTURES)
    with pytest.raises(ValueError, match="at least 1 sample"):
        reader.read(PICTURES, generator(0, "a"), 0)
    with pytest.raises(ValueError, match="noise must be of shape"):
        reader.sample(PICTURES, noise=torch.zeros(3, 2, 5))
