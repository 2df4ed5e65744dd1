"""The window: the frame, enlarged, and a panel of instruments, at any size. It draws a `View`, knowing nothing else."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import pygame

from drivedit.config import Quantity
from drivedit.utils import rgb
from drivedit_env.viewer.surroundings import READ, Surroundings, draw_map

SIZE = (960, 640)
SMALLEST = (480, 320)  # what smaller windows show is drawn at this size and shrunk
PANEL = (320, 210)  # px at scale 1: width beside the picture, height below it
MAP = 0.5  # of the height of a picture, that of the map in its corner
COLUMN = 290  # px at scale 1: least width of a column of the panel
BACK, CARD, LINE = (16, 18, 22), (26, 29, 35), (52, 57, 66)
TEXT, SOFT = (236, 239, 244), (148, 156, 170)
GREEN, RED, AMBER, BLUE = (92, 201, 126), (236, 92, 92), (244, 186, 74), (104, 168, 255)
NO_DISPLAY = (
    "there is no display here ({}): run it where there is a screen, or film without one: "
    "drivedit-play --video drive.mp4, gym.make(..., render_mode='rgb_array')"
)
Color = tuple[int, int, int]


@dataclass(frozen=True)
class View:
    """What is to be seen.

    Attributes:
        frame: uint8 [H, W, 1 or 3].
        info: Gymnasium's: telemetry, confidence, scene.
        action: float32 [A].
        controls: What its numbers are, A of them.
        reward: Of the last step.
        returned: Sum of the rewards.
        rate: Frames per second of the dream.
        real: What the simulator shows, or None.
        rows: Further lines of the panel: name and value.
        chips: Words on the picture, with their colours.
        message: A line to the person, or "".
        help: Keys and what they do, or nothing.
        around: What is known around the car in the frame, and in what the simulator shows; None: nothing.
    """

    frame: np.ndarray
    info: dict[str, Any]
    action: np.ndarray
    controls: Sequence[Quantity]
    reward: float
    returned: float
    rate: float
    real: np.ndarray | None = None
    rows: tuple[tuple[str, str], ...] = ()
    chips: tuple[tuple[str, Color], ...] = ()
    message: str = ""
    help: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    around: tuple[Surroundings | None, Surroundings | None] = field(default=(None, None), repr=False)


class Screen:
    """A resizable window.

    Args:
        title: Its title.
        size: Width and height in pixels.

    Raises:
        RuntimeError: There is no display.
    """

    def __init__(self, title: str = "DriveDiT", size: tuple[int, int] = SIZE) -> None:
        self._title, self._windowed = title, size
        self._pictures: list[tuple[np.ndarray, tuple[int, int], pygame.Surface]] = []
        self._closed = False
        self._open()

    def _open(self) -> None:
        try:
            if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"} & set(os.environ):
                raise pygame.error("DISPLAY is not set")
            pygame.display.init()
            if pygame.display.get_driver() == "offscreen" and "SDL_VIDEODRIVER" not in os.environ:
                raise pygame.error("none answers")
            pygame.display.set_mode(self._windowed, pygame.RESIZABLE)
        except pygame.error as error:
            pygame.display.quit()
            raise RuntimeError(NO_DISPLAY.format(error)) from None
        pygame.display.set_caption(self._title)

    def events(self) -> list[pygame.event.Event]:
        """What was pressed since the last call; the window opens anew where others, closing theirs, quit pygame."""
        if self._closed:
            return []
        if pygame.display.get_surface() is None:
            self._open()
        return pygame.event.get()

    def draw(self, view: View) -> None:
        """Draws and shows, unless it is closed."""
        window = pygame.display.get_surface()
        if self._closed or window is None:
            return
        width, height = window.get_size()
        shrink = max(SMALLEST[0] / width, SMALLEST[1] / height, 1.0)
        surface = window if shrink == 1.0 else pygame.Surface((width * shrink, height * shrink))
        surface.fill(BACK)
        frames = [view.frame] if view.real is None else [view.frame, view.real]
        places, panel, scale = arrange(surface.get_size(), len(frames), view.frame.shape[1] / view.frame.shape[0])
        self._pictures = [self._picture(i, f, r.size) for i, (f, r) in enumerate(zip(frames, places, strict=True))]
        for (_, _, picture), place in zip(self._pictures, places, strict=True):
            surface.blit(picture, place)
        for around, place in zip(view.around, places, strict=False):
            if around is not None:
                _outlines(surface, around, place, scale)
                _map(surface, around, place, scale)
        if view.real is not None:
            _chip(surface, "Simulator", TEXT, places[1].topleft, scale)
        _panel(surface, panel, view, scale)
        left, top = places[0].topleft
        for text, color in (*([("Dream", TEXT)] if view.real is not None else []), *view.chips):
            top = _chip(surface, text, color, (left, top), scale)
        if view.message:
            _message(surface, view.message, places[0].unionall(places[1:]), scale)
        if view.help:
            _help(surface, view.help)
        if surface is not window:
            pygame.transform.smoothscale(surface, window.get_size(), window)
        pygame.display.flip()

    def toggle_fullscreen(self) -> bool:
        """Between the whole screen and the window as it was before; False where the display cannot."""
        window = pygame.display.get_surface()
        try:
            if pygame.display.is_fullscreen():
                pygame.display.set_mode(self._windowed, pygame.RESIZABLE)
            elif window is not None:
                self._windowed = window.get_size()
                pygame.display.set_mode((0, 0), pygame.FULLSCREEN)
        except pygame.error:
            return False
        return True

    def close(self) -> None:
        """Closes the window."""
        self._closed = True
        pygame.display.quit()

    def _picture(self, number: int, frame: np.ndarray, size: tuple[int, int]) -> Any:
        """The frame at a size, made anew only when one of them has changed."""
        if number < len(self._pictures) and self._pictures[number][0] is frame and self._pictures[number][1] == size:
            return self._pictures[number]
        large = np.ascontiguousarray(cv2.resize(rgb(frame), size, interpolation=cv2.INTER_CUBIC))
        return frame, size, pygame.image.frombuffer(large.tobytes(), size, "RGB").convert()


def arrange(size: tuple[int, int], pictures: int, aspect: float) -> tuple[list[pygame.Rect], pygame.Rect, float]:
    """Where pictures and panel go: the panel right of them or below, whichever leaves larger pictures.

    Args:
        size: Of the window, at least `SMALLEST` both ways.
        pictures: 1 or 2, side by side.
        aspect: Width of a picture divided by its height.

    Returns:
        The pictures, the panel, and the scale of letters and instruments.
    """
    width, height = size
    scale = float(np.clip(min(width / SIZE[0], height / SIZE[1]), 0.7, 3.0))
    beside, below = round(PANEL[0] * scale), round(PANEL[1] * scale)
    gap = round(8 * scale) * (pictures - 1)
    tall = min(height, (width - beside - gap) / pictures / aspect)
    flat = min(height - below, (width - gap) / pictures / aspect)
    high = int(max(tall, flat))
    wide = int(high * aspect)
    row = pictures * wide + gap
    if tall >= flat:
        left, top = max((width - beside - row) // 2, 0), (height - high) // 2
        panel = pygame.Rect(width - beside, 0, beside, height)
    else:
        left, top = (width - row) // 2, 0
        panel = pygame.Rect(0, high, width, height - high)
    return [pygame.Rect(left + i * (wide + gap), top, wide, high) for i in range(pictures)], panel, scale


def _chip(surface: pygame.Surface, text: str, color: Color, at: tuple[int, int], scale: float) -> int:
    """Words on a dark ground; returns where the next ones may begin."""
    words = _write(text, round(20 * scale), color)
    pad, margin = round(8 * scale), round(8 * scale)
    box = words.get_rect().inflate(2 * pad, pad)
    box.topleft = (at[0] + margin, at[1] + margin)
    _shade(surface, box, round(6 * scale))
    surface.blit(words, words.get_rect(center=box.center))
    return box.bottom - round(2 * scale)


def _outlines(surface: pygame.Surface, around: Surroundings, place: pygame.Rect, scale: float) -> None:
    """Those who were read off a picture, as rectangles in it."""
    for left, top, right, bottom in around.outlines:
        corner = place.left + left * place.w, place.top + top * place.h
        size = (right - left) * place.w, (bottom - top) * place.h
        if min(size) >= 1:
            pygame.draw.rect(surface, READ[:3], pygame.Rect(corner, size), max(round(2 * scale), 1))


def _map(surface: pygame.Surface, around: Surroundings, place: pygame.Rect, scale: float) -> None:
    """The map, in the upper right corner of a picture."""
    drawn, margin = draw_map(around, round(MAP * place.h)), round(8 * scale)
    image = pygame.image.frombuffer(drawn.tobytes(), drawn.shape[1::-1], "RGBA")
    surface.blit(image, image.get_rect(topright=(place.right - margin, place.top + margin)))


def _panel(surface: pygame.Surface, panel: pygame.Rect, view: View, scale: float) -> None:
    """The instruments, in as many columns as fit; what does not fit is left out, the least important first."""
    pygame.draw.rect(surface, CARD, panel)
    pad = round(18 * scale)
    inside = panel.inflate(-2 * pad, -2 * pad)
    telemetry = view.info["telemetry"]
    blocks: list[tuple[int, Any]] = []
    if "speed" in telemetry:
        blocks.append((70, lambda box: _speed(surface, box, telemetry["speed"], scale)))
    confidence = view.info["confidence"]
    shade = GREEN if confidence > 0.6 else AMBER if confidence > 0.3 else RED
    bars = [_control_bar(each, float(value)) for each, value in zip(view.controls, view.action, strict=True)]
    bars.append(("Confidence", f"{confidence:.2f}", confidence, shade, False))
    blocks += [(48, lambda box, bar=bar: _bar(surface, box, scale, *bar)) for bar in bars]
    scene = view.info["scene"]
    rows = (
        ("Reward", f"{view.reward:+.2f}"),
        ("Return", f"{view.returned:.1f}"),
        ("Frames per second", f"{view.rate:.1f}"),
        *([("Scene", str(scene))] if scene >= 0 else []),
        *view.rows,
    )
    blocks += [(28, lambda box, r=row: _row(surface, box, r[0], r[1], scale)) for row in rows]
    heights = [round(height * scale) for height, _ in blocks]
    columns = max(inside.w // round(COLUMN * scale), 1)
    room = column_height(heights, columns, inside.h + pad // 2)
    width = (inside.w - (columns - 1) * 2 * pad) // columns
    x, y = inside.topleft
    for tall, (_, draw) in zip(heights, blocks, strict=True):
        if y + tall > inside.top + room:
            columns, x, y = columns - 1, x + width + 2 * pad, inside.top
        if columns == 0:
            return
        draw(pygame.Rect(x, y, width, tall))
        y += tall


def column_height(heights: list[int], columns: int, most: int) -> int:
    """The least height at which blocks, in order, fit into so many columns: they are then about equally long.

    Args:
        heights: Of the blocks.
        columns: How many columns there may be.
        most: What there is room for.

    Returns:
        At most `most`, also where that is too little for all blocks.
    """
    for room in range(max(heights), most, min(heights)):
        needed, filled = 1, 0
        for tall in heights:
            needed, filled = (needed, filled + tall) if filled + tall <= room else (needed + 1, tall)
        if needed <= columns:
            return room
    return most


def _speed(surface: pygame.Surface, box: pygame.Rect, speed: float, scale: float) -> None:
    large, small = _font(round(76 * scale)), _font(round(24 * scale))
    number = _write(f"{speed:.0f}", round(76 * scale), TEXT)
    foot = box.top + large.get_ascent()
    surface.blit(number, box.topleft)
    at = (box.left + number.get_width() + round(8 * scale), foot - small.get_ascent())
    surface.blit(_write("m/s", round(24 * scale), SOFT), at)


def _control_bar(control: Quantity, value: float) -> tuple[str, str, float, Color, bool]:
    """Name, words, share, colour and whether zero is in the middle, of the bar of a control."""
    name, still = control.name.capitalize(), abs(value) < 0.005
    if control.name == "steering":
        words = "straight" if still else f"{abs(value):.2f} {'right' if value > 0 else 'left'}"
        return name, words, value, BLUE, True
    if control.name == "throttle":
        words = "0" if still else f"{'brake' if value < 0 else 'gas'} {abs(value):.2f}"
        return name, words, value, RED if value < 0 else GREEN, True
    most = max(abs(control.low), abs(control.high))
    return name, f"{value:.2f}", value / most, BLUE, control.low < 0


def _bar(
    surface: pygame.Surface, box: pygame.Rect, scale: float, name: str, value: str, share: float, color: Color,
    centred: bool,
) -> None:  # fmt: skip
    """A name, a value, and a bar that fills from the left or from its middle; share in [0, 1] or [-1, 1]."""
    _row(surface, box, name, value, scale)
    track = pygame.Rect(box.left, box.top + round(22 * scale), box.w, max(round(9 * scale), 4))
    radius = track.h // 2
    pygame.draw.rect(surface, LINE, track, border_radius=radius)
    if centred:
        reach = round(min(abs(share), 1.0) * track.w / 2)
        fill = pygame.Rect(track.centerx - (reach if share < 0 else 0), track.top, reach, track.h)
    else:
        fill = pygame.Rect(track.left, track.top, round(min(max(share, 0.0), 1.0) * track.w), track.h)
    if fill.w:
        pygame.draw.rect(surface, color, fill, border_radius=radius)
    if centred:
        pygame.draw.rect(surface, SOFT, pygame.Rect(track.centerx - 1, track.top - 2, 2, track.h + 4))


def _row(surface: pygame.Surface, box: pygame.Rect, name: str, value: str, scale: float) -> None:
    size = round(20 * scale)
    words = _write(value, size, TEXT)
    surface.blit(_write(name, size, SOFT), box.topleft)
    surface.blit(words, words.get_rect(topright=box.topright))


def _message(surface: pygame.Surface, text: str, over: pygame.Rect, scale: float) -> None:
    """A message at the foot of the pictures, in as many lines as it needs."""
    size, pad = round(20 * scale), round(10 * scale)
    lines = wrapped(text, size, over.w - 4 * pad)
    height = _font(size).get_linesize()
    box = pygame.Rect(0, 0, max(_font(size).size(line)[0] for line in lines) + 2 * pad, len(lines) * height + pad)
    box.midbottom = (over.centerx, over.bottom - pad)
    _shade(surface, box, round(8 * scale))
    for number, line in enumerate(lines):
        surface.blit(_write(line, size, TEXT), (box.left + pad, box.top + pad // 2 + number * height))


def _help(surface: pygame.Surface, keys: tuple[tuple[str, str], ...]) -> None:
    """All keys, over everything, as large as they fit."""
    width, height = surface.get_size()
    _shade(surface, surface.get_rect(), 0, 245)
    columns = 2 if width > height else 1
    lines = -(-len(keys) // columns)
    size = int(np.clip(min((height - 20) / (lines + 3) / 1.6, (width - 20) / columns / 16), 10, 44))
    step, key_width, column = round(1.6 * size), round(6 * size), round(16 * size)
    left, top = (width - columns * column) // 2, (height - (lines + 2) * step) // 2
    surface.blit(_write("Drive the dream", round(1.5 * size), TEXT), (left, top))
    for number, (key, text) in enumerate(keys):
        x, y = left + number // lines * column, top + 2 * step + number % lines * step
        surface.blit(_write(key, size, AMBER), (x, y))
        surface.blit(_write(text, size, TEXT), (x + key_width, y))


def wrapped(text: str, size: int, width: int) -> list[str]:
    """Text in lines of at most `width` pixels; a word that is longer than a line is cut."""
    font, lines = _font(size), [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.size(longer)[0] <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and font.size(lines[-1] + letter)[0] > width:
                lines.append("")
            lines[-1] += letter
    return lines


def _shade(surface: pygame.Surface, box: pygame.Rect, radius: int, alpha: int = 190) -> None:
    """Darkens a box."""
    veil = pygame.Surface(box.size, pygame.SRCALPHA)
    pygame.draw.rect(veil, (8, 10, 14, alpha), veil.get_rect(), border_radius=radius)
    surface.blit(veil, box)


@lru_cache(maxsize=16)
def _made(size: int) -> pygame.font.Font:
    """The font that comes with pygame: the same on every machine."""
    return pygame.font.Font(None, max(size, 8))


def _font(size: int) -> pygame.font.Font:
    """A font that can be written with: those made before somebody quit pygame cannot."""
    try:
        _made(size).get_linesize()
    except pygame.error:
        _made.cache_clear()
        pygame.font.init()
    return _made(size)


@lru_cache(maxsize=256)
def _write(text: str, size: int, color: Color) -> pygame.Surface:
    return _font(size).render(text, True, color)
