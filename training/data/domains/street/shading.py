"""Colours of what a camera sees: ground with its markings, bodies by their material, light, lamps, wet roads and fog."""

from __future__ import annotations

import math

from drivedit.data.domains.street.compiled import kernel
from drivedit.data.domains.street.light import BRIGHTEST, LEVELS, SKY_COLUMNS, SKY_ROWS, SKY_TOP, grain_at
from drivedit.data.domains.street.rays import (
    BLUE, CLASS, CO, CX, CY, CZ, ELLIPSOID, FAR, GLOW, GREEN, GROUND, HX, HY, HZ, ID, KIND, MARKING, MATERIAL,
    NARROWER, OWN, RED, ROAD, SI, SIDEWALK, SKY, TAPER, chance, crossing_at, surface,
)  # fmt: skip
from drivedit.data.domains.street.roads import (
    RAMP_BEFORE, RAMP_BESIDE, RAMP_TAPER, SIDE_ROAD, locate, ramp_at, ramp_edge, ramp_middle,
)  # fmt: skip

PLAIN, FACADE, BODY, CABIN, CROWN, LAMP, SIGN = range(7)  # materials
LINE = 0.085  # m, half the width of a line
LAMPS = 30.0  # m from one lamp of a town to the next
WHEEL = 0.34  # m, radius


@kernel
def _line(gap, foot):
    """Share of a spot `foot` wide that a line covers whose middle is `gap` away."""
    return min(1.0, max(0.0, (LINE - gap) / max(foot, 0.02) + 0.5)) * min(1.0, 2.4 * LINE / max(foot, 0.02))


@kernel
def _markings(road, s, d, w, u, foot):
    """Share of a spot that is painted, and share of the paint that is yellow."""
    found, yellow, side = 0.0, 0.0, abs(d)
    if abs(w) < SIDE_ROAD + 4.3:
        if road.kind == 0 and SIDE_ROAD + 1.3 < abs(w) and side < road.half - 0.3:  # a zebra crossing
            bar = (0.3 - abs((d + 50) % 1.2 - 0.6)) / max(foot, 0.02) + 0.5
            return (min(1.0, max(0.0, bar)) if foot < 0.8 else 0.5), 0.0
        if abs(w) < SIDE_ROAD + 0.2:
            if road.half + 1.4 < abs(u) < road.half + 1.9 and 0.15 < (w if u < 0 else -w) < SIDE_ROAD - 0.4:
                return 1.0, 0.0
            if abs(u) > road.half + 1.4 and abs(w) < 3 * LINE + foot:
                return _line(abs(w), foot), 1.0
            return 0.0, 0.0
        if road.kind == 0:
            return 0.0, 0.0
    x = ramp_at(road, s) if d < 0 else FAR
    for i in range(road.side + 1):
        at = road.median + i * road.lane
        if i == 0 and road.median == 0:
            solid = (s % 90) < 45 and road.kind == 1
            if solid or s % 9 < 4.5:
                cover = _line(side, foot)
                if cover > found:
                    found, yellow = cover, 1.0
        elif i == road.side and 0 < x < RAMP_BESIDE + RAMP_TAPER / 2:
            found = max(found, _line(abs(side - at), foot) if s % 6 < 3 else 0.0)
        elif i == 0 or i == road.side or s % 12 < 4.5:
            found = max(found, _line(abs(side - at), foot))
    if x < FAR:
        found = max(found, _line(abs(d - ramp_edge(road, s) - 0.3), foot))
        if x < 0:
            found = max(found, _line(abs(d - ramp_middle(road, x) - 1.8), foot))
    return found, yellow


@kernel
def _ground(road, crossings, light, x, y, foot, away):
    """Colour, share that mirrors, class, and light of lamps, of the ground at x, y."""
    s, d = locate(road, x, y)
    _, w, u = crossing_at(crossings, x, y)
    what = surface(road, s, d, w, u)
    fine = 1 / (1 + away * 0.04)
    lamp = 0.0
    if road.kind == 0 and light.night > 0:
        q = s - LAMPS * math.floor(s / LAMPS + 0.5)
        lamp = 0.85 * light.night * math.exp(-(q * q + (abs(d) - road.half - 0.5) ** 2) / 55.0)
    share = 1.0 if what == ROAD else 0.0
    if abs(w) > SIDE_ROAD + 1 and abs(abs(d) - road.half) < foot and not (d < 0 and ramp_at(road, s) < FAR):
        share = min(1.0, max(0.0, (road.half - abs(d)) / max(foot, 0.02) + 0.5))
    mixed = grain_at(light.grain, x * 0.9, y * 0.9) * 0.5 + grain_at(light.grain, x * 0.11, y * 0.11) * 0.5
    r = g = b = 0.0
    if share < 1:
        if what == SIDEWALK or (road.kind == 0 and share > 0):
            r = g = b = 0.44 + 0.05 * fine * (mixed - 0.5)
            if away < 30 and (s % 2 < 0.08 or abs(abs(d) - road.half - 0.12) < 0.06):
                r, g, b = r - 0.09, g - 0.09, b - 0.09
        else:
            r, g, b = 0.19 + 0.16 * mixed, 0.29 + 0.17 * mixed, 0.10 + 0.06 * mixed
        white = light.snow * (0.93 if what != SIDEWALK else 0.8)
        r, g, b = r + (0.80 - r) * white, g + (0.83 - g) * white, b + (0.88 - b) * white
    mirror = 0.0
    if share > 0:
        grey = 0.185 + 0.05 * fine * (mixed - 0.5)
        grey = grey * (1 - 0.35 * light.wet) + (0.52 - grey) * 0.55 * light.snow
        paint, yellow = _markings(road, s, d, w, u, foot)
        if paint > 0.5:
            what = MARKING
        paint *= 1 - 0.45 * light.snow
        ar, ag, ab = grey + (0.86 - grey) * paint, grey + (0.84 - 0.18 * yellow - grey) * paint, grey
        ab += (0.80 - 0.64 * yellow - grey) * paint + 0.02 * light.snow
        r, g, b = r + (ar - r) * share, g + (ag - g) * share, b + (ab - b) * share
        mirror = share * light.wet
        if share > 0.5 and what != MARKING:
            what = ROAD
    return r, g, b, mirror, what, lamp


@kernel
def _normal(p, lx, ly, z):
    """The side of a body on which a spot lies, in the body's own directions."""
    if p[KIND] <= TAPER:
        slope = NARROWER * p[HX] / (2 * p[HZ]) if p[KIND] == TAPER else 0.0
        a, b, c = abs(lx) / (p[HX] - slope * (z + p[HZ])), abs(ly) / p[HY], abs(z) / p[HZ]
        if c >= a and c >= b:
            return 0.0, 0.0, 1.0 if z > 0 else -1.0
        if a >= b:
            long = math.sqrt(1 + slope * slope)
            return (1.0 if lx > 0 else -1.0) / long, 0.0, slope / long
        return 0.0, 1.0 if ly > 0 else -1.0, 0.0
    nx, ny, nz = lx / p[HX] ** 2, ly / p[HY] ** 2, (z / p[HZ] ** 2 if p[KIND] == ELLIPSOID else 0.0)
    long = math.sqrt(nx * nx + ny * ny + nz * nz)
    return nx / long, ny / long, nz / long


@kernel
def _facade(p, r, g, b, across, face, height, night):
    """A house's wall: windows in rows, shops below; colour and own light."""
    column, row = across / 2.4 + 50.5, (height - 0.4) / 3.1
    if row > 0 and abs(column % 1 - 0.5) < 0.3 and abs(row % 1 - 0.5) < 0.3 and height < p[CZ] + p[HZ] - 0.7:
        lit = chance(math.floor(column) * 7 + face, math.floor(row), p[OWN]) > 0.55
        glow = night * (0.9 if lit else 0.03)
        return 0.15, 0.20, 0.27, 0.75 * glow, 0.58 * glow, 0.30 * glow
    if height > p[CZ] + p[HZ] - 0.35:
        return 0.6 * r, 0.6 * g, 0.6 * b, 0.0, 0.0, 0.0
    return r, g, b, 0.0, 0.0, 0.0


@kernel
def _body(p, r, g, b, lx, ly, z, fx, fy, night):
    """The lower part of a car: wheels, bumpers, lights, a plate; colour and own light."""
    height = z + p[HZ]
    if fy != 0:
        wheel = math.hypot(abs(lx) - 0.62 * p[HX], height - WHEEL)
        if wheel < WHEEL:
            grey = 0.30 if wheel < 0.17 else 0.03
            return grey, grey, grey, 0.0, 0.0, 0.0
    if height < 0.24:
        return 0.03, 0.03, 0.035, 0.0, 0.0, 0.0
    if fx != 0 and 0.38 < height / (2 * p[HZ]) < 0.92:
        if abs(ly) > 0.56 * p[HY]:
            if fx > 0:
                glow = 0.15 + 1.3 * night
                return 0.85, 0.85, 0.80, glow, glow, 0.9 * glow
            glow = 0.05 + 0.55 * night + 0.95 * p[GLOW]
            return 0.50, 0.04, 0.03, glow, 0.06 * glow, 0.04 * glow
        if abs(ly) < 0.3 and height < 0.62:
            return 0.75, 0.75, 0.72, 0.0, 0.0, 0.0
        if fx > 0:
            return 0.25 * r, 0.25 * g, 0.25 * b, 0.0, 0.0, 0.0
    return r, g, b, 0.0, 0.0, 0.0


@kernel
def _material(p, lx, ly, z, fx, fy, fz, light):
    """Colour and own light of a spot of a body."""
    r, g, b, what = p[RED], p[GREEN], p[BLUE], p[MATERIAL]
    if what == BODY:
        return _body(p, r, g, b, lx, ly, z, fx, fy, light.night)
    if what == FACADE and fz == 0:
        return _facade(p, r, g, b, ly if fx != 0 else lx, int(2 * fx + 3 * fy), p[CZ] + z, light.night)
    if what == CABIN and fz < 0.9:
        part, pillar = (z + p[HZ]) / (2 * p[HZ]), abs(lx) < 0.06 or abs(lx) > p[HX] * (1 - NARROWER * 0.5) - 0.1
        if 0.1 < part < 0.86 and not (fy != 0 and pillar):
            if fx < 0 and part > 0.72 and abs(ly) < 0.3:  # the third brake light
                return 0.25, 0.02, 0.02, 0.9 * p[GLOW], 0.05 * p[GLOW], 0.0
            return 0.07, 0.10, 0.13, 0.06 * light.ambient, 0.08 * light.ambient, 0.10 * light.ambient
    if what == CROWN:
        leaf = 0.62 + 0.7 * grain_at(light.grain, 2.2 * lx + 5 * z + p[OWN], 2.2 * ly + 3 * z)
        white = light.snow * (0.8 if fz > 0.15 else 0.25)
        return (r * leaf + (0.8 - r * leaf) * white, g * leaf + (0.82 - g * leaf) * white,
                b * leaf + (0.87 - b * leaf) * white, 0.0, 0.0, 0.0)  # fmt: skip
    if what == LAMP:
        return r, g, b, 1.5 * light.night, 1.25 * light.night, 0.8 * light.night
    if what == SIGN and fx != 0 and (abs(ly) > p[HY] - 0.15 or abs(z) > p[HZ] - 0.15 or abs(z - 0.2) < 0.12):
        return 0.85, 0.85, 0.85, 0.0, 0.0, 0.0
    if fz > 0.9 and light.snow > 0:
        return 0.8, 0.82, 0.87, 0.0, 0.0, 0.0
    return r, g, b, 0.0, 0.0, 0.0


@kernel
def _sky(light, dx, dy, dz):
    """Row and column of the drawn sky in a direction."""
    row = int(math.atan2(dz, math.hypot(dx, dy)) * (SKY_ROWS / SKY_TOP))
    turn = math.atan2(dy, dx) / (2 * math.pi)
    column = int((turn - math.floor(turn)) * SKY_COLUMNS)
    return min(max(row, 0), SKY_ROWS - 1), min(column, SKY_COLUMNS - 1)


@kernel
def spot(cam, prims, road, crossings, light, ray, t, k, shade, foot):
    """Colour and class of one ray's end."""
    dx, dy, dz = ray[0], ray[1], ray[2]
    if t >= FAR:
        i, j = _sky(light, dx, dy, dz)
        return light.sky[i, j, 0], light.sky[i, j, 1], light.sky[i, j, 2], SKY
    long = math.sqrt(dx * dx + dy * dy + dz * dz)
    x, y, z = cam[0] + t * dx, cam[1] + t * dy, cam[2] + t * dz
    er, eg, eb, nx, ny, nz, mirror, lamp = 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0
    if k == GROUND:
        r, g, b, mirror, what, lamp = _ground(road, crossings, light, x, y, foot * t, t)
    else:
        p = prims[k]
        ax, ay, az = x - p[CX], y - p[CY], z - p[CZ]
        lx, ly = p[CO] * ax + p[SI] * ay, p[CO] * ay - p[SI] * ax
        fx, fy, nz = _normal(p, lx, ly, az)
        nx, ny = p[CO] * fx - p[SI] * fy, p[SI] * fx + p[CO] * fy
        r, g, b, er, eg, eb = _material(p, lx, ly, az, fx, fy, nz, light)
        what = int(p[CLASS])
        if road.kind == 0 and light.night > 0:
            lamp = 0.16 * light.night * math.exp(-max(0.0, z - 4) / 3.0)
    sun = light.strength * max(0.0, nx * light.sun[0] + ny * light.sun[1] + nz * light.sun[2])
    around = light.ambient * (0.78 + 0.22 * nz)
    if shade & 1:
        sun = 0.0
    if shade & 2:
        sun, around, lamp = 0.0, 0.3 * around, 0.2 * lamp
    if light.night > 0:  # the own head lights
        cw, sw = math.cos(cam[3]), math.sin(cam[3])
        ahead, beside = cw * (x - cam[0]) + sw * (y - cam[1]), sw * (x - cam[0]) - cw * (y - cam[1])
        if ahead > 0:
            facing = abs(nx * dx + ny * dy + nz * dz) / long
            beam = math.exp(-((beside / (ahead + 1.5)) ** 2) * 7) * min(1.0, ahead / 5) / (1 + (ahead / 20.0) ** 2)
            beam *= (0.3 + 0.7 * facing) * (1.5 if k == GROUND else 1.0) * (1.0 if z < 1.5 else 0.3)
            around += light.night * beam * (1 - 0.45 * light.wet * (k == GROUND))
    warm = 0.25 * light.night * (1 - light.night) + 0.08
    wr, wg, wb = sun * (1 + warm) + around + lamp, sun + around + 0.8 * lamp, sun * (1 - warm) + around + 0.45 * lamp
    r, g, b = r * wr + er, g * wg + eg, b * wb + eb
    if mirror > 0:
        glance = mirror * (0.05 + 0.6 * (1 - min(1.0, -dz / long)) ** 5)
        r, g, b = (r + glance * (light.horizon[0] - r), g + glance * (light.horizon[1] - g),
                   b + glance * (light.horizon[2] - b))  # fmt: skip
    clear = math.exp(-light.fog * t * long)
    return (r * clear + light.horizon[0] * (1 - clear), g * clear + light.horizon[1] * (1 - clear),
            b * clear + light.horizon[2] * (1 - clear), what)  # fmt: skip


@kernel
def paint(cam, prims, road, crossings, light, rays, depth, index, shade, out, metres, instance, classes):
    """Fills a picture, and of the last of the 2 x 2 rays of each pixel its distance, instance and class.

    Args:
        cam, prims, rays, depth, index, shade: As `look` and `shadows` left them, twice as fine as the picture.
        road, crossings, light: What there is.
        out: uint8 `[H, W, 3]`.
        metres: float32 `[H, W]`, along the ray; 0 in the sky.
        instance: int32 `[H, W]`.
        classes: uint8 `[H, W]`.
    """
    height, width = metres.shape
    foot = cam[5] / width  # of a ray, at a metre
    for i in range(height):
        for j in range(width):
            v, u = 2 * i, 2 * j
            k, dark = index[v, u], shade[v, u]
            same = k == GROUND and depth[v, u] < FAR
            for q in range(1, 4):
                a, c = v + (q >> 1), u + (q & 1)
                same = same and index[a, c] == GROUND and shade[a, c] == dark and depth[a, c] < FAR
            r = g = b = 0.0
            ray, t, what = (0.0, 0.0, 0.0), 0.0, 0
            for q in range(3 if same else 0, 4):
                a, c = v + (q >> 1), u + (q & 1)
                ray, t, k, wide, share = (rays[a, c, 0], rays[a, c, 1], rays[a, c, 2]), float(depth[a, c]), index[a, c], foot, 0.25
                if same:  # the ground is smooth within a pixel, and lines know how wide it is
                    ray = (0.5 * (rays[v, u, 0] + ray[0]), 0.5 * (rays[v, u, 1] + ray[1]), 0.5 * (rays[v, u, 2] + ray[2]))
                    t, wide, share = -cam[2] / ray[2], 2 * foot, 1.0
                red, green, blue, what = spot(cam, prims, road, crossings, light, ray, t, k, shade[a, c], wide)
                r, g, b = (r + share * min(red, BRIGHTEST), g + share * min(green, BRIGHTEST),
                           b + share * min(blue, BRIGHTEST))  # fmt: skip
            for c, value in enumerate((r, g, b)):
                out[i, j, c] = light.bytes[min(LEVELS - 1, int(value * ((LEVELS - 1) / BRIGHTEST)))]
            metres[i, j] = t * math.sqrt(ray[0] ** 2 + ray[1] ** 2 + ray[2] ** 2) if t < FAR else 0.0
            instance[i, j] = int(prims[k, ID]) if k != GROUND else 0
            classes[i, j] = what
