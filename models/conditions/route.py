"""What a network is told of the route: the line ahead, the playfield's edges, and where the road lies in the picture.

Legend: B rows, K arc-length offsets, P tokens per frame. Poses are (x, y, yaw) with yaw counter-clockwise from +x;
everything told to networks and people is right-positive, like steering.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from drivedit.config import CameraConfig, WorldConfig
from drivedit.utils import Route

ON_ROUTE: dict[str, Any] = {"points": None, "closed": False, "bounds": None, "arc": None}
SKY = 1000.0  # metres ahead, where no road is told


def route_code(route: Route, pose: Tensor, s: Tensor, offsets: Tensor, scale: float) -> Tensor:
    """What the network is told of the route: points and directions around the car, in the car's frame.

    A car that faces backwards is told the route in the other direction.

    Args:
        route: The routes.
        pose: `[B, 3]`.
        s: Foot points `[B]`.
        offsets: Arc lengths `[K]` relative to the foot point.
        scale: Metres for one unit.

    Returns:
        `[B, 4 * K + 1]`: right, forward (squashed beyond about 6 units), sine and cosine of the direction to the
        right, and a flag that is 1; all zero in rows without a route.
    """
    forward = torch.stack([pose[:, 2].cos(), pose[:, 2].sin()], -1)
    right = torch.stack([forward[:, 1], -forward[:, 0]], -1)
    points, tangents = route.ahead(s, pose[:, 2], offsets)
    delta = (points - pose[:, None, :2]) / scale
    delta = delta * 6 / (36 + delta.square().sum(-1, keepdim=True)).sqrt()
    parts = [(v * axis[:, None]).sum(-1) for v in (delta, tangents) for axis in (right, forward)]
    code = torch.cat([*parts, torch.ones_like(s)[:, None]], -1)
    return code * (route.count > 0)[:, None]


def bounds_code(bounds: Tensor, pose: Tensor, reach: float) -> Tensor:
    """What the network is told of the playfield: where its nearest edge is, once that is less than `reach` away.

    Args:
        bounds: `[B, 4]` x and y at least, x and y at most.
        pose: `[B, 3]`.
        reach: Metres.

    Returns:
        `[B, 4]`: right and forward part of the direction to the edge, times its nearness; the nearness (0: out of
        reach, 1: at the edge, above: beyond); and the same with an eighth of the reach.
    """
    apart = torch.cat([pose[:, :2] - bounds[:, :2], bounds[:, 2:] - pose[:, :2]], -1)
    distance, edge = apart.min(-1)
    outward = pose.new_tensor([[-1.0, 0.0], [0.0, -1.0], [1.0, 0.0], [0.0, 1.0]])[edge]
    cos, sin = pose[:, 2].cos(), pose[:, 2].sin()
    near = (1 - distance / reach).clamp(0, 1.5)
    right = near * (outward[:, 0] * sin - outward[:, 1] * cos)
    forward = near * (outward[:, 0] * cos + outward[:, 1] * sin)
    return torch.stack([right, forward, near, (1 - 8 * distance / reach).clamp(0, 2)], -1)


def route_checks(route: Route) -> list[tuple[str, str, Tensor]]:
    """What must hold of the parts of stored routes: name, what is wanted, and in which rows it holds, bool `[B]`."""
    bounds = route.bounds
    return [
        ("count", "0 or at least 2 points", route.count != 1),
        ("spacing", "more than 0 m", route.spacing > 0),
        ("closed", "True or False", route.closed.view(torch.uint8) < 2),
        ("bounds", "[x_min, y_min, x_max, y_max]", (bounds[:, :2] < bounds[:, 2:]).all(1)),
    ]


def given_route(told: Mapping[str, Any] | None, pose: Tensor, last: Tensor) -> tuple[Route, Tensor]:
    """A route that is given from now on, for some rows, and where on it their cars are.

    Args:
        told: Some of `points`, `closed`, `bounds` and `arc`, as `World.condition` takes them; None: it is dreamed.
        pose: `[B, 3]`.
        last: Arc lengths `[B]` that they were at.

    Returns:
        The route of all rows, and arc lengths `[B]`.

    Raises:
        ValueError: There is another part, or the points are no route.
    """
    told = told or {}
    if told.keys() - ON_ROUTE.keys():
        raise ValueError(f"the condition route has the parts {list(ON_ROUTE)}, got {list(told)}")
    *given, arc = {**ON_ROUTE, **told}.values()
    route = Route.from_points(*([part] * len(pose) for part in given)).to(pose.device)
    begin = None if arc is None else torch.full_like(last, arc)
    return route, route.foot(pose[:, :2], begin)  # a drawing may pass the car several times: this is where it is


class RouteCoder(nn.Module):
    """All that the network is told of the place: route, bounds, and a map of the road where the picture shows it.

    `bounds_code` is told where the world's configuration asks for it. The map says for each cell of the picture how far
    the nearest piece of the centre line is, in half widths of the road beyond its edge, from -1 (on it) to 2 (far).

    Args:
        config: The world's configuration.
    """

    offsets: Tensor
    arcs: Tensor
    cells: Tensor

    def __init__(self, config: WorldConfig) -> None:
        super().__init__()
        self.scale, self.half_width = config.route_scale, config.road_half_width
        self.bounds_reach = config.bounds_reach
        first, last, step = config.map_arcs
        self.register_buffer("offsets", torch.tensor(config.route_offsets), persistent=False)
        self.register_buffer("arcs", torch.arange(first, last + step / 2, step, device="cpu"), persistent=False)
        self.register_buffer("cells", _cells(config), persistent=False)

    @property
    def width(self) -> int:
        """Numbers of a code."""
        return 4 * len(self.offsets) + 1 + 4 * (self.bounds_reach is not None) + len(self.cells)

    def forward(self, route: Route, pose: Tensor, s: Tensor) -> Tensor:
        """Codes `[B, K]` of poses `[B, 3]` with foot points `[B]`; zeros where there is no route, or no edge near."""
        code = route_code(route, pose, s, self.offsets, self.scale)
        if self.bounds_reach is not None:
            code = torch.cat([code, bounds_code(route.bounds, pose, self.bounds_reach)], -1)
        if not len(self.cells):
            return code
        forward = torch.stack([pose[:, 2].cos(), pose[:, 2].sin()], -1)
        right = torch.stack([forward[:, 1], -forward[:, 0]], -1)
        points, tangents = route.at(s[:, None] + self.arcs)
        delta = points - pose[:, None, :2]
        seen = torch.stack([(delta * right[:, None]).sum(-1), (delta * forward[:, None]).sum(-1)], -1)
        apart = torch.baddbmm(
            seen.square().sum(-1)[:, None], self.cells.expand(len(pose), -1, -1), seen.transpose(1, 2), alpha=-2
        ).amin(-1)
        distance = (apart + self.cells.square().sum(-1)).clamp(min=0).sqrt()
        road = (distance / self.half_width - 1).clamp(max=2)
        return torch.cat([code, road * (route.count > 0)[:, None]], -1)


def _cells(config: WorldConfig) -> Tensor:
    """Where on the ground (right, forward, in metres) the map's cells lie, token by token: `[P * n * n, 2]`."""
    n, pixels = config.map_cells, config.token_pixels
    rows, columns = config.image_size[0] // pixels, config.image_size[1] // pixels
    x, y = ((torch.arange(count * n, device="cpu") + 0.5) / (count * n) for count in (columns, rows))
    if config.camera is not None:
        height, width = config.image_size
        grid = ground_below(config.camera, 2 * x - 1, (2 * y[:, None] - 1) * height / width)
    elif config.view is not None:
        width, height, car_x, car_y = config.view
        x, y = (x - car_x) * width, (car_y - y) * height
        grid = torch.stack([x.expand(rows * n, -1), y[:, None].expand(-1, columns * n)], -1)
    else:
        return torch.zeros(0, 2)
    return grid.reshape(rows, n, columns, n, 2).transpose(1, 2).reshape(-1, 2)


def ground_below(camera: CameraConfig, x: Tensor, y: Tensor) -> Tensor:
    """Where what a camera sees at places of its picture (half widths to the right, and down) lies on level ground.

    Returns:
        `[..., 2]` metres to the right of the car and ahead; far ahead where the sky is seen.
    """
    slope, pitch = math.tan(math.radians(camera.fov) / 2), math.radians(camera.pitch)
    right, down = torch.broadcast_tensors(x * slope, y * slope)
    sinks = down * math.cos(pitch) + math.sin(pitch)  # for one metre of depth
    depth = camera.height / sinks.clamp(min=1e-6)
    forward = depth * (math.cos(pitch) - down * math.sin(pitch)) + camera.ahead
    ground = torch.stack([right * depth, forward], -1)
    return torch.where((sinks > camera.height / SKY)[..., None], ground, ground.new_tensor([0.0, SKY]))
