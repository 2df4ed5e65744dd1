"""Words that choose attributes: what a prompt means, and what it may not say."""

import pytest
from helpers.worlds import spec_of

from drivedit.config import WorldSpec, all_domains
from drivedit.models.prompts import DEGREES, FILLERS, SYNONYMS, attributes_of

WEATHER = {
    "weather": ["clear", "rain"], "time": ["day", "night"], "traffic": ["none", "light"], "lamps": ["none", "big ones"],
}  # fmt: skip
STREET = {
    "road": ["town", "rural", "highway"], "weather": ["clear", "fog", "rain"], "time": ["day", "dusk", "night"],
    "traffic": ["none", "light", "dense"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("", {}),
        ("night rain", {"time": "night", "weather": "rain"}),
        ("Rain, NIGHT; rain.", {"time": "night", "weather": "rain"}),
        ("big ones", {"lamps": "big ones"}),
        ("traffic=none day", {"traffic": "none", "time": "day"}),
        ("a rainy day with no traffic", {"weather": "rain", "time": "day", "traffic": "none"}),
    ],
)
def test_words_name_attributes(prompt, wanted):
    assert attributes_of(prompt, spec_of(attributes=WEATHER)) == wanted


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("foggy night, dense traffic", "fog night dense"), ("night,fog", "fog night"), ("an empty road", "none"),
        ("A misty evening in the city with few cars", "town fog dusk light"), ("light traffic", "light"),
        ("sunny weather on a busy motorway", "highway clear dense"),
        ("wet country road at midnight", "rural rain night"),
        ("rush-hour at twilight", "dusk dense"), ("wet road", "rain"), ("heavy traffic, many cars", "dense"),
    ],
)  # fmt: skip
def test_synonyms_and_sentences_are_understood(prompt, wanted):
    spec = spec_of(attributes=STREET)
    assert set(attributes_of(prompt, spec).values()) == set(wanted.split())
    assert attributes_of(wanted.replace("dense", "traffic=dense").replace("light", "traffic=light").replace(
        "none", "traffic=none"), spec) == attributes_of(prompt, spec)  # fmt: skip


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("foggy night", r"the words foggy of the prompt .* weather: clear, rain; time: day, night.*rain is also rainy"),
        ("a snowy day at sea", "the words snowy, sea of the prompt"),
        ("night day", "asks for time night and day: choose one"),
        ("sunny rain", "asks for weather clear and rain: choose one"),
        ("big ones lamps, without lamps", "asks for lamps big ones and none: choose one"),
        ("none", r"'none' of the prompt 'none' is said of \['traffic', 'lamps'\]: say traffic=none"),
        ("light rain", r"'light' of the prompt 'light rain' is said of \['traffic'\]: say traffic=light"),
        ("no rain", "the words no of the prompt"),
        ("weather=night", "the words weather, = of the prompt"),
    ],
)
def test_words_that_choose_nothing_are_named(prompt, message):
    with pytest.raises(ValueError, match=message):
        attributes_of(prompt, spec_of(attributes=WEATHER))


def test_a_world_without_attributes_says_so():
    with pytest.raises(ValueError, match="this world has no attributes that a prompt could choose by, got 'rain'"):
        attributes_of("rain", spec_of())


@pytest.mark.parametrize("domain", sorted(all_domains()))
def test_every_value_and_synonym_of_a_domain_means_what_it_says(domain):
    spec = all_domains()[domain].spec
    for name, values in spec.attributes.items():
        assert set(SYNONYMS[name]) == set(values), f"synonyms of {name} are those of its values"
        for value in values:
            for said in (f"{name}={value}", f"{value} {name}", *SYNONYMS[name][value]):
                assert attributes_of(said, spec) == {name: value}, said


def test_an_attribute_that_the_table_does_not_know_is_said_by_its_values():
    spec = WorldSpec(attributes={"surface": ["ice", "gravel"]})
    assert attributes_of("ice", spec) == attributes_of("ice surface", spec) == {"surface": "ice"}
    assert not FILLERS & DEGREES
