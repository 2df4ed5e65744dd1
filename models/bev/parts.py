"""The parts of a `BevWorld`'s step: scenes are looked at, the ground is filled, the car moves, pictures are rendered.

Training and dreaming run the same parts.

Legend: B rows, C H W the picture, h w cells of the renderer, G X Y the ground, Z x y latents of it, A others, L how
they look.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from drivedit.config import BevWorldConfig
from drivedit.config.bev import BLOCK, POOLED
from drivedit.models.bev.filling import Drawer, Filler
from drivedit.models.bev.ground import Ground, beside
from drivedit.models.bev.networks import HEIGHTS, Looker, Renderer, Seen
from drivedit.models.bev.others import TOLD, carried, told_maps
from drivedit.models.bev.planes import Planes
from drivedit.models.bev.traffic import Traffic
from drivedit.models.layers.ego import EgoMotion
from drivedit.models.layers.heads import HeadOutputs, Heads
from drivedit.models.told import TellingNetworks
from drivedit.utils import Route, motion_between

FARTHEST = 500.0  # metres to what is looked up
LEAST = 1e-6  # weight


@dataclass
class Scenery:
    """What a picture is rendered of, whatever the car does.

    Attributes:
        ground: `[B, G, X, Y]`.
        anchor: `[B, 3]` poses of its windows.
        code: `[B, E]` of the scene as a whole.
        key: The start picture, and where it shows others, `[B, C + 1, H, W]`.
        key_pose: From where it was seen, `[B, 3]`.
    """

    ground: Tensor
    anchor: Tensor
    code: Tensor
    key: Tensor
    key_pose: Tensor

    def rows(self, where: Tensor) -> Scenery:
        """Some of the rows."""
        return Scenery(*(each[where] for each in vars(self).values()))

    def with_rows(self, where: Tensor, other: Scenery) -> Scenery:
        """The same, but for some rows, which are those of another."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Scenery(*(each.index_put((where,), new) for each, new in pairs))


class BevNetworks(TellingNetworks):
    """Ego-motion, traffic, looker, filler, renderer, and heads.

    Args:
        config: Configuration of the networks, the picture and the heads.

    Raises:
        ValueError: The spec shows no picture, or has no controls.
    """

    config: BevWorldConfig
    spots: Tensor
    ground_pixels: Tensor

    def __init__(self, config: BevWorldConfig) -> None:
        super().__init__(config)
        spec = config.spec
        self.planes, self.window = Planes(config.camera, config.image_size, config.depths), Ground(config)
        self.looker, self.filler, self.drawer = Looker(config), Filler(config), Drawer(config)
        self.renderer = Renderer(config, self.planes)
        self.ego = EgoMotion(len(spec.controls))
        self.traffic = Traffic(config).requires_grad_(False) if config.others else None
        cells = config.tokens[0] * config.tokens[1] // POOLED**2
        self.heads = Heads(config.renderer.width, cells, len(spec.telemetry), len(spec.learned()))
        points = self.planes.rays[:2] * self.planes.away[:1]  # [2, H, W] where pixels meet the ground
        points[0] += config.camera.ahead
        points = points.clamp(-FARTHEST, FARTHEST)
        self.register_buffer("ground_pixels", points.clone(), persistent=False)
        self.register_buffer("spots", F.avg_pool2d(points, config.token_pixels), persistent=False)

    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of a picture whose patches are channels."""
        return self.config.channels * self.config.token_pixels**2, *self.config.tokens

    def encode(self, frames: np.ndarray | Tensor) -> Tensor:
        """Latents `[B, T, D, h, w]` of uint8 frames `[B, T, H, W, C]`: their patches, in [-1, 1]. Nothing is lost."""
        side = self.config.token_pixels
        x = torch.as_tensor(frames).to(self.device).float() / 127.5 - 1
        return rearrange(x, "b t (h r) (w s) c -> b t (c r s) h w", r=side, s=side)

    def decode(self, latents: Tensor) -> np.ndarray:
        """Uint8 frames `[B, H, W, C]` of latents `[B, D, h, w]`."""
        side = self.config.token_pixels
        return shown(rearrange(latents, "b (c r s) h w -> b c (h r) (w s)", r=side, s=side)).cpu().numpy()

    # -- the parts -------------------------------------------------------------------------------------------------

    def foretold(self, controls: Tensor, motion: Tensor) -> Tensor:
        """Ego-motion `[B, 3]` on the way to the coming frame, of controls `[B, A]` and the ego-motion before."""
        return self.ego(controls, motion, motion.new_ones(len(motion)))

    def noise_shape(self) -> tuple[int, int, int]:
        """Of the noise that latents of the ground are dreamed from."""
        rows, columns = self.config.cells
        return self.config.latent, rows // BLOCK, columns // BLOCK

    def begun(
        self, frames: Tensor, poses: Tensor, seen: Seen, others: Tensor, route: Route, arc: Tensor, noise: Tensor
    ) -> Scenery:
        """The scenery of two pictures `[B, 2, C, H, W]` that were seen from poses `[B, 2, 3]`, newest last.

        Args:
            frames: The pictures.
            poses: From where.
            seen: What `looker` told of them.
            others: Whom the newest one shows, `[B, A, 8]`.
            route: Where the car is to go.
            arc: Its place on it `[B]`.
            noise: `[B, Z, x, y]`.
        """
        anchor = poses[:, 1]
        empty = noise.new_zeros(len(noise), self.config.ground, *self.config.cells)
        road = self.window.road(route, arc, anchor)
        ground = self.filled(empty, empty[:, :1], road, seen.code, self.lifted(seen, frames, poses, anchor), noise)
        return Scenery(ground, anchor, seen.code, self.keyed(frames[:, 1], others, anchor), anchor)

    def lifted(self, seen: Seen, frames: Tensor, poses: Tensor, anchor: Tensor) -> Tensor:
        """What two pictures `[B, 2, C, H, W]` say of the cells of windows: `[B, ..., X, Y]`.

        Args:
            seen: What `looker` told of them.
            frames: The pictures.
            poses: From where they were seen, `[B, 2, 3]`.
            anchor: Of the windows, `[B, 3]`.
        """
        parts = []
        for features, frame, pose in zip(seen.lifted.unbind(1), frames.unbind(1), poses.unbind(1), strict=True):
            rel = motion_between(pose, anchor)
            parts += [self.window.lifted(features, rel, HEIGHTS), self.window.painted(frame, rel)]
        return torch.cat(parts, 1)

    def keyed(self, frame: Tensor, others: Tensor, pose: Tensor) -> Tensor:
        """A start picture `[B, C, H, W]` and where it shows others, boxes `[B, A, 8]`: `[B, C + 1, H, W]`."""
        side = self.config.token_pixels
        hidden = self.told((others, others[..., :0]), pose)[:, TOLD - 1 : TOLD]
        return torch.cat([frame, hidden.repeat_interleave(side, 2).repeat_interleave(side, 3)], 1)

    def filled(self, ground: Tensor, known: Tensor, road: Tensor, code: Tensor, seen: Tensor, noise: Tensor) -> Tensor:
        """The ground `[B, G, X, Y]`; what is known of it stays; see `Filler.given`."""
        given = self.filler.given(ground, known, road, code, seen)
        return torch.lerp(self.drawer(self.filler.dreamed(given, noise, code), road, code), ground, known)

    def followed(self, scenery: Scenery, following: Tensor, route: Route, arc: Tensor, noise: Tensor) -> Scenery:
        """The scenery in windows at other poses `[B, 3]`, new ground filled in; the rest as in `begun`."""
        ground, known = self.window.moved(scenery.ground, scenery.anchor, following)
        moved = Scenery(ground, following, scenery.code, scenery.key, scenery.key_pose)
        return self.refilled(moved, known, route, arc, noise)

    def refilled(self, scenery: Scenery, known: Tensor, route: Route, arc: Tensor, noise: Tensor) -> Scenery:
        """The scenery with ground filled in, without pictures, where it is not known `[B, 1, X, Y]`."""
        road, ground = self.window.road(route, arc, scenery.anchor), scenery.ground * known
        ground = self.filled(ground, known, road, scenery.code, self.filler.unseen(ground), noise)
        return Scenery(ground, scenery.anchor, scenery.code, scenery.key, scenery.key_pose)

    def told(self, others: tuple[Tensor, Tensor], pose: Tensor) -> Tensor:
        """What the renderer is told of others, boxes `[B, A, 8]` and looks: `[B, ..., h, w]`."""
        config, (boxes, looks) = self.config, others
        if not config.others:
            return pose.new_zeros(len(pose), TOLD + config.looks, *config.tokens)
        return told_maps(config.camera, config.tokens, self.window.tall, boxes, looks[..., : config.looks], pose)

    def carried(self, others: tuple[Tensor, Tensor], pose: Tensor) -> tuple[Tensor, Tensor]:
        """Where the start picture shows others of now: places `[B, 1, H, W, 2]`, and which pixels `[B, 1, H, W]`."""
        size = self.config.image_size
        if not self.config.others:
            return pose.new_zeros(len(pose), 1, *size, 2), pose.new_zeros(len(pose), 1, *size)
        place, shown = carried(self.config.camera, size, self.window.tall, *others, pose)
        return place[:, None], shown[:, None].to(place)

    def render(
        self, scenery: Scenery, pose: Tensor, others: tuple[Tensor, Tensor], controls: Tensor, motion: Tensor
    ) -> tuple[Tensor, HeadOutputs]:
        """The picture `[B, C, H, W]`, in about [-1, 1], that a car sees, and what the heads read.

        Args:
            scenery: Where it is.
            pose: `[B, 3]`.
            others: Boxes of others `[B, A, 8]`, and how they look `[B, A, L + SEEN_AT]`.
            controls: `[B, A]` that led there.
            motion: `[B, 3]` ego-motion that led there.
        """
        config, rows = self.config, len(pose)
        rel = motion_between(scenery.anchor, pose)
        columns = self.renderer.columns
        along, spot, pixel = (
            beside(rel, *(each.expand(rows, -1, -1) for each in places))
            for places in ((columns.ahead, columns.right), self.spots, self.ground_pixels)
        )
        rays = self.window.read(scenery.ground, *along)
        texture = self.renderer.texture(scenery.ground)
        pixels = self.window.read(texture, *pixel)
        gone = motion_between(scenery.key_pose, pose)
        places = self.planes.places(gone)
        moved, there = self.carried(others, pose)
        places, helps = torch.cat([places, moved], 1), torch.cat([self.helps(gone, places), there], 1)
        planes = self.renderer.shown
        start = self.planes(scenery.key, places[:, planes]) * helps[:, planes, None]
        fade = self.fade(gone)[:, 0]
        scale = gone.new_tensor([config.reach, config.reach, 1.0])
        driven = torch.cat([(gone / scale).clamp(-2, 2), fade[:, None], motion, controls], 1)
        weights, gate, paint, features = self.renderer(
            rays, pixels, torch.stack(spot, 1), start, self.told(others, pose), scenery.code, driven, there
        )
        weights = weights * helps
        kept = weights.sum(1, keepdim=True)
        place = torch.einsum("bkhw,bkhwc->bhwc", weights / kept.clamp(min=LEAST), places)
        copied = self.planes(scenery.key[:, :-1], place[:, None], "bicubic")[:, 0]
        read = self.heads(F.avg_pool2d(features, POOLED).flatten(2).transpose(1, 2))
        copies = (1 - gate) * kept
        return self.renderer.refined(torch.lerp(paint, copied, copies), pixels, copies), read

    def fade(self, gone: Tensor) -> Tensor:
        """How much the start picture still helps on each plane `[B, K]`, after ego-motions since then `[B, 3]`.

        What is far away now was hardly smaller then: twice its distance may be driven, and `reach` at least.
        """
        farthest = gone.new_tensor([0.0, *self.config.depths]).mul(2).clamp(min=self.config.reach)
        return (2 - 2 * gone[:, :2].norm(dim=1, keepdim=True) / farthest).clamp(0, 1)

    def helps(self, gone: Tensor, places: Tensor) -> Tensor:
        """The same for each pixel `[B, K, H, W]`: nothing helps that was beyond the edges of the start picture."""
        return self.fade(gone)[..., None, None] * (places.abs() < 1).all(-1)


def shown(frames: Tensor) -> Tensor:
    """Pictures uint8 `[B, H, W, C]` of such in [-1, 1] `[B, C, H, W]`."""
    return ((frames + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
