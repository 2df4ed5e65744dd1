"""Options come from signatures and their help from docstrings; files of options, wrong words and errors."""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from drivedit.utils.commands import run, typed

called: list[dict[str, Any]] = []


@dataclass
class Recipe:
    """What is cooked.

    Attributes:
        heat: Degrees; None: as the oven
            stands.
        size: Height and width.
    """

    heat: float | None = None
    size: tuple[int, int] | None = None


def cook(
    folder: str | Path,
    recipe: Recipe,
    from_: Path = Path("pantry"),
    who: Sequence[str] = (),
    minutes: tuple[int, ...] = (1, 2),
    how: Literal["fried", "boiled"] = "fried",
    first_seed: int = 1_000_000,
    guest: str | None = "nobody",
    salt: bool = False,
) -> None:
    """Cooks.

    Then all eat.

    Args:
        folder: Where it is kept.
        recipe: What is cooked.
        from_: Where it comes from.
        who: Cooks; none: all of them.
        minutes: Minutes that it takes.
        how: How it is cooked.
        first_seed: Seed of the first dish.
        guest: Who eats.
        salt: Whether it is salted.

    Raises:
        ValueError: It burns.
    """
    called.append(dict(locals()))


def end(status: int = 3) -> int:
    """Ends with a status."""
    return status


def tell() -> str:
    """Says what was typed."""
    return typed.get()


def fail(kind: Literal["value", "file", "env", "interrupt"], number: int = 0) -> None:
    """Fails."""
    import gymnasium

    kinds = {
        "value": ValueError("no good"),
        "env": gymnasium.error.NameNotFound("no env"),
        "interrupt": KeyboardInterrupt(),
    }
    raise kinds.get(kind) or FileNotFoundError(2, "No such file or directory", "x.h5")


HERE = __name__
TABLE = {
    "cook FOLDER": (f"{HERE}:cook", "cook something"),
    "end": (f"{HERE}:end", "end"),
    "tell": (f"{HERE}:tell", "say what was typed"),
    "fail KIND": (f"{HERE}:fail", "fail"),
    "away": ("no_such_module:function", "is imported only when it is chosen"),
}


def command(words: str, **settings: Any) -> int:
    return run(TABLE, shlex.split(words), program="kitchen", about="A kitchen.", **settings)


def cooked(words: str) -> dict[str, Any]:
    called.clear()
    assert command(f"cook {words}") == 0
    return called[0]


def test_a_function_gets_what_was_typed_in_its_own_types():
    assert cooked("here") == {
        "folder": "here", "recipe": Recipe(), "from_": Path("pantry"), "who": [], "minutes": (1, 2), "how": "fried",
        "first_seed": 1_000_000, "guest": "nobody", "salt": False,
    }  # fmt: skip
    words = "--heat 1e2 --size 64 112 --from a/b --who ann bob --minutes 5 --how boiled --first-seed=7 --guest none"
    assert cooked(f"{words} here --salt") == {
        "folder": "here", "recipe": Recipe(100.0, (64, 112)), "from_": Path("a/b"), "who": ["ann", "bob"],
        "minutes": (5,), "how": "boiled", "first_seed": 7, "guest": None, "salt": True,
    }  # fmt: skip
    assert cooked("here --salt --no-salt")["salt"] is False and cooked("here --guest 007")["guest"] == "007"


def test_help_is_made_of_signature_and_docstring(capsys):
    with pytest.raises(SystemExit, match="0"):
        command("cook --help", known={"who": lambda: ["ann", "bob"]})
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith("usage: kitchen cook FOLDER [options] Cooks. Then all eat. positional")
    for line in (
        "FOLDER Where it is kept (needed)",
        "--heat X Degrees (default: as the oven stands)",
        "--size N N Height and width (default: none)",
        "--from FROM Where it comes from (default: pantry)",
        "Cooks: ann, bob (default: all of them)",
        "Minutes that it takes (default: 1 2)",
        "--how {fried,boiled} How it is cooked (default: fried)",
        "--first-seed N Seed of the first dish (default: 1000000)",
        "--salt, --no-salt Whether it is salted (default: no)",
    ):
        assert line in text
    assert "Raises" not in text and "burns" not in text


def test_all_commands_are_listed_without_importing_them(capsys):
    with pytest.raises(SystemExit, match="0"):
        command("--help")
    listed = capsys.readouterr().out
    assert "A kitchen." in listed and "FOLDER" not in listed
    assert all(name.split()[0] in listed and text in listed for name, (_, text) in TABLE.items())
    assert command("away") == 1 and "error: No module named 'no_such_module'" in capsys.readouterr().err


def test_options_go_into_a_file_and_come_out_of_it(tmp_path, capsys):
    words = "here --heat 3 --size 64 112 --who ann bob --salt --guest none --first-seed 5"
    before = cooked(words)
    with pytest.raises(SystemExit, match="0"):
        command(f"cook {words} --print-config")
    file = tmp_path / "dish.yaml"
    file.write_text(capsys.readouterr().out)
    assert yaml.safe_load(file.read_text())["first_seed"] == 5
    assert cooked(f"--config {file}") == before
    later = cooked(f"--config {file} --first-seed 6 --no-salt")
    assert later == {**before, "first_seed": 6, "salt": False}
    file.write_text("first_sed: 5\n")
    with pytest.raises(SystemExit, match="2"):
        command(f"cook here --config {file}")
    assert "first_sed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "required: COMMAND"),
        ("bake", "'bake' (choose from"),
        ("cook", "required: folder"),
        ("cook here --first-sed 3", "--first-sed"),
        ("cook here --salty", "--salty"),
        ("cook here --first-seed x", "first_seed: Expected a int. Got value: x"),
        ("cook here --how raw", "how: Expected a Literal['fried', 'boiled']. Got value: raw"),
        ("cook here --size 64", "size"),
        ("cook here --config none.yaml", "none.yaml"),
    ],
)
def test_wrong_words_end_with_status_2_and_are_named_in_a_line(words, said, capsys):
    called.clear()
    with pytest.raises(SystemExit, match="2"):
        command(words)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line and line.endswith("--help") and not called


def test_errors_are_a_line_and_a_status(capsys):
    for kind, status, said in (
        ("value", 1, "error: no good"), ("file", 1, "error: No such file or directory: x.h5"),
        ("env", 1, "error: no env"), ("interrupt", 130, "interrupted"),
    ):  # fmt: skip
        assert command(f"fail {kind}") == status
        assert capsys.readouterr().err == f"{said}\n"
    assert command("end") == 3 and command("end --status 0") == 0


def test_a_text_is_printed_and_the_words_are_known(capsys):
    assert command("tell") == 0 and capsys.readouterr().out == "kitchen tell\n" and typed.get() == ""
    assert run(end, ["--status", "4"]) == 4, "one function needs no name"


def test_fields_of_dataclasses_have_dots_where_that_is_asked(capsys):
    words = ["--folder", "here", "--recipe.heat", "3", "--recipe.size", "[1, 2]", "--first_seed", "8"]
    called.clear()
    assert run(cook, words, dotted=True) == 0
    assert called[0]["recipe"] == Recipe(3.0, (1, 2)) and called[0]["first_seed"] == 8


def test_a_dataclass_that_is_a_default_gives_the_fields_theirs(capsys):
    found = []

    usual = Recipe(7.0, (3, 4))

    def bake(recipe: Recipe = usual) -> None:
        found.append(recipe)

    assert run(bake, [], dotted=True) == run(bake, ["--recipe.heat", "2"], dotted=True) == 0
    assert found == [usual, Recipe(2.0, (3, 4))]


@pytest.mark.parametrize("room", ["data", "evaluation", "training", "agents"])
def test_the_commands_of_a_room_are_listed_without_torch(room):
    code = (
        "import sys\n"
        f"from drivedit.{room}.__main__ import COMMANDS, main\n"
        "try: main(['--help'])\n"
        "except SystemExit as ended: assert not ended.code\n"
        "slow = {'torch', 'jsonargparse', 'cv2', 'h5py'} & set(sys.modules)\n"
        "assert not slow, slow\n"
        "print('listed', len(COMMANDS))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "commands:" in done.stdout and int(done.stdout.split()[-1]) >= 2
