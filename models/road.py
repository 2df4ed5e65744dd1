"""Worlds whose car drives on a route, among others where these are told: what they have been told, and may be told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from drivedit.models.conditions.layout import check_layout, nearest
from drivedit.models.conditions.route import given_route
from drivedit.models.scenes import OTHERS, ROUTE, Scene, check_scene
from drivedit.models.state import RowState
from drivedit.models.world import World
from drivedit.utils import Route


class RoadState(RowState):
    """What the states of such worlds hold among other things, of B worlds.

    Attributes:
        seeds: `[B]` of the random streams.
        pose: `[B, 3]` (x, y, yaw) on the route's plane.
        arc: `[B]` foot point on the route in metres.
        points: `[B, M, 2]` the route.
        count: `[B]` points of the route that count; 0: no route.
        spacing: `[B]` metres between two points.
        closed: `[B]` whether the route is a loop.
        bounds: `[B, 4]` of the playfield: x and y at least, x and y at most.
        others: `[B, A, 8]` boxes of others and their speeds, where `layout` is a condition.
        told: `[B]` whether the world is told who is there, likewise.
    """

    seeds: Tensor
    pose: Tensor
    arc: Tensor
    points: Tensor
    count: Tensor
    spacing: Tensor
    closed: Tensor
    bounds: Tensor
    others: Tensor
    told: Tensor

    @property
    def route(self) -> Route:
        """The routes of all rows."""
        return Route(self.points, self.count, self.spacing, self.closed, self.bounds)


S = TypeVar("S", bound=RoadState)


class RoadWorld(World[S]):
    """A world with a car on a route."""

    @property
    def end_threshold(self) -> float:  # type: ignore[override]
        """Probability beyond which an episode ends; 1: never."""
        return self.config.end_threshold

    def check_scene(self, scene: Scene | Mapping[str, Any]) -> Scene:
        """A scene of this world; see `World.check_scene`."""
        return check_scene(scene, self.spec)

    def condition(self, state: S, values: Mapping[str, Any], rows: Sequence[int] | None = None) -> S:
        """The state on another road, or with others on it; see `World.condition`."""
        self.check_conditions(values)
        index = torch.arange(len(state), device=self.device)
        if rows is not None:
            index = index[list(rows)]
        if ROUTE in values:
            route, arc = given_route(values[ROUTE], state.pose[index], state.arc[index])
            state = state.with_rows(index, **vars(route), arc=arc)
        if OTHERS in values:
            boxes = check_layout(values[OTHERS])
            others = nearest(boxes, state.pose[index], self.config.others)
            told = torch.full((len(index),), boxes is not None, device=self.device)
            state = state.with_rows(index, others=others, told=told)
        return state

    def conditions(self, state: S) -> dict[str, Any]:
        """The `route` of all rows, the `arc` `[B]` of their cars on it in metres, and the boxes of others."""
        others = {OTHERS: state.others} if OTHERS in self.spec.conditions else {}
        return {ROUTE: state.route, "arc": state.arc, **others}

    def given(self, state: S) -> dict[str, Tensor]:
        """Whether rows are told the route, and who is there; see `World.given`."""
        told = {ROUTE: state.count > 0}
        if OTHERS in self.spec.conditions:
            told[OTHERS] = state.told
        return {name: told[name] for name in self.spec.conditions if name in told}

    def reseed(self, state: S, seeds: Sequence[int]) -> S:
        """The state with other futures."""
        return replace(state, seeds=torch.as_tensor(list(seeds), dtype=torch.long, device=self.device))

    def poses(self, state: S) -> Tensor:
        """The cars' poses, integrated from the dreamed motions, `[B, 3]`."""
        return state.pose
