"""Rays against boxes, tapered boxes, ellipsoids and cylinders: what a camera sees, what a LiDAR measures, and shadows.

Legend: v, u rows and columns of a picture; t the distance along the camera's axis (rays have length 1 on it); `cam` is
float64 `[6]`: x, y, z, yaw, pitch, tangent of half the angle of view; `bodies` `[P]` of `BODY`; `road`, `line`, `grid`
and `crossings` are the parts of a `roads.Road`.
"""

from __future__ import annotations

import math

import numpy as np

from drivedit.data.domains.street.compiled import kernel
from drivedit.data.domains.street.roads import SIDE_ROAD, locate, on_ramp

# A body: its form, middle, half sizes, cosine and sine of its direction, colour, material, instance, class, a number of
# its own, and whether its brake lights are on. Round ones are as wide as long (hx), and cylinders have no lids.
BODY = np.dtype([(name, "f8") for name in (
    "form", "x", "y", "z", "hx", "hy", "hz", "c", "n", "red", "green", "blue", "material", "id", "what", "own", "glow",
)])  # fmt: skip
BOX, TAPER, ELLIPSOID, CYLINDER = range(4)
NARROWER = 0.34  # share of its length that a tapered box loses to its top
CLASSES = ("sky", "road", "marking", "terrain", "sidewalk", "building", "tree", "car", "pole")
SKY, ROAD, MARKING, TERRAIN, SIDEWALK, BUILDING, TREE, CAR, POLE = range(len(CLASSES))
SIDEWALK_WIDTH = 3.0  # m, in towns
FAR = 1e9
NEAREST = 0.1  # m before the camera
GROUND = -1  # the body of what lies on the ground


@kernel
def chance(a, b, c):
    """An even number in [0, 1) that belongs to three whole numbers, the last one given as a float."""
    n = (int(a) * 374761393 + int(b) * 668265263 + int(c) * 974711) & 0xFFFFFFFF
    n = ((n ^ (n >> 13)) * 1274126177) & 0xFFFFFFFF
    n = ((n ^ (n >> 15)) * 2246822519) & 0xFFFFFFFF
    return ((n ^ (n >> 16)) & 0xFFFFFF) / 16777216.0


@kernel
def _box(p, ax, ay, az, dx, dy, dz):
    """T of a box or of a tapered one, from its middle's view."""
    lx, ly = p.c * ax + p.n * ay, p.c * ay - p.n * ax
    mx, my = p.c * dx + p.n * dy, p.c * dy - p.n * dx
    iy, iz = 1 / (my if my != 0 else 1e-12), 1 / (dz if dz != 0 else 1e-12)
    t3, t4, t5, t6 = (-p.hy - ly) * iy, (p.hy - ly) * iy, (-p.hz - az) * iz, (p.hz - az) * iz
    enter, leave = max(min(t3, t4), min(t5, t6)), min(max(t3, t4), max(t5, t6))
    if p.form == BOX:
        ix = 1 / (mx if mx != 0 else 1e-12)
        t1, t2 = (-p.hx - lx) * ix, (p.hx - lx) * ix
        enter, leave = max(enter, min(t1, t2)), min(leave, max(t1, t2))
    else:
        slope = NARROWER * p.hx / (2 * p.hz)
        inside = p.hx - slope * (az + p.hz)
        for way in (-1.0, 1.0):
            gap, rate = way * lx - inside, way * mx + slope * dz
            t = -gap / (rate if rate != 0 else 1e-12)
            if rate < 0:
                enter = max(enter, t)
            else:
                leave = min(leave, t)
    return enter if leave >= enter and enter > 0 else FAR


@kernel
def hit(p, ox, oy, oz, dx, dy, dz):
    """Where a ray from outside meets a primitive: the least t > 0 of o + t d on it, or `FAR`."""
    ax, ay, az = ox - p.x, oy - p.y, oz - p.z
    if p.form <= TAPER:
        return _box(p, ax, ay, az, dx, dy, dz)
    if p.form == ELLIPSOID:
        bx, by, bz, ex, ey, ez = ax / p.hx, ay / p.hy, az / p.hz, dx / p.hx, dy / p.hy, dz / p.hz
        a, b, c = ex * ex + ey * ey + ez * ez, bx * ex + by * ey + bz * ez, bx * bx + by * by + bz * bz - 1
    else:
        a, b, c = dx * dx + dy * dy, ax * dx + ay * dy, ax * ax + ay * ay - p.hx * p.hx
    q = b * b - a * c
    if q < 0 or a == 0:
        return FAR
    t = (-b - math.sqrt(q)) / a
    return FAR if t <= 0 or (p.form == CYLINDER and abs(az + t * dz) > p.hz) else t


@kernel
def aim(cam, rays):
    """Fills the directions of a camera's rays, float64 `[H, W, 3]`, as if it looked along +x."""
    height, width = rays.shape[:2]
    cp, sp = math.cos(cam[4]), math.sin(cam[4])
    for v in range(height):
        b = (1 - 2 * (v + 0.5) / height) * cam[5] * height / width
        for u in range(width):
            rays[v, u, 0], rays[v, u, 1], rays[v, u, 2] = cp - sp * b, (1 - 2 * (u + 0.5) / width) * cam[5], sp + cp * b


@kernel
def _window(p, cam, width, height, sun, falls):
    """Rows and columns that a body, or (falls: 1.0) its shadow on the ground, may cover, and its least distance."""
    cw, sw, cp, sp = math.cos(cam[3]), math.sin(cam[3]), math.cos(cam[4]), math.sin(cam[4])
    corners = np.empty((8, 3))  # depth, right, up
    near = FAR
    for q in range(8):
        hx, hy = (p.hx if q & 1 else -p.hx), (p.hy if q & 2 else -p.hy)
        x, y = p.x + p.c * hx - p.n * hy, p.y + p.n * hx + p.c * hy
        z = max(0.0, p.z + (p.hz if q & 4 else -p.hz))
        if falls > 0:
            x, y, z = x - sun[0] / sun[2] * z, y - sun[1] / sun[2] * z, 0.0
        x, y, z = x - cam[0], y - cam[1], z - cam[2]
        ahead = cw * x + sw * y
        corners[q, 0], corners[q, 1], corners[q, 2] = cp * ahead + sp * z, sw * x - cw * y, cp * z - sp * ahead
        near = min(near, corners[q, 0])
    u0, u1, v0, v1 = FAR, -FAR, FAR, -FAR
    for q in range(8):
        for edge in (0, 1, 2, 4):  # the corner itself, and where its edges come before the camera
            a, b = corners[q], corners[q ^ edge]
            if (a[0] <= NEAREST) == (b[0] <= NEAREST) and (edge or a[0] <= NEAREST):
                continue
            part = (NEAREST - a[0]) / (b[0] - a[0]) if edge else 0.0
            depth = NEAREST if edge else a[0]
            right, down = (a[1] + part * (b[1] - a[1])) / depth, -(a[2] + part * (b[2] - a[2])) / depth
            u0, u1, v0, v1 = min(u0, right), max(u1, right), min(v0, down), max(v1, down)
    if u1 < u0:
        return 0, 0, 0, 0, FAR
    ty = cam[5] * height / width
    i0, i1 = max(0, int((v0 / ty + 1) * 0.5 * height)), min(height, int((v1 / ty + 1) * 0.5 * height) + 1)
    j0, j1 = max(0, int((u0 / cam[5] + 1) * 0.5 * width)), min(width, int((u1 / cam[5] + 1) * 0.5 * width) + 1)
    return i0, i1, j0, j1, max(near, 0.0)


@kernel
def look(cam, bodies, sun, aimed, rays, depth, index):
    """Fills what a camera sees: t and body of every ray; `FAR` and `GROUND` in the sky.

    `bodies` have the near ones first; `aimed` is what `aim` filled. Filled are `rays`, float64 `[H, W, 3]`, their
    directions, `depth`, float32 `[H, W]`, and `index`, int32 `[H, W]`, the place in `bodies` or `GROUND`.
    """
    height, width = depth.shape
    cw, sw = math.cos(cam[3]), math.sin(cam[3])
    for v in range(height):
        for u in range(width):
            dx, dy, dz = aimed[v, u, 0], aimed[v, u, 1], aimed[v, u, 2]
            rays[v, u, 0], rays[v, u, 1], rays[v, u, 2] = cw * dx - sw * dy, sw * dx + cw * dy, dz
            depth[v, u] = -cam[2] / dz if dz < -1e-6 and -cam[2] / dz < 700 else FAR
            index[v, u] = GROUND
    for k in range(bodies.size):
        p = bodies[k]
        i0, i1, j0, j1, near = _window(p, cam, width, height, sun, 0.0)
        for v in range(i0, i1):
            for u in range(j0, j1):
                if depth[v, u] > near:
                    t = hit(p, cam[0], cam[1], cam[2], rays[v, u, 0], rays[v, u, 1], rays[v, u, 2])
                    if t < depth[v, u]:
                        depth[v, u], index[v, u] = t, k


@kernel
def shadows(cam, bodies, sun, bright, rays, depth, index, shade):
    """Fills the shadows on the ground, uint8 `[H, W]`: 1 of the sun, 2 below a car; the rest is as `look` left it.

    `sun` is the direction to it, `[3]`; `bright` says whether it throws shadows.
    """
    height, width = depth.shape
    shade[:] = 0
    for k in range(bodies.size):
        p = bodies[k]
        below = p.what == CAR and p.z - p.hz < 0.1
        if bright and (p.x - cam[0]) ** 2 + (p.y - cam[1]) ** 2 < 110.0**2:
            i0, i1, j0, j1, _ = _window(p, cam, width, height, sun, 1.0)
            for v in range(i0, i1):
                for u in range(j0, j1):
                    t = depth[v, u]
                    if index[v, u] == GROUND and t < 150 and not shade[v, u] & 1:
                        x, y = cam[0] + t * rays[v, u, 0], cam[1] + t * rays[v, u, 1]
                        if hit(p, x, y, 0.0, sun[0], sun[1], sun[2]) < FAR:
                            shade[v, u] |= 1
        if below:
            i0, i1, j0, j1, _ = _window(p, cam, width, height, sun, 0.0)
            for v in range(i0, min(height, i1 + 2)):
                for u in range(j0, j1):
                    t = depth[v, u]
                    if index[v, u] == GROUND and t < 150:
                        x, y = cam[0] + t * rays[v, u, 0] - p.x, cam[1] + t * rays[v, u, 1] - p.y
                        lx, ly = abs(p.c * x + p.n * y), abs(p.c * y - p.n * x)
                        if lx < p.hx + 0.1 and ly < p.hy + 0.1:
                            shade[v, u] |= 2


@kernel
def crossing_at(road, crossings, x, y):
    """Metres along and across the road from the crossing that x, y is near; `FAR` where there is none."""
    for k in range(crossings.size):
        p = crossings[k]
        w, u = p.c * (x - p.x) + p.n * (y - p.y), p.c * (y - p.y) - p.n * (x - p.x)
        if abs(w) < SIDE_ROAD + 6 and abs(u) < road.reach + 2:
            return w, u
    return FAR, FAR


@kernel
def surface(road, s, d, w, u):
    """Class of the ground at s, d, which is w, u of a crossing (`crossing_at`)."""
    if abs(d) < road.half or (abs(w) < SIDE_ROAD and abs(u) < road.reach) or on_ramp(road, s, d):
        return ROAD
    if road.kind == 0 and (abs(d) < road.half + SIDEWALK_WIDTH or (abs(w) < SIDE_ROAD + 2 and abs(u) < road.reach)):
        return SIDEWALK
    return TERRAIN


@kernel
def scan(origin, yaw, rows, columns, bodies, road, line, grid, crossings, far, out, instance, classes):
    """Fills a LiDAR's range image, columns clockwise from straight ahead minus half a turn.

    `origin` `[3]` is where its beams begin, `yaw` the car's; `rows` float64 `[H]` are their elevations, falling, and
    `columns` float64 `[W]` their azimuths, clockwise from straight ahead, even over a turn from -pi; beams reach `far`
    metres. Filled are `out`, float32 `[H, W]` metres (0 where nothing came back), `instance`, int32, `classes`, uint8.
    """
    height, width = rows.size, columns.size
    ca, sa = np.cos(yaw - columns), np.sin(yaw - columns)
    for i in range(height):
        ce, se = math.cos(rows[i]), math.sin(rows[i])
        t = -origin[2] / se if se < -1e-6 else FAR
        for j in range(width):
            out[i, j], instance[i, j], classes[i, j] = FAR, 0, SKY
            if t < far:
                x, y = origin[0] + t * ce * ca[j], origin[1] + t * ce * sa[j]
                s, d = locate(road, line, grid, x, y)
                w, u = crossing_at(road, crossings, x, y)
                out[i, j], classes[i, j] = t, surface(road, s, d, w, u)
    for k in range(bodies.size):
        p = bodies[k]
        x, y, z = p.x - origin[0], p.y - origin[1], p.z - origin[2]
        size, away = math.hypot(p.hx, p.hy), math.hypot(x, y)
        if away - size > far:
            continue
        wide = math.asin(min(1.0, size / away)) if away > size else math.pi
        right = (yaw - math.atan2(y, x)) / (2 * math.pi) + 0.5
        middle, half = (right - math.floor(right)) * width, wide * width / (2 * math.pi)
        j0, j1 = int(math.floor(middle - half)), int(math.ceil(middle + half))
        top, low, near = z + p.hz, z - p.hz, max(away - size, 0.05)
        e1, e0 = math.atan2(top, near if top > 0 else away + size), math.atan2(low, near if low < 0 else away + size)
        for i in range(height):
            if rows[i] > e1 or rows[i] < e0:
                continue
            ce, se = math.cos(rows[i]), math.sin(rows[i])
            for turned in range(j0, min(j1, j0 + width - 1) + 1):
                j = turned % width
                t = hit(p, origin[0], origin[1], origin[2], ce * ca[j], ce * sa[j], se)
                if t < out[i, j] and t < far:
                    out[i, j], instance[i, j], classes[i, j] = t, int(p.id), int(p.what)
    for i in range(height):
        for j in range(width):
            if out[i, j] > far:
                out[i, j] = 0.0


@kernel
def drop(out, instance, classes, seed, moment, every, reach, lost, thin):
    """Takes out of what `scan` filled what weather and chance hide, the same for a seed and a moment (a tick).

    `every` `[2]` says how many rows and columns of the finest image one of this one stands for. Beyond `reach` metres
    nothing comes back; the share `lost` is lost anywhere, and the share `thin` beside it at `reach`.
    """
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            part = out[i, j] / reach
            if part > 0 and (
                part > 1 or chance(seed * 64 + i * every[0], moment, float(j * every[1])) < lost + thin * part * part
            ):
                out[i, j], instance[i, j], classes[i, j] = 0.0, 0, SKY
