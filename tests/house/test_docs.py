"""What README and docs tell people to type works: Python blocks run, and commands take the options that they show."""

import importlib
import importlib.util
import re
import shlex
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(page for page in (ROOT / "docs").glob("*.md") if page.name[0] != "_")])


def python_blocks(page: Path) -> str:
    return "\n".join(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S))


def commands(page: Path) -> list[list[str]]:
    """Every indented command line of the project, as words from the module's name on."""
    text = re.sub(r"^    drivedit-play", "    python -m drivedit_env", page.read_text(), flags=re.M)
    lines = re.findall(r"^    (?:\.venv/bin/)?(?:torchrun .*?|python )-m (drivedit\S*.*)$", text, re.M)
    return [shlex.split(line, comments=True) for line in lines]


WITH_BLOCKS = [page for page in PAGES if python_blocks(page)]
ALL_COMMANDS = {tuple(words) for page in PAGES for words in commands(page)}


@pytest.mark.parametrize("page", WITH_BLOCKS, ids=lambda page: page.name)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(python_blocks(page), str(page), "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("words", sorted(ALL_COMMANDS), ids=" ".join)
def test_commands_take_their_options(words, capsys):
    """Asks the command for its help, and looks for every option of the documents in it."""
    module, *arguments = words
    options = [word for word in arguments if word.startswith("--")]
    sub = [word for word in arguments[:2] if not word.startswith("-")][:1]
    name = f"{module}.__main__" if importlib.util.find_spec(module).submodule_search_locations else module  # type: ignore
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(name).main([*sub, "--help"])
    assert stopped.value.code in (0, None)
    known = capsys.readouterr().out
    assert all(re.search(rf"{re.escape(option)}\b", known) for option in options), (options, known)


def test_there_are_documents_and_commands():
    assert len(WITH_BLOCKS) >= 3 and len(ALL_COMMANDS) >= 8


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:\s]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_what_pages_take_from_the_code_is_up_to_date():
    spec = importlib.util.spec_from_file_location("conf", ROOT / "docs" / "conf.py")
    assert spec and spec.loader
    conf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conf)
    pages = conf.filled()
    assert {path.name for path in pages} == {"add_a_simulator.md", "drive.md", "environment.md"}
    assert [path.name for path, text in pages.items() if path.read_text() != text] == [], "run `make docs`"
    assert "### Action Space" in (ROOT / "docs" / "environment.md").read_text()


def test_every_package_has_a_heading_and_every_extra_a_row():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    headings = re.findall(r"^## (\S+)$", (ROOT / "docs" / "api.md").read_text(), re.M)
    rooms = [
        name
        for name, folder in project["tool"]["setuptools"]["package-dir"].items()
        if (ROOT / folder / "py.typed").is_file()
    ]
    assert sorted(headings) == sorted(rooms)
    rows = re.findall(r"^\| .* \| (.*) \|$", (ROOT / "docs" / "install.md").read_text(), re.M)
    assert {
        extra for extra in project["project"]["optional-dependencies"] for row in rows if f"`{extra}" in row
    } == set(project["project"]["optional-dependencies"])
