"""Sensors measure where rays meet bodies: against a march along each ray, against all bodies, against geometry."""

import math

import numpy as np
import pytest
from helpers.streets import PLAIN, empty_world

from drivedit.data.domains.street import rays
from drivedit.data.domains.street.simulator import Moment, Sensors, agents, begin, drive, make_world

pytestmark = pytest.mark.xdist_group("street")


def inside(body: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Whether points `[..., 3]` lie in a body."""
    x, y, z = np.moveaxis(points, -1, 0) - np.array([body[name] for name in "xyz"]).reshape(3, *[1] * (points.ndim - 1))
    lx, ly = body["c"] * x + body["n"] * y, body["c"] * y - body["n"] * x
    hx, hy, hz = body["hx"], body["hy"], body["hz"]
    if body["form"] == rays.ELLIPSOID:
        return (lx / hx) ** 2 + (ly / hy) ** 2 + (z / hz) ** 2 <= 1
    if body["form"] == rays.CYLINDER:
        return (lx**2 + ly**2 <= hx**2) & (abs(z) <= hz)
    long = hx * (1 - rays.NARROWER * (z + hz) / (2 * hz)) if body["form"] == rays.TAPER else hx
    return (abs(lx) <= long) & (abs(ly) <= hy) & (abs(z) <= hz)


def some_body(rng: np.random.Generator, form: int) -> np.ndarray:
    body, angle = np.zeros(1, rays.BODY), rng.uniform(0, 2 * math.pi)
    for name, value in zip(
        ("x", "y", "z", "hx", "hy", "hz"), [*rng.uniform(-5, 5, 3), *rng.uniform(0.5, 3, 3)], strict=True
    ):
        body[name] = value
    if form in (rays.ELLIPSOID, rays.CYLINDER):
        body["hy"], angle = body["hx"], 0.0
    body["form"], body["c"], body["n"], body["id"], body["what"] = form, math.cos(angle), math.sin(angle), 7, rays.CAR
    return body


@pytest.mark.parametrize("form", [rays.BOX, rays.TAPER, rays.ELLIPSOID, rays.CYLINDER])
def test_a_ray_meets_a_body_where_a_march_along_it_does(form):
    rng, t, hits = np.random.default_rng(form), np.linspace(0, 40, 8001), 0
    for _ in range(250):
        body = some_body(rng, form)
        origin = rng.normal(size=3)
        origin *= 15 / np.linalg.norm(origin)
        way = np.array([body[name][0] for name in "xyz"]) + rng.normal(size=3) * 1.5 - origin
        way /= np.linalg.norm(way)
        points = origin + t[:, None] * way
        marched = inside(body[0], points)
        found = rays.hit(body[0], *origin, *way)
        if form == rays.CYLINDER and marched.any() and abs(points[marched][0, 2] - body["z"][0]) > body["hz"][0] - 0.05:
            continue  # it has no lids: poles and trunks are seen from the side
        if marched.sum() > 2:  # those that only touch a corner fall between two steps
            assert found == pytest.approx(t[marched][0], abs=0.006)
            hits += 1
        elif not marched.any():
            assert found == rays.FAR or not inside(body[0], origin + (found + 0.01) * way)
    assert hits > 80


@pytest.fixture(scope="module")
def scene():
    """A dense town, driven for 2 s, with what is seen of it."""
    world = make_world(3, {**PLAIN, "traffic": "dense"})
    moment = drive(world, begin(world, 130.0, 0, 0.0, 0.0, 8.0), np.array([0.0, 0.1]), 100)[0]
    sensors = Sensors((64, 128), (32, 256))
    return world, moment, sensors, sensors.see(world, moment)


def test_every_pixel_shows_the_nearest_body(scene):
    world, moment, sensors, seen = scene
    bodies = sensors._near(world, moment)
    sensors.look(world, moment)
    eye = np.array([*(moment.pose[:2] + 0.4 * np.array([math.cos(moment.pose[2]), math.sin(moment.pose[2])])), 1.5])
    rng = np.random.default_rng(0)
    for v, u in zip(rng.integers(0, 128, 250), rng.integers(0, 256, 250), strict=True):
        way = sensors._rays[v, u]
        found = [rays.hit(body, *eye, *way) for body in bodies]
        ground = -eye[2] / way[2] if way[2] < -1e-6 and -eye[2] / way[2] < 700 else rays.FAR
        assert sensors._depth[v, u] == pytest.approx(min([*found, ground]), rel=1e-5)


def test_every_beam_meets_the_nearest_body(scene):
    world, moment, sensors, seen = scene
    bodies, (x, y, yaw) = sensors._near(world, moment), moment.pose
    rng, returned = np.random.default_rng(1), 0
    for i, j in zip(rng.integers(0, 32, 250), rng.integers(0, 256, 250), strict=True):
        up, right = sensors._rows[i], (j / 256 - 0.5) * 2 * math.pi
        way = math.cos(up) * math.cos(yaw - right), math.cos(up) * math.sin(yaw - right), math.sin(up)
        found = min(rays.hit(body, x, y, 1.9, *way) for body in bodies)
        found = min(found, -1.9 / way[2] if way[2] < 0 else rays.FAR)
        metres, mask = seen.range[i, j]
        returned += mask > 0
        assert (metres > 0) == (mask == 1)
        assert metres == 0 or metres == pytest.approx(found, rel=1e-5)
    assert returned > 100


def test_labels_agree_with_distances(scene):
    world, moment, sensors, seen = scene
    sensors.look(world, moment)
    ways = sensors._rays[1::2, 1::2]
    eye = np.array([*(moment.pose[:2] + 0.4 * np.array([math.cos(moment.pose[2]), math.sin(moment.pose[2])])), 1.5])
    points = eye + seen.depth[..., None] * ways / np.linalg.norm(ways, axis=-1, keepdims=True)
    assert ((seen.depth == 0) == (seen.classes == rays.SKY)).all()
    ground = np.isin(seen.classes, [rays.ROAD, rays.MARKING, rays.TERRAIN, rays.SIDEWALK])
    assert np.abs(points[ground, 2]).max() < 1e-3 and ground.mean() > 0.2
    assert {rays.ROAD, rays.MARKING, rays.SIDEWALK, rays.BUILDING, rays.CAR} <= set(np.unique(seen.classes))
    assert ((seen.instance > 0) == (seen.classes == rays.CAR)).all()
    others = agents(world, moment)
    for number in np.unique(seen.instance[seen.instance > 0]):
        x, y, z, long, wide, tall, yaw = others.boxes[others.ids == number][0]
        place = points[seen.instance == number] - (x, y, z)
        ahead, left = (
            place[:, 0] * math.cos(yaw) + place[:, 1] * math.sin(yaw),
            place[:, 1] * math.cos(yaw) - place[:, 0] * math.sin(yaw),
        )
        assert (abs(ahead) < long / 2 + 0.05).all() and (abs(left) < wide / 2 + 0.05).all()
        assert (abs(place[:, 2]) < tall / 2 + 0.05).all()


@pytest.mark.parametrize("right", [0.0, math.pi / 2, -math.pi / 2])
def test_a_lidar_measures_the_distance_of_a_box_on_its_side(right):
    world, sensors = empty_world(), Sensors((2, 2), (32, 256))
    moment = begin(world, 100.0, 0, 0.0, 0.0, 0.0)
    x, y, yaw = moment.pose
    body = some_body(np.random.default_rng(0), rays.BOX)
    body["x"], body["y"], body["z"] = x + 20 * math.cos(yaw - right), y + 20 * math.sin(yaw - right), 2.0
    body["hx"], body["hy"], body["hz"], body["c"], body["n"] = (
        1.5,
        3.0,
        3.0,
        math.cos(yaw - right),
        math.sin(yaw - right),
    )
    out, instance, _ = sensors.scan(world, moment, body)
    column = 128 + round(right / (2 * math.pi) * 256)
    rows = [i for i in range(32) if out[i, column, 1] and instance[i, column] == 7]
    assert len(rows) >= 8
    for i in rows:
        assert out[i, column, 0] == pytest.approx(18.5 / math.cos(sensors._rows[i]), rel=1e-5)


def test_a_smaller_lidar_is_every_other_beam_of_the_finest(scene):
    world, moment, _, seen = scene
    fine = Sensors((2, 2), (64, 512)).scan(world, moment)[0]
    assert np.array_equal(seen.range, fine[::2, ::2])
    with pytest.raises(ValueError, match=r"divide \(64, 512\), got \(30, 256\)"):
        Sensors((2, 2), (30, 256))


def test_weather_shortens_the_lidar_in_order():
    shares = []
    for weather in ("clear", "rain", "snow", "fog"):
        world = make_world(3, {**PLAIN, "weather": weather})
        out = Sensors((2, 2), (32, 256)).scan(world, begin(world, 130.0, 0, 0.0, 0.0, 0.0))[0]
        shares.append(out[..., 0].max())
        assert 0.2 < out[..., 1].mean() < 1
    assert shares == sorted(shares, reverse=True) and shares[0] <= 85


def test_stars_and_clouds_stand_still_where_the_car_turns():
    world = make_world(3, {**PLAIN, "road": "highway", "time": "night"})
    sensors, moment = Sensors((64, 128), (1, 1)), begin(world, 100.0, 0, 0.0, 0.0, 0.0)
    turned = Moment(moment.driven.copy(), moment.cars, moment.number, moment.tick)
    sky = sensors.look(world, moment)
    turned.driven["yaw"] -= math.radians(12)
    later = sensors.look(world, turned)
    middle, rows = math.tan(math.radians(37.5)), slice(2, 12)
    columns = np.arange(128)
    angle = np.arctan((2 * (columns + 0.5) / 128 - 1) * middle)  # to the right
    moved = np.round((np.tan(angle - math.radians(12)) / middle + 1) * 64 - 0.5).astype(int)
    both = (moved >= 0) & (moved < 128)
    before, after = sky[0][rows][:, columns[both]].mean((0, 2)), later[0][rows][:, moved[both]].mean((0, 2))
    assert np.corrcoef(before, after)[0, 1] > 0.3 and before.std() > 1
