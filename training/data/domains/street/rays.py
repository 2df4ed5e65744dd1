"""Rays against boxes, tapered boxes, ellipsoids and cylinders: what a camera sees, where shadows fall, what a LiDAR measures.

Legend: rows and columns of a picture v, u; t is the distance along the camera's axis (rays have length 1 on it).
"""

from __future__ import annotations

import math

import numpy as np

from drivedit.data.domains.street.compiled import kernel
from drivedit.data.domains.street.roads import RAMP_WIDTH, SIDE_ROAD, locate, ramp_at, ramp_edge, ramp_middle

# Columns of a primitive: kind, middle, half sizes, direction, colour, material, instance, class, its own number, light.
KIND, CX, CY, CZ, HX, HY, HZ, CO, SI, RED, GREEN, BLUE, MATERIAL, ID, CLASS, OWN, GLOW = range(17)
BOX, TAPER, ELLIPSOID, CYLINDER = range(4)
NARROWER = 0.34  # share of its length that a tapered box loses to its top
CLASSES = ("sky", "road", "marking", "terrain", "sidewalk", "building", "tree", "car", "pole")
SKY, ROAD, MARKING, TERRAIN, SIDEWALK, BUILDING, TREE, CAR, POLE = range(len(CLASSES))
SIDEWALK_WIDTH = 3.0  # m, in towns
FAR = 1e9
NEAREST = 0.1  # m before the camera
REACH_OF_RAMPS = 45.0  # m beside the road
GROUND = -1  # the primitive of what lies on the ground


@kernel
def chance(a, b, c):
    """An even number in [0, 1) that belongs to three whole numbers."""
    n = (int(a) * 374761393 + int(b) * 668265263 + int(c) * 974711) & 0xFFFFFFFF
    n = ((n ^ (n >> 13)) * 1274126177) & 0xFFFFFFFF
    n = ((n ^ (n >> 15)) * 2246822519) & 0xFFFFFFFF
    return ((n ^ (n >> 16)) & 0xFFFFFF) / 16777216.0


@kernel
def _box(p, ax, ay, az, dx, dy, dz):
    """t of a box or of a tapered one, from its middle's view."""
    lx, ly = p[CO] * ax + p[SI] * ay, p[CO] * ay - p[SI] * ax
    mx, my = p[CO] * dx + p[SI] * dy, p[CO] * dy - p[SI] * dx
    iy, iz = 1 / (my if my != 0 else 1e-12), 1 / (dz if dz != 0 else 1e-12)
    t3, t4, t5, t6 = (-p[HY] - ly) * iy, (p[HY] - ly) * iy, (-p[HZ] - az) * iz, (p[HZ] - az) * iz
    enter, leave = max(min(t3, t4), min(t5, t6)), min(max(t3, t4), max(t5, t6))
    if p[KIND] == BOX:
        ix = 1 / (mx if mx != 0 else 1e-12)
        t1, t2 = (-p[HX] - lx) * ix, (p[HX] - lx) * ix
        enter, leave = max(enter, min(t1, t2)), min(leave, max(t1, t2))
    else:
        slope = NARROWER * p[HX] / (2 * p[HZ])
        inside = p[HX] - slope * (az + p[HZ])
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
    ax, ay, az = ox - p[CX], oy - p[CY], oz - p[CZ]
    if p[KIND] <= TAPER:
        return _box(p, ax, ay, az, dx, dy, dz)
    if p[KIND] == ELLIPSOID:
        bx, by, bz, ex, ey, ez = ax / p[HX], ay / p[HY], az / p[HZ], dx / p[HX], dy / p[HY], dz / p[HZ]
        a, b, c = ex * ex + ey * ey + ez * ez, bx * ex + by * ey + bz * ez, bx * bx + by * by + bz * bz - 1
    else:
        a, b, c = dx * dx + dy * dy, ax * dx + ay * dy, ax * ax + ay * ay - p[HX] * p[HX]
    q = b * b - a * c
    if q < 0 or a == 0:
        return FAR
    t = (-b - math.sqrt(q)) / a
    return FAR if t <= 0 or (p[KIND] == CYLINDER and abs(az + t * dz) > p[HZ]) else t


@kernel
def ray(cam, u, v, width, height):
    """Direction of the ray through a point of a picture; cam: x, y, z, yaw, pitch, tangent of half the angle of view."""
    a = (2 * u / width - 1) * cam[5]
    b = (1 - 2 * v / height) * cam[5] * height / width
    cw, sw, cp, sp = math.cos(cam[3]), math.sin(cam[3]), math.cos(cam[4]), math.sin(cam[4])
    ahead = cp - sp * b
    return ahead * cw + a * sw, ahead * sw - a * cw, sp + cp * b


@kernel
def _window(p, cam, width, height, sun, shadow):
    """Rows and columns that a primitive, or its shadow on the ground, may cover, and its least distance."""
    cw, sw, cp, sp = math.cos(cam[3]), math.sin(cam[3]), math.cos(cam[4]), math.sin(cam[4])
    corners = np.empty((8, 3))  # depth, right, up
    near = FAR
    for q in range(8):
        hx, hy = (p[HX] if q & 1 else -p[HX]), (p[HY] if q & 2 else -p[HY])
        x, y = p[CX] + p[CO] * hx - p[SI] * hy, p[CY] + p[SI] * hx + p[CO] * hy
        z = max(0.0, p[CZ] + (p[HZ] if q & 4 else -p[HZ]))
        if shadow:
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
def look(cam, prims, rays, depth, index):
    """What a camera sees: t and primitive of every ray. Outside a picture of the sky t is `FAR`.

    Args:
        cam: float64 `[6]`, see `ray`.
        prims: float64 `[P, 17]`, the near ones first.
        rays: float64 `[H, W, 3]`, filled: the rays' directions.
        depth: float32 `[H, W]`, filled.
        index: int32 `[H, W]`, filled: the row of `prims`, or `GROUND`.
    """
    height, width = depth.shape
    sun = np.zeros(3)
    for v in range(height):
        for u in range(width):
            dx, dy, dz = ray(cam, u + 0.5, v + 0.5, width, height)
            rays[v, u, 0], rays[v, u, 1], rays[v, u, 2] = dx, dy, dz
            depth[v, u] = -cam[2] / dz if dz < -1e-6 and -cam[2] / dz < 700 else FAR
            index[v, u] = GROUND
    for k in range(prims.shape[0]):
        p = prims[k]
        i0, i1, j0, j1, near = _window(p, cam, width, height, sun, False)
        for v in range(i0, i1):
            for u in range(j0, j1):
                if depth[v, u] > near:
                    t = hit(p, cam[0], cam[1], cam[2], rays[v, u, 0], rays[v, u, 1], rays[v, u, 2])
                    if t < depth[v, u]:
                        depth[v, u], index[v, u] = t, k


@kernel
def shadows(cam, prims, sun, bright, rays, depth, index, shade):
    """Shadows on the ground: uint8 `[H, W]`, filled: 1 of the sun, 2 below a car, 3 both.

    Args:
        sun: Direction to the sun, `[3]`.
        bright: Whether the sun throws shadows.
        cam, prims, rays, depth, index: As `look` left them.
        shade: To fill.
    """
    height, width = depth.shape
    shade[:] = 0
    for k in range(prims.shape[0]):
        p = prims[k]
        below = p[CLASS] == CAR and p[CZ] - p[HZ] < 0.1
        if bright and (p[CX] - cam[0]) ** 2 + (p[CY] - cam[1]) ** 2 < 110.0**2:
            i0, i1, j0, j1, _ = _window(p, cam, width, height, sun, True)
            for v in range(i0, i1):
                for u in range(j0, j1):
                    t = depth[v, u]
                    if index[v, u] == GROUND and t < 150 and not shade[v, u] & 1:
                        x, y = cam[0] + t * rays[v, u, 0], cam[1] + t * rays[v, u, 1]
                        if hit(p, x, y, 0.0, sun[0], sun[1], sun[2]) < FAR:
                            shade[v, u] |= 1
        if below:
            i0, i1, j0, j1, _ = _window(p, cam, width, height, sun, False)
            for v in range(i0, min(height, i1 + 2)):
                for u in range(j0, j1):
                    t = depth[v, u]
                    if index[v, u] == GROUND and t < 150:
                        x, y = cam[0] + t * rays[v, u, 0] - p[CX], cam[1] + t * rays[v, u, 1] - p[CY]
                        lx, ly = abs(p[CO] * x + p[SI] * y), abs(p[CO] * y - p[SI] * x)
                        if lx < p[HX] + 0.1 and ly < p[HY] + 0.1:
                            shade[v, u] |= 2


@kernel
def crossing_at(crossings, x, y):
    """The crossing whose own road or corner x, y lies near, with metres along and across the road that is crossed."""
    for k in range(crossings.shape[0]):
        ex, ey = x - crossings[k, 1], y - crossings[k, 2]
        w, u = crossings[k, 3] * ex + crossings[k, 4] * ey, crossings[k, 3] * ey - crossings[k, 4] * ex
        if abs(w) < SIDE_ROAD + 6:
            return k, w, u
    return -1, FAR, FAR


@kernel
def surface(road, s, d, w, u):
    """Class of the ground at s, d, which is w, u of a crossing (`crossing_at`)."""
    if abs(d) < road.half or (abs(w) < SIDE_ROAD and abs(u) < road.reach):
        return ROAD
    if d < 0 and d > -REACH_OF_RAMPS and road.ramps.size:
        x = ramp_at(road, s)
        if x < FAR and d > ramp_edge(road, s) and abs(d - ramp_middle(road, x)) < RAMP_WIDTH / 2:
            return ROAD
    if road.kind == 0 and (abs(d) < road.half + SIDEWALK_WIDTH or (abs(w) < SIDE_ROAD + 2 and abs(u) < road.reach)):
        return SIDEWALK
    return TERRAIN


@kernel
def scan(origin, yaw, rows, columns, prims, road, crossings, far, out, instance, classes):
    """A LiDAR's range image, columns clockwise from straight ahead minus half a turn.

    Args:
        origin: Of the rays, `[3]`.
        yaw: Of the car.
        rows: Elevations (rad), float64 `[H]`, falling.
        columns: Azimuths (rad, clockwise from straight ahead), float64 `[W]`, even over a whole turn from -pi.
        prims, road, crossings: What there is.
        far: Greatest range (m).
        out: float32 `[H, W]`, filled: metres, 0 where nothing came back.
        instance: int32 `[H, W]`, filled.
        classes: uint8 `[H, W]`, filled.
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
                s, d = locate(road, x, y)
                _, w, u = crossing_at(crossings, x, y)
                out[i, j], classes[i, j] = t, surface(road, s, d, w, u)
    turn = 2 * math.pi / width
    for k in range(prims.shape[0]):
        p = prims[k]
        x, y, z = p[CX] - origin[0], p[CY] - origin[1], p[CZ] - origin[2]
        size, away = math.hypot(p[HX], p[HY]), math.hypot(x, y)
        if away - size > far:
            continue
        wide = math.asin(min(1.0, size / away)) if away > size else math.pi
        middle = apart_turn(yaw - math.atan2(y, x)) + math.pi
        j0, j1 = int(math.floor((middle - wide) / turn)), int(math.ceil((middle + wide) / turn))
        j1 = min(j1, j0 + width - 1)
        top, low, near = z + p[HZ], z - p[HZ], max(away - size, 0.05)
        e1, e0 = math.atan2(top, near if top > 0 else away + size), math.atan2(low, near if low < 0 else away + size)
        for i in range(height):
            if rows[i] > e1 or rows[i] < e0:
                continue
            ce, se = math.cos(rows[i]), math.sin(rows[i])
            for turned in range(j0, j1 + 1):
                j = turned % width
                t = hit(p, origin[0], origin[1], origin[2], ce * ca[j], ce * sa[j], se)
                if t < out[i, j] and t < far:
                    out[i, j], instance[i, j], classes[i, j] = t, int(p[ID]), int(p[CLASS])
    for i in range(height):
        for j in range(width):
            if out[i, j] > far:
                out[i, j] = 0.0


@kernel
def apart_turn(angle):
    """An angle in [-pi, pi)."""
    return angle - 2 * math.pi * math.floor(angle / (2 * math.pi) + 0.5)


@kernel
def drop(out, instance, classes, seed, moment, every, reach, lost, thin):
    """Takes out of a range image what weather and chance hide; the same for a seed and a moment.

    Args:
        out, instance, classes: Of `scan`, changed.
        seed, moment: What chance belongs to.
        every: Rows and columns of the finest image per one of this one, `[2]`.
        reach: Greatest range in this weather (m).
        lost: Share that is lost at any range.
        thin: Share that is lost beside it at `reach`.
    """
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            part = out[i, j] / reach
            if part > 0 and (part > 1 or chance(seed * 64 + i * every[0], moment, j * every[1]) < lost + thin * part * part):
                out[i, j], instance[i, j], classes[i, j] = 0.0, 0, SKY
