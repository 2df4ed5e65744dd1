"""What a scene is to be like, in words: a table of rules from words to the attributes of a spec.

A value may be said by itself ("night"), with its attribute ("dense traffic", "traffic=dense"), or by a synonym. What
says how much ("dense", "light") is always said of something: "dense fog" shall not be understood as dense traffic. No
word is passed over but those that carry nothing (`FILLERS`), as marks are.
"""

from __future__ import annotations

from collections.abc import Iterator

from drivedit.config import WorldSpec
from drivedit.models.text_encoder import words_of

MARKS = ",.;-"
FILLERS = {"a", "an", "the", "and", "with", "in", "on", "at", "by", "of"}
DEGREES = {"dense", "few", "heavy", "high", "light", "low", "many", "none"}
SYNONYMS: dict[str, dict[str, tuple[str, ...]]] = {  # by attribute and value; each domain has those of its own values
    "weather": {
        "clear": ("sunny", "fair", "fine", "cloudless", "dry"),
        "fog": ("foggy", "mist", "misty", "haze", "hazy"),
        "rain": ("rainy", "raining", "wet", "wet road"),
        "snow": ("snowy", "snowing", "snowfall"),
    },
    "time": {
        "day": ("daytime", "daylight", "noon", "midday"),
        "dusk": ("twilight", "evening", "sunset"),
        "night": ("nighttime", "nightly", "midnight", "dark"),
    },
    "road": {
        "town": ("city", "urban", "village"),
        "rural": ("country", "countryside"),
        "highway": ("motorway", "freeway", "autobahn", "expressway"),
    },
    "traffic": {
        "none": ("no cars", "without cars", "empty road", "empty street", "empty", "deserted"),
        "light": ("few cars", "sparse traffic", "little traffic"),
        "dense": ("many cars", "heavy traffic", "busy", "crowded", "jam", "traffic jam", "rush hour"),
    },
}

Pair = tuple[str, str]  # attribute and value


def attributes_of(prompt: str, spec: WorldSpec) -> dict[str, str]:
    """What a scene is to be like, of the words of a prompt: each is a value of one of the spec's attributes.

    Args:
        prompt: Words such as `foggy night, dense traffic`; those that two attributes have are said `weather=clear`.
            Empty: nothing.
        spec: The spec.

    Raises:
        ValueError: The spec has no attributes, a word is none of theirs or of two, or two say different things.
    """
    words = [word for word in words_of(prompt) if word not in MARKS]
    if words and not spec.attributes:
        raise ValueError(f"this world has no attributes that a prompt could choose by, got {prompt!r}: leave it out")
    found: dict[str, str] = {}
    for name, value in _named(words, spec, prompt):
        if found.get(name, value) != value:
            raise ValueError(f"the prompt {prompt!r} asks for {name} {found[name]} and {value}: choose one")
        found[name] = value
    return found


def _named(words: list[str], spec: WorldSpec, prompt: str) -> list[Pair]:
    """Pairs of an attribute and its value that words name, the longest saying at each place, or ValueError."""
    sayings, chosen, unknown, place = [*_sayings(spec)], [], [], 0
    while place < len(words):
        fits = [(len(said), pair) for said, pair in sayings if words[place : place + len(said)] == said]
        longest = max((length for length, _ in fits), default=1)
        best = list(dict.fromkeys(pair for length, pair in fits if length == longest))
        if len(best) > 1 or (best and longest == 1 and words[place] in DEGREES):
            said = " ".join(words[place : place + longest])
            raise ValueError(f"{said!r} of the prompt {prompt!r} is said of {[name for name, _ in best]}: "
                             f"say {best[0][0]}={best[0][1]}")  # fmt: skip
        chosen += best
        unknown += [words[place]] if not best and words[place] not in FILLERS else []
        place += longest
    if unknown:
        raise ValueError(
            f"the words {', '.join(unknown)} of the prompt {prompt!r} are no attributes of this world, which are "
            + "; ".join(f"{name}: {', '.join(values)}" for name, values in spec.attributes.items())
            + "".join(f"; {name} {value} is also {', '.join(_synonyms(name, value))}" for name, value in _pairs(spec)
                      if _synonyms(name, value))
        )  # fmt: skip
    return chosen


def _pairs(spec: WorldSpec) -> list[Pair]:
    """All attributes with all their values."""
    return [(name, value) for name, values in spec.attributes.items() for value in values]


def _synonyms(name: str, value: str) -> tuple[str, ...]:
    """What else a value is called."""
    return SYNONYMS.get(name, {}).get(value, ())


def _sayings(spec: WorldSpec) -> Iterator[tuple[list[str], Pair]]:
    """Every way to say an attribute's value, in words."""
    for name, value in _pairs(spec):
        called = [value, *_synonyms(name, value)]
        texts = [f"{name}={value}", *called, *(f"{each} {name}" for each in called)]
        texts += [f"no {name}", f"without {name}"] if value == "none" else []
        yield from ((words_of(text), (name, value)) for text in texts)
