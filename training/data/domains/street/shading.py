"""Colours of what a camera sees: the ground and its markings, bodies by their material, light, wet roads, and fog."""

from __future__ import annotations

import math

from drivedit.data.domains.street.compiled import kernel
from drivedit.data.domains.street.light import BRIGHTEST, LEVELS, SKY_COLUMNS, SKY_ROWS, SKY_TOP, grain_at
from drivedit.data.domains.street.rays import (
    ELLIPSOID,
    FAR,
    GROUND,
    MARKING,
    NARROWER,
    ROAD,
    SIDEWALK,
    SKY,
    TAPER,
    chance,
    crossing_at,
    surface,
)  # fmt: skip
from drivedit.data.domains.street.roads import (
    NOWHERE,
    RAMP_BESIDE,
    RAMP_TAPER,
    SIDE_ROAD,
    locate,
    ramp_at,
    ramp_edge,
    ramp_middle,
)  # fmt: skip

PLAIN, FACADE, CHASSIS, CABIN, CROWN, LAMP, SIGN = range(7)  # materials
LINE = 0.085  # m, half the width of a line
LAMPS = 30.0  # m from one lamp of a town to the next
WHEEL = 0.34  # m, radius


@kernel
def _within(x, every):
    """Where x lies between two multiples of a length."""
    return x - every * math.floor(x / every)


@kernel
def _line(gap, foot):
    """Share of a spot `foot` wide that a line covers whose middle is `gap` away."""
    return min(1.0, max(0.0, (LINE - gap) / foot + 0.5)) * min(1.0, 2 * LINE / foot)


@kernel
def _markings(road, s, d, w, u, foot):
    """Share of a spot that is painted, and share of the paint that is yellow."""
    found, yellow, side = 0.0, 0.0, abs(d)
    if abs(w) < SIDE_ROAD + 4.3:
        if road.kind == 0 and SIDE_ROAD + 1.3 < abs(w) and side < road.half - 0.3:  # a zebra crossing
            bar = (0.3 - abs(_within(d, 1.2) - 0.6)) / foot + 0.5
            return (min(1.0, max(0.0, bar)) if foot < 0.8 else 0.5), 0.0
        if abs(w) < SIDE_ROAD + 0.2:
            if road.half + 1.4 < abs(u) < road.half + 1.9 and 0.15 < (w if u < 0 else -w) < SIDE_ROAD - 0.4:
                return 1.0, 0.0
            if abs(u) > road.half + 1.4 and abs(w) < 3 * LINE + foot:
                return _line(abs(w), foot), 1.0
            return 0.0, 0.0
        if road.kind == 0:
            return 0.0, 0.0
    x = ramp_at(road, s) if d < 0 else NOWHERE
    edge = road.median + road.side * road.lane
    if 0 < x < RAMP_BESIDE + RAMP_TAPER / 2:
        found = _line(abs(side - edge), foot) if _within(s, 6.0) < 3 else 0.0
    else:
        found = _line(abs(side - edge), foot)
    if road.median > 0:
        found = max(found, _line(abs(side - road.median), foot))
    elif _within(s, 9.0) < 4.5 or (road.kind == 1 and _within(s, 90.0) < 45):
        cover = _line(side, foot)
        if cover > found:
            found, yellow = cover, 1.0
    for i in range(1, road.side):
        if _within(s, 12.0) < 4.5:
            found = max(found, _line(abs(side - road.median - i * road.lane), foot))
    if x < NOWHERE:
        found = max(found, _line(abs(d - ramp_edge(road, x) - 0.3), foot))
        if x < 0:
            found = max(found, _line(abs(d - ramp_middle(road, x) - 1.8), foot))
    return found, yellow


@kernel
def _ground(road, line, grid, crossings, air, grain, x, y, dx, dy, foot, long):
    """Colour, share that mirrors, class, and light of lamps, of the ground at x, y.

    dx, dy lead from the eye to it, on the ground; the spot that is seen is `foot` wide, and `long` times as long.
    """
    s, d = locate(road, line, grid, x, y)
    w, u = crossing_at(road, crossings, x, y)
    what = surface(road, s, d, w, u)
    p = line[min(int(s / road.step), line.size - 1)]
    away = math.hypot(dx, dy)
    over = (
        foot * (abs(p.c * dx + p.n * dy) + long * abs(p.c * dy - p.n * dx)) / away
    )  # the spot's width across the road
    over = min(max(over, 0.02), 3.0)
    fine, lamp = 1 / (1 + away * 0.04), 0.0
    if road.kind == 0 and air.night > 0:
        q = s - LAMPS * math.floor(s / LAMPS + 0.5)
        lamp = 0.85 * air.night * math.exp(-(q * q + (abs(d) - road.half - 0.5) ** 2) / 55.0)
    share = 1.0 if what == ROAD else 0.0
    if abs(w) > SIDE_ROAD + 1 and abs(abs(d) - road.half) < over and not (d < 0 and ramp_at(road, s) < NOWHERE):
        share = min(1.0, max(0.0, (road.half - abs(d)) / over + 0.5))
    mixed = grain_at(grain, x * 0.9, y * 0.9) * 0.5 + grain_at(grain, x * 0.11, y * 0.11) * 0.5
    r = g = b = mirror = 0.0
    if share < 1:
        if what == SIDEWALK or (road.kind == 0 and share > 0):
            r = g = b = 0.44 + 0.05 * fine * (mixed - 0.5)
            if away < 30 and (_within(s, 2.0) < 0.08 or abs(abs(d) - road.half - 0.12) < 0.06):
                r, g, b = r - 0.09, g - 0.09, b - 0.09
        else:
            r, g, b = 0.19 + 0.16 * mixed, 0.29 + 0.17 * mixed, 0.10 + 0.06 * mixed
        white = air.snow * (0.93 if what != SIDEWALK else 0.8)
        r, g, b = r + (0.80 - r) * white, g + (0.83 - g) * white, b + (0.88 - b) * white
    if share > 0:
        grey = 0.185 + 0.05 * fine * (mixed - 0.5)
        grey = grey * (1 - 0.35 * air.wet) + (0.52 - grey) * 0.55 * air.snow
        paint, yellow = _markings(road, s, d, w, u, over)
        what = MARKING if paint > 0.5 else (ROAD if share > 0.5 else what)
        paint *= 1 - 0.45 * air.snow
        ar, ag, ab = grey + (0.86 - grey) * paint, grey + (0.84 - 0.18 * yellow - grey) * paint, grey
        ab += (0.80 - 0.64 * yellow - grey) * paint + 0.02 * air.snow
        r, g, b = r + (ar - r) * share, g + (ag - g) * share, b + (ab - b) * share
        mirror = share * air.wet
    return r, g, b, mirror, what, lamp


@kernel
def _normal(p, lx, ly, z):
    """The side of a body on which a spot lies, in the body's own directions."""
    if p.form <= TAPER:
        slope = NARROWER * p.hx / (2 * p.hz) if p.form == TAPER else 0.0
        a, b, c = abs(lx) / (p.hx - slope * (z + p.hz)), abs(ly) / p.hy, abs(z) / p.hz
        if c >= a and c >= b:
            return 0.0, 0.0, 1.0 if z > 0 else -1.0
        if a >= b:
            long = math.sqrt(1 + slope * slope)
            return (1.0 if lx > 0 else -1.0) / long, 0.0, slope / long
        return 0.0, 1.0 if ly > 0 else -1.0, 0.0
    nx, ny, nz = lx / p.hx**2, ly / p.hy**2, (z / p.hz**2 if p.form == ELLIPSOID else 0.0)
    long = math.sqrt(nx * nx + ny * ny + nz * nz)
    return nx / long, ny / long, nz / long


@kernel
def _facade(p, r, g, b, across, face, height, night):
    """A house's wall: windows in rows, shops below; colour and own light."""
    column, row = across / 2.4 + 50.5, (height - 0.4) / 3.1
    if row > 0 and abs(column % 1 - 0.5) < 0.3 and abs(row % 1 - 0.5) < 0.3 and height < p.z + p.hz - 0.7:
        lit = chance(math.floor(column) * 7 + face, math.floor(row), p.own) > 0.55
        glow = night * (0.9 if lit else 0.03)
        return 0.15, 0.20, 0.27, 0.75 * glow, 0.58 * glow, 0.30 * glow
    if height > p.z + p.hz - 0.35:
        return 0.6 * r, 0.6 * g, 0.6 * b, 0.0, 0.0, 0.0
    return r, g, b, 0.0, 0.0, 0.0


@kernel
def _body(p, r, g, b, lx, ly, z, fx, fy, night):
    """The lower part of a car: wheels, bumpers, lights, a plate; colour and own light."""
    height = z + p.hz
    if fy != 0:
        wheel = math.hypot(abs(lx) - 0.62 * p.hx, height - WHEEL)
        if wheel < WHEEL:
            grey = 0.30 if wheel < 0.17 else 0.03
            return grey, grey, grey, 0.0, 0.0, 0.0
    if height < 0.24:
        return 0.03, 0.03, 0.035, 0.0, 0.0, 0.0
    if fx != 0 and 0.38 < height / (2 * p.hz) < 0.92:
        if abs(ly) > 0.56 * p.hy:
            if fx > 0:
                glow = 0.15 + 1.3 * night
                return 0.85, 0.85, 0.80, glow, glow, 0.9 * glow
            glow = 0.05 + 0.55 * night + 0.95 * p.glow
            return 0.50, 0.04, 0.03, glow, 0.06 * glow, 0.04 * glow
        if abs(ly) < 0.3 and height < 0.62:
            return 0.75, 0.75, 0.72, 0.0, 0.0, 0.0
        if fx > 0:
            return 0.25 * r, 0.25 * g, 0.25 * b, 0.0, 0.0, 0.0
    return r, g, b, 0.0, 0.0, 0.0


@kernel
def _material(p, lx, ly, z, fx, fy, fz, air, grain):
    """Colour and own light of a spot of a body."""
    r, g, b, what = p.red, p.green, p.blue, p.material
    if what == CHASSIS:
        return _body(p, r, g, b, lx, ly, z, fx, fy, air.night)
    if what == FACADE and fz == 0:
        return _facade(p, r, g, b, ly if fx != 0 else lx, int(2 * fx + 3 * fy), p.z + z, air.night)
    if what == CABIN and fz < 0.9:
        part, pillar = (z + p.hz) / (2 * p.hz), abs(lx) < 0.06 or abs(lx) > p.hx * (1 - NARROWER * 0.5) - 0.1
        if 0.1 < part < 0.86 and not (fy != 0 and pillar):
            if fx < 0 and part > 0.72 and abs(ly) < 0.3:  # the third brake light
                return 0.25, 0.02, 0.02, 0.9 * p.glow, 0.05 * p.glow, 0.0
            return 0.07, 0.10, 0.13, 0.06 * air.ambient, 0.08 * air.ambient, 0.10 * air.ambient
    if what == CROWN:
        leaf = 0.62 + 0.7 * grain_at(grain, 2.2 * lx + 5 * z + p.own, 2.2 * ly + 3 * z)
        white = air.snow * (0.8 if fz > 0.15 else 0.25)
        return (r * leaf + (0.8 - r * leaf) * white, g * leaf + (0.82 - g * leaf) * white,
                b * leaf + (0.87 - b * leaf) * white, 0.0, 0.0, 0.0)  # fmt: skip
    if what == LAMP:
        return r, g, b, 1.5 * air.night, 1.25 * air.night, 0.8 * air.night
    if what == SIGN and fx != 0 and (abs(ly) > p.hy - 0.15 or abs(z) > p.hz - 0.15 or abs(z - 0.2) < 0.12):
        return 0.85, 0.85, 0.85, 0.0, 0.0, 0.0
    if fz > 0.9 and air.snow > 0:
        return 0.8, 0.82, 0.87, 0.0, 0.0, 0.0
    return r, g, b, 0.0, 0.0, 0.0


@kernel
def spot(cam, bodies, road, line, grid, crossings, air, grain, ray, t, k, shade, foot):
    """Colour and class of the end of a ray that meets something."""
    dx, dy, dz = ray
    long = math.sqrt(dx * dx + dy * dy + dz * dz)
    x, y, z = cam[0] + t * dx, cam[1] + t * dy, cam[2] + t * dz
    er, eg, eb, nx, ny, nz, mirror, lamp = 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0
    if k == GROUND:
        r, g, b, mirror, what, lamp = _ground(
            road, line, grid, crossings, air, grain, x, y, t * dx, t * dy, foot * t, t / cam[2]
        )
    else:
        p = bodies[k]
        ax, ay, az = x - p.x, y - p.y, z - p.z
        lx, ly = p.c * ax + p.n * ay, p.c * ay - p.n * ax
        fx, fy, nz = _normal(p, lx, ly, az)
        nx, ny = p.c * fx - p.n * fy, p.n * fx + p.c * fy
        r, g, b, er, eg, eb = _material(p, lx, ly, az, fx, fy, nz, air, grain)
        what = int(p.what)
        if road.kind == 0 and air.night > 0:
            lamp = 0.16 * air.night * math.exp(-max(0.0, z - 4) / 3.0)
    sun = air.strength * max(0.0, nx * air.sun[0] + ny * air.sun[1] + nz * air.sun[2])
    around = air.ambient * (0.78 + 0.22 * nz)
    if shade & 1:
        sun = 0.0
    if shade & 2:
        sun, around, lamp = 0.0, 0.3 * around, 0.2 * lamp
    if air.night > 0:  # the own head lights
        cw, sw = math.cos(cam[3]), math.sin(cam[3])
        ahead, beside = cw * (x - cam[0]) + sw * (y - cam[1]), sw * (x - cam[0]) - cw * (y - cam[1])
        if ahead > 0:
            facing = abs(nx * dx + ny * dy + nz * dz) / long
            beam = math.exp(-((beside / (ahead + 1.5)) ** 2) * 7) * min(1.0, ahead / 5) / (1 + (ahead / 20.0) ** 2)
            beam *= (0.3 + 0.7 * facing) * (1.5 if k == GROUND else 1.0) * (1.0 if z < 1.5 else 0.3)
            around += air.night * beam * (1 - 0.45 * air.wet * (k == GROUND))
    warm = 0.25 * air.night * (1 - air.night) + 0.08
    r, g = r * (sun * (1 + warm) + around + lamp) + er, g * (sun + around + 0.8 * lamp) + eg
    b = b * (sun * (1 - warm) + around + 0.45 * lamp) + eb
    far = 1 - math.exp(-air.fog * t * long)
    if mirror > 0:
        far = 1 - (1 - far) * (1 - mirror * (0.05 + 0.6 * (1 - min(1.0, -dz / long)) ** 5))
    hr, hg, hb = air.horizon[0], air.horizon[1], air.horizon[2]
    return r + (hr - r) * far, g + (hg - g) * far, b + (hb - b) * far, what


@kernel
def aim_at_sky(rays, rows, turns):
    """Rows of the drawn sky that rays show, int32 `[H, W]`, and their turns from straight ahead, float64, filled."""
    for v in range(rows.shape[0]):
        for u in range(rows.shape[1]):
            dx, dy, dz = rays[v, u, 0], rays[v, u, 1], rays[v, u, 2]
            rows[v, u] = min(max(int(math.atan2(dz, math.hypot(dx, dy)) * SKY_ROWS / SKY_TOP), 0), SKY_ROWS - 1)
            turns[v, u] = math.atan2(dy, dx) / (2 * math.pi)


@kernel
def paint(cam, bodies, road, line, grid, crossings, air, sky, grain, levels, sky_rows, turns, rays, depth, index, shade,
          out, metres, instance, classes):  # fmt: skip
    """Fills a picture `out`, and of the last of the 2 x 2 rays of each pixel its distance, instance and class.

    `rays`, `depth`, `index` and `shade` are as `look` and `shadows` left them, twice as fine as the picture; `sky_rows`
    and `turns` are those of `aim_at_sky`. Filled are `out`, uint8 `[H, W, 3]`, `metres`, float32 `[H, W]` along the
    rays (0 in the sky), `instance`, int32, and `classes`, uint8.
    """
    height, width = metres.shape
    foot, turned = cam[5] / width, cam[3] / (2 * math.pi)  # width of a ray at a metre
    for i in range(height):
        for j in range(width):
            v, u = 2 * i, 2 * j
            k, dark = index[v, u], shade[v, u]
            same = depth[v, u] < FAR
            for q in range(1, 4):
                a, c = v + (q >> 1), u + (q & 1)
                same = same and index[a, c] == k and shade[a, c] == dark and depth[a, c] < FAR
            ground, share = same and k == GROUND, 0.25
            if same:  # of a body two rays tell enough; the ground is smooth, and its lines know how wide a pixel is
                share = 1.0 if ground else 0.5
            r = g = b = 0.0
            what = SKY
            for q in range(3 if ground else 0, 4, 3 if same else 1):
                a, c = v + (q >> 1), u + (q & 1)
                ray = rays[a, c, 0], rays[a, c, 1], rays[a, c, 2]
                t, k, wide = float(depth[a, c]), index[a, c], foot
                if t >= FAR:
                    x = turns[a, c] + turned
                    y = min(int((x - math.floor(x)) * SKY_COLUMNS), SKY_COLUMNS - 1)
                    row = sky_rows[a, c]
                    red, green, blue, what = float(sky[row, y, 0]), float(sky[row, y, 1]), float(sky[row, y, 2]), SKY
                else:
                    if ground:
                        ray = (
                            0.5 * (rays[v, u, 0] + ray[0]),
                            0.5 * (rays[v, u, 1] + ray[1]),
                            0.5 * (rays[v, u, 2] + ray[2]),
                        )
                        t, wide = -cam[2] / ray[2], 2 * foot
                    red, green, blue, what = spot(
                        cam, bodies, road, line, grid, crossings, air, grain, ray, t, k, shade[a, c], wide
                    )
                r, g = r + share * min(red, BRIGHTEST), g + share * min(green, BRIGHTEST)
                b += share * min(blue, BRIGHTEST)
            for c, value in enumerate((r, g, b)):
                out[i, j, c] = levels[min(LEVELS - 1, int(value * ((LEVELS - 1) / BRIGHTEST)))]
            a, c = v + 1, u + 1
            t, k = float(depth[a, c]), index[a, c]
            long = math.sqrt(rays[a, c, 0] ** 2 + rays[a, c, 1] ** 2 + rays[a, c, 2] ** 2)
            metres[i, j] = t * long if t < FAR else 0.0
            instance[i, j] = int(bodies[k].id) if k != GROUND else 0
            classes[i, j] = what
