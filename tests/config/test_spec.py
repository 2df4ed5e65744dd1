"""What a world is about, in plain data: names are told apart, kinds are checked, and two that differ are named."""

import pytest

from drivedit.config import Modality, Quantity, RewardTerm, WorldSpec


def spec(**changes) -> WorldSpec:
    told = {
        "domain": "plane",
        "observations": {"camera": Modality((16, 32, 1))},
        "controls": [Quantity("push"), Quantity("turn"), Quantity("brake", 0.0)],
        "telemetry": [Quantity("speed", 0, 10, scale=2.0, unit="m/s"), Quantity("height", -5, 5)],
        "rewards": {"near": RewardTerm("learned"), "time": RewardTerm("constant", -0.1)},
    }
    return WorldSpec(**{**told, **changes})


def test_a_spec_is_plain_data_and_comes_back():
    again = WorldSpec.from_dict(spec().to_dict())
    assert again == spec() and again.names("controls") == ["push", "turn", "brake"]
    assert again.learned() == ["near"] and again.picture == "camera"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"telemetry": [Quantity("speed"), Quantity("speed")]}, r"telemetry.* different names, got \['speed'\]"),
        ({"controls": [Quantity("a"), Quantity("a")]}, "controls"),
        ({"rewards": {"height_gain": RewardTerm("telemetry", 1.0)}}, r"height_gain.*\['speed', 'height'\]"),
        ({"dt": 0.0}, "dt must be"),
        ({"conditions": ["route", "route"]}, "conditions"),
        ({"steering": "brake"}, r"steering is a control as far to either side of zero, got 'brake' of .*\(0.0, 1.0\)"),
        ({"steering": "wheel"}, "got 'wheel' of"),
    ],
)
def test_what_means_two_things_is_refused(changes, what):
    with pytest.raises(ValueError, match=what):
        spec(**changes)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Modality((16, 32, 1), dtype="int7"), "int7"),
        (lambda: Modality((16, 32, 1), low=3, high=3), "low < high"),
        (lambda: Quantity("x", 1, -1), "low < high"),
        (lambda: RewardTerm.from_dict({"kind": "dreamed"}), "kind"),
        (lambda: WorldSpec.from_dict({"colour": 1}), "colour"),
    ],
)
def test_nonsense_is_refused(make, what):
    with pytest.raises((ValueError, KeyError), match=what):
        make()


@pytest.mark.parametrize(
    ("controls", "named", "place"),
    [
        ("push turn brake", "turn", 1),
        ("push turn brake", "", None),  # both go to either side
        ("push steering brake", "", 1),
        ("push steering brake", "push", 0),
        ("brake turn", "", 1),
        ("brake", "", None),
    ],
)
def test_which_control_steers_is_named_or_the_only_one_that_can(controls, named, place):
    made = [Quantity(name, 0 if name == "brake" else -1) for name in controls.split()]
    assert spec(controls=made, steering=named).steers() == place


def test_controls_at_rest_are_zero_or_nearest_to_it():
    assert spec(controls=[Quantity("turn"), Quantity("gas", 0.5, 1), Quantity("brake", -2, -1)]).rest == [
        0.0,
        0.5,
        -1.0,
    ]


def test_specs_that_do_not_fit_are_named_with_both_sides():
    spec().check_same(spec(telemetry=[Quantity("speed", 0, 99), Quantity("height")]), "the world", "the recording")
    other = spec(observations={"camera": Modality((16, 32, 3))}, dt=0.2)
    with pytest.raises(ValueError, match=r"the world has .*\[16, 32, 1\].*the recording has .*\[16, 32, 3\].*0.1.*0.2"):
        spec().check_same(other, "the world", "the recording")
