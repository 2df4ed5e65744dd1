"""Which key and which gamepad button does what: one table, for the event loop and for the help that is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pygame
from pygame._sdl2 import controller

from drivedit_env.viewer.controls import Held


@dataclass(frozen=True)
class Command:
    """Something that the person can ask for.

    Attributes:
        name: What the viewer calls it.
        keys: Codes of the keys.
        shown: The keys, as the help shows them.
        text: What it does.
        buttons: Codes of gamepad buttons.
    """

    name: str
    keys: tuple[int, ...]
    shown: str
    text: str
    buttons: tuple[int, ...] = ()


COMMANDS = (
    Command("pause", (pygame.K_SPACE,), "Space", "pause, go on", (pygame.CONTROLLER_BUTTON_START,)),
    Command("single", (pygame.K_PERIOD,), "Period", "one step"),
    Command("rewind", (pygame.K_BACKSPACE,), "Backspace", "hold: go back", (pygame.CONTROLLER_BUTTON_LEFTSHOULDER,)),
    Command("bookmark", (pygame.K_b,), "B", "mark this moment", (pygame.CONTROLLER_BUTTON_X,)),
    Command("go_to", tuple(range(pygame.K_1, pygame.K_9 + 1)), "1 - 9", "back to a mark"),
    Command("restart", (pygame.K_r,), "R", "start again", (pygame.CONTROLLER_BUTTON_BACK,)),
    Command("next_scene", (pygame.K_n,), "N", "next scene or track", (pygame.CONTROLLER_BUTTON_RIGHTSHOULDER,)),
    Command("slower", (pygame.K_l,), "L", "slow motion"),
    Command("hand_over", (pygame.K_g,), "G", "agent drives, you drive", (pygame.CONTROLLER_BUTTON_Y,)),
    Command("twin", (pygame.K_t,), "T", "simulator alongside"),
    Command("map", (pygame.K_m,), "M", "map of others, where known"),
    Command("record", (pygame.K_f,), "F", "film and record"),
    Command("more", (pygame.K_PLUS, pygame.K_EQUALS, pygame.K_KP_PLUS), "Plus", "more network passes"),
    Command("fewer", (pygame.K_MINUS, pygame.K_KP_MINUS), "Minus", "fewer network passes"),
    Command("fullscreen", (pygame.K_F11,), "F11", "whole screen"),
    Command("help", (pygame.K_h, pygame.K_F1), "H", "this help"),
    Command("quit", (pygame.K_q, pygame.K_ESCAPE), "Esc, Q", "quit; recordings are kept"),
)
DRIVING = {
    pygame.K_LEFT: "left", pygame.K_a: "left", pygame.K_RIGHT: "right", pygame.K_d: "right",
    pygame.K_UP: "gas", pygame.K_w: "gas", pygame.K_DOWN: "brake", pygame.K_s: "brake",
}  # fmt: skip
HELP = (("Arrows, WASD", "steer, throttle, brake"), ("Gamepad", "stick and triggers"))
HELP += tuple((command.shown, command.text) for command in COMMANDS)

_BY_KEY = {key: command for command in COMMANDS for key in command.keys}
_BY_BUTTON = {button: command for command in COMMANDS for button in command.buttons}
_FULL = 32767.0  # of a gamepad's axis


def command_of(event: Any) -> Command | None:
    """The command of a key or button event, or None."""
    if event.type in (pygame.KEYDOWN, pygame.KEYUP):
        return _BY_KEY.get(event.key)
    if event.type in (pygame.CONTROLLERBUTTONDOWN, pygame.CONTROLLERBUTTONUP):
        return _BY_BUTTON.get(event.button)
    return None


class Fingers:
    """What is held down on keyboard and gamepad; gamepads may come and go."""

    def __init__(self) -> None:
        controller.init()
        self._keys: set[int] = set()
        self._pads: dict[int, Any] = {}

    def see(self, event: Any) -> None:
        """Takes note of an event of pygame."""
        if event.type == pygame.KEYDOWN and event.key in DRIVING:
            self._keys.add(event.key)
        elif event.type == pygame.KEYUP:
            self._keys.discard(event.key)
        elif event.type == pygame.WINDOWFOCUSLOST:
            self._keys.clear()
        elif event.type == pygame.CONTROLLERDEVICEADDED:
            pad = controller.Controller(event.device_index)
            self._pads[pad.id] = pad
        elif event.type == pygame.CONTROLLERDEVICEREMOVED:
            self._pads.pop(event.instance_id, None)

    def held(self) -> Held:
        """What is held down now."""
        held = Held(**{DRIVING[key]: True for key in self._keys})
        for pad in self._pads.values():
            held.stick = pad.get_axis(pygame.CONTROLLER_AXIS_LEFTX) / _FULL
            gas, brake = pygame.CONTROLLER_AXIS_TRIGGERRIGHT, pygame.CONTROLLER_AXIS_TRIGGERLEFT
            held.pedals = (pad.get_axis(gas) - pad.get_axis(brake)) / _FULL
        return held

    def close(self) -> None:
        """Lets the gamepads go."""
        self._pads.clear()
        controller.quit()
