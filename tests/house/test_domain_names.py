"""No room knows a domain by name, nor another room by a string: `DomainConfig` and `drivedit.config.rooms` tell them.

Docstrings and comments may name an example; identifiers and other strings may not.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.house import FOLDERS, MAY_IMPORT, ROOT, sources, within

DOMAINS = [ROOT / FOLDERS["drivedit.config.domains"], ROOT / FOLDERS["drivedit.data.domains"]]
ROOMS = ROOT / FOLDERS["drivedit.config"] / "rooms.py"
TRACK = "kerb|grass|wheels_on_road|lateral_offset|heading_error|track_position|lane_?keeper"
NAMES = re.compile(f"car_?racing|box2d|{TRACK}", re.IGNORECASE)
SIZES = {(64, 64), (96, 96)}
ENVIRONMENT = re.compile(r":\w+-v\d+$")  # `drivedit_env:DriveDiT-v0` is found through Gymnasium


def words(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, text) of every identifier and of every string that is not a docstring; of pairs of numbers as well."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and node.body
        if isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield line, node.value
        for name in ("id", "attr", "arg", "name", "module", "asname"):
            if isinstance(getattr(node, name, None), str):
                yield line, getattr(node, name)


def sizes(tree: ast.AST) -> Iterator[tuple[int, tuple]]:
    """(line, pair) of neighbouring numbers in tuples and lists."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Tuple, ast.List)):
            values = [each.value if isinstance(each, ast.Constant) else None for each in node.elts]
            yield from ((node.lineno, pair) for pair in zip(values, values[1:], strict=False))


def outside() -> Iterator[tuple[str, Path, ast.AST]]:
    """(package, file, tree) of what stands outside the domains."""
    for package, _, file in sources():
        if not any(folder in file.parents for folder in DOMAINS):
            yield package, file, ast.parse(file.read_text())


def test_no_domain_is_known_by_name():
    wrong = [
        f"{file.relative_to(ROOT)}:{line}: {text[:80]!r}"
        for _, file, tree in outside()
        for line, text in words(tree)
        if NAMES.search(text)
    ]
    assert not wrong, "reach a domain through drivedit.config.DomainConfig:\n" + "\n".join(wrong)


def test_no_size_of_a_domains_pictures_is_known():
    wrong = [
        f"{file.relative_to(ROOT)}:{line}: {pair}" for _, file, tree in outside() for line, pair in sizes(tree)
        if pair in SIZES
    ]  # fmt: skip
    assert not wrong, "sizes are those of the spec:\n" + "\n".join(wrong)


def test_no_room_names_another_in_a_string():
    wrong = []
    for package, file, tree in outside():
        room = within(package, MAY_IMPORT)
        assert room
        for line, text in words(tree):
            if file == ROOMS or not re.fullmatch(r"drivedit[\w.]*(:\w+)?", text) or ENVIRONMENT.search(text):
                continue
            target = within(text.partition(":")[0], MAY_IMPORT)
            if target and target != room and target not in MAY_IMPORT[room]:
                wrong.append(f"{file.relative_to(ROOT)}:{line}: {room} names {text}")
    assert not wrong, "import paths from room to room stand in drivedit.config.rooms:\n" + "\n".join(wrong)


@pytest.mark.parametrize("source", ["x.wheels_on_road", "f(kerbs=1)", "x = 'CarRacing-v3'", "def lane_keeper(): pass"])
def test_the_reader_sees_names(source):
    assert any(NAMES.search(text) for _, text in words(ast.parse(source)))


def test_the_reader_sees_sizes_and_passes_docstrings():
    assert (64, 64) in [pair for _, pair in sizes(ast.parse("x = [2, 64, 64, 3]"))]
    assert not list(words(ast.parse('"""CarRacing."""')))
