"""Light and air: how bright it is at an hour, how far one sees in a weather, and the sky, drawn once for a world."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from drivedit.data.domains.street.compiled import kernel
from drivedit.data.domains.street.rays import chance

SKY_ROWS, SKY_COLUMNS = 112, 1440  # of the drawn sky
SKY_TOP = 0.62  # rad above the horizon that it shows
LEVELS = 2048  # of brightness, before they are made bytes
BRIGHTEST = 1.6


@dataclass(frozen=True)
class Hour:
    """A time of day.

    Attributes:
        elevation: Of the sun (rad).
        sun: Its strength.
        ambient: Light from everywhere.
        night: Share of night: lamps and head lights are on.
        horizon: Colour of the sky at the horizon.
        zenith: Its colour above.
        gamma: Exponent from light to bytes.
    """

    elevation: float
    sun: float
    ambient: float
    night: float
    horizon: tuple[float, float, float]
    zenith: tuple[float, float, float]
    gamma: float


@dataclass(frozen=True)
class Weather:
    """A weather.

    Attributes:
        fog: What a metre of air takes of the light (1/m).
        wet: Share of wetness of the road.
        snow: Share of snow.
        sun: Share of the sun that comes through.
        grip: Greatest acceleration of tyres on a road, as a share of gravity.
        pace: Share of their speed that others drive with.
        lidar: Greatest range of a LiDAR (m), the share of beams that is lost anywhere, and beside it at that range.
    """

    fog: float
    wet: float
    snow: float
    sun: float
    grip: float
    pace: float
    lidar: tuple[float, float, float]


HOURS = {
    "day": Hour(0.85, 0.85, 0.55, 0.0, (0.80, 0.87, 0.94), (0.22, 0.44, 0.82), 0.8),
    "dusk": Hour(0.17, 0.62, 0.30, 0.45, (0.93, 0.58, 0.36), (0.20, 0.22, 0.46), 0.6),
    "night": Hour(-0.5, 0.0, 0.05, 1.0, (0.035, 0.042, 0.065), (0.006, 0.008, 0.022), 0.52),
}
WEATHERS = {
    "clear": Weather(0.0014, 0.0, 0.0, 1.0, 0.95, 1.0, (85.0, 0.004, 0.05)),
    "fog": Weather(0.024, 0.15, 0.0, 0.1, 0.85, 0.8, (38.0, 0.02, 0.5)),
    "rain": Weather(0.006, 1.0, 0.0, 0.12, 0.62, 0.9, (65.0, 0.03, 0.3)),
    "snow": Weather(0.010, 0.0, 1.0, 0.2, 0.3, 0.7, (50.0, 0.03, 0.4)),
}


AIR = np.dtype(
    [(name, "f8") for name in ("strength", "ambient", "fog", "night", "wet", "snow")]
    + [("sun", "f8", 3), ("horizon", "f8", 3)]
)


@dataclass(frozen=True)
class Light:
    """Light and air, in the parts that kernels take; colours are linear.

    Attributes:
        air: An `AIR`: strength of the sun, light from everywhere, what a metre of air takes of the light (1/m), shares
            of night, wetness and snow, direction to the sun, and colour of the sky at the horizon, which is the air's.
        sky: float32 `[SKY_ROWS, SKY_COLUMNS, 3]`, from the horizon up, and counter-clockwise from +x.
        grain: float32 `[256, 256]` of smooth chance in [0, 1], which repeats.
        bytes: uint8 `[LEVELS]`, what brightness up to `BRIGHTEST` looks like.
    """

    air: np.record
    sky: np.ndarray
    grain: np.ndarray
    bytes: np.ndarray


@kernel
def grain_at(grain, x, y):
    """Smooth chance in [0, 1] at x, y; a new one about every unit."""
    i, j = math.floor(x), math.floor(y)
    u, v = x - i, y - j
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    a, b, c, d = int(i) & 255, int(i + 1) & 255, int(j) & 255, int(j + 1) & 255
    return (grain[a, c] * (1 - u) + grain[b, c] * u) * (1 - v) + (grain[a, d] * (1 - u) + grain[b, d] * u) * v


@kernel
def _draw_sky(sky, grain, sun, strength, night, clear, seed, horizon, zenith):
    """Fills the sky: a gradient, clouds or stars, the sun, and hills far away."""
    for j in range(SKY_COLUMNS):
        azimuth = (j + 0.5) * 2 * math.pi / SKY_COLUMNS
        ca, sa = math.cos(azimuth), math.sin(azimuth)
        hill = 0.012 + 0.045 * grain_at(grain, 40 + 3 * ca, 40 + 3 * sa) + 0.01 * grain_at(grain, 9 * ca, 9 * sa)
        for i in range(SKY_ROWS):
            e = (i + 0.5) * SKY_TOP / SKY_ROWS
            ce, se = math.cos(e), math.sin(e)
            towards = ca * ce * sun[0] + sa * ce * sun[1] + se * sun[2]
            low = (1 - min(1.0, se / 0.75)) ** 3
            glow = strength * (0.30 * max(towards, 0.0) ** 24 + (1.5 if towards > 0.9992 else 0.0)) * clear
            cloud = 0.0
            if se > 0.02:
                x, y = 1.3 * ca / (se + 0.12), 1.3 * sa / (se + 0.12)
                thick = 0.6 * grain_at(grain, x, y) + 0.4 * grain_at(grain, 2.3 * x + 7, 2.3 * y)
                cloud = min(1.0, max(0.0, thick - 0.5) * 3.5) * min(1.0, (se - 0.02) * 8) * clear * (1 - night)
            star = night > 0.9 and clear > 0.9 and e > hill and chance(j, i, float(seed)) > 0.9965
            for c in range(3):
                value = zenith[c] + (horizon[c] - zenith[c]) * low + glow * (1.0, 0.85, 0.6)[c]
                value += (0.3 * horizon[c] + 0.55 * (strength + 0.1) - value * 0.35) * 0.7 * cloud
                if star:
                    value += 0.1 + 0.5 * chance(i, j, float(seed + 1))
                if e < hill:
                    far = 0.55 if clear > 0.9 else 0.92
                    value = far * horizon[c] + (1 - far) * (0.22, 0.30, 0.26)[c] * (1 - 0.93 * night)
                sky[i, j, c] = value


def make_light(time: str, weather: str, seed: int) -> Light:
    """The light of an hour and a weather.

    Args:
        time: One of `HOURS`.
        weather: One of `WEATHERS`.
        seed: Of clouds, stars, and where the sun stands.
    """
    hour, air = HOURS[time], WEATHERS[weather]
    rng = np.random.default_rng([seed, 2])
    grain = rng.random((256, 256), dtype=np.float32)
    turn = rng.uniform(0, 2 * math.pi)
    flat = math.cos(hour.elevation)
    sun = np.array([flat * math.cos(turn), flat * math.sin(turn), math.sin(hour.elevation)])
    horizon, zenith = np.array(hour.horizon), np.array(hour.zenith)
    if weather != "clear":
        grey = horizon.mean() * np.array([0.95, 0.98, 1.02]) * (0.86 + 0.16 * air.snow)
        horizon, zenith = 0.2 * horizon + 0.8 * grey, 0.85 * 0.8 * grey + 0.15 * zenith
        horizon, zenith = horizon * (1 - 0.15 * air.wet), zenith * (1 - 0.15 * air.wet)
    sky = np.zeros((SKY_ROWS, SKY_COLUMNS, 3), np.float32)
    strength = hour.sun * air.sun
    _draw_sky(sky, grain, sun, strength, hour.night, float(weather == "clear"), seed % 2**31, horizon, zenith)
    levels = np.linspace(0, BRIGHTEST, LEVELS)
    shown = 255 * np.clip(levels * (1 + levels / 6.0) / (1 + levels / 1.5) * 1.35, 0, 1) ** hour.gamma
    cloudy = 1.0 if weather == "clear" else 1.12
    values = (strength, hour.ambient * cloudy, air.fog, hour.night, air.wet, air.snow, sun, horizon)
    return Light(np.array([values], AIR).view(np.recarray)[0], sky, grain, shown.astype(np.uint8))
