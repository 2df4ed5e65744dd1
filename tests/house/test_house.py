"""The house: who may import whom, how long a file may be, and that the folders and their import names agree.

The table is read from the imports themselves with `ast`, so an import inside a function counts as well.
"""

import ast
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.house import FOLDERS, MAY_IMPORT, PYPROJECT, ROOT, WORLD, sources, within

CODE_FOLDERS = ("models", "training", "agents", "drivedit_env", "examples", "tests")
TEXT = {".py", ".h", ".cpp", ".md", ".yaml", ".json", ".toml"}
MAX_LINES = 400
KINDS = ("dit", "sde", "sets", "pixel")  # of worlds, each in a folder of `models`

# A distribution that is imported by another name than its own.
IMPORT_NAME = {
    "opencv-python": "cv2",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "pygame-ce": "pygame",
    "stable-baselines3": "stable_baselines3",
    "hydra-core": "hydra",
}


def _second_names() -> set[str]:
    """Dotted names under which a folder inside another package's folder could be loaded a second time."""
    return {
        outer + inside.removeprefix(folder).replace("/", ".")
        for outer, folder in FOLDERS.items()
        for inside in FOLDERS.values()
        if inside.startswith(folder + "/")
    } - set(FOLDERS)


def _imports(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of everything imported; `from a import b` gives `a` and `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = module.split(".") if is_package else module.split(".")[:-1]
                here = here[: len(here) - node.level + 1]
                base = ".".join([*here, base] if base else here)
            yield node.lineno, base
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            first = node.args[0]
            if called in ("import_module", "__import__") and isinstance(first, ast.Constant):
                yield node.lineno, str(first.value)


def _all_imports() -> Iterator[tuple[str, str, str]]:
    """(package, "file:line", absolute dotted name) over the whole house."""
    for package, module, file in sources():
        tree = ast.parse(file.read_text(), filename=str(file))
        for line, name in _imports(tree, module, file.name == "__init__.py"):
            yield package, f"{file.relative_to(ROOT)}:{line}", name


def _run(code: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter that stands outside the checkout."""
    return subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=ROOT.parent, capture_output=True, text=True, timeout=300
    )


def test_every_room_has_a_rule_and_a_folder():
    assert set(FOLDERS) == set(PYPROJECT["tool"]["setuptools"]["packages"])
    assert set(MAY_IMPORT) == {name for name in FOLDERS if within(name, MAY_IMPORT) == name}
    assert [name for name in FOLDERS if not within(name, MAY_IMPORT)] == []
    assert [f for f in FOLDERS.values() if not (ROOT / f / "__init__.py").is_file()] == []
    assert [name for name in MAY_IMPORT if not (ROOT / FOLDERS[name] / "py.typed").is_file()] == []


def test_every_python_folder_is_packaged():
    """A folder with modules that pyproject.toml does not list would be missing from the wheel."""
    missing = {str(file.parent.relative_to(ROOT)) for _, _, file in sources()} - set(FOLDERS.values())
    assert not missing, f"list these folders under [tool.setuptools] packages and package-dir: {sorted(missing)}"


def test_rooms_import_only_what_they_may():
    wrong = []
    for package, where, name in _all_imports():
        target, room = within(name, MAY_IMPORT), within(package, MAY_IMPORT)
        if target and room and target != room and target not in MAY_IMPORT[room]:
            wrong.append(f"{where}: {package} imports {name}")
    assert not wrong, "the import layers (tests/test_house.py, MAY_IMPORT) are broken:\n" + "\n".join(wrong)


@pytest.mark.parametrize("package", ["layers", "flow", *KINDS])
def test_layers_and_flow_know_no_world_and_worlds_know_no_other_kind(package: str):
    """Inside `models` every kind of world stands on layers and flow alone."""
    owner = f"drivedit.models.{package}"
    others = {f"drivedit.models.{kind}" for kind in KINDS if kind != package}
    if package not in KINDS:
        others |= {f"drivedit.models.{name}" for name in ("world", "state", "scenes", "storage", "finding")}
    wrong = [f"{where}: {name}" for found, where, name in _all_imports() if found == owner and within(name, others)]
    assert not wrong, f"{owner} imports a world:\n" + "\n".join(wrong)


def _paths(tree: ast.AST) -> Iterator[int]:
    """Lines that write out `(1 - s) x + s n`, whatever the names."""

    def factors(node: ast.AST) -> list[ast.expr]:
        return [node.left, node.right] if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult) else []

    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            for one, other in ((node.left, node.right), (node.right, node.left)):
                rest = [f.right for f in factors(one) if isinstance(f, ast.BinOp) and ast.unparse(f).startswith("1 - ")]
                if {ast.dump(each) for each in rest} & {ast.dump(each) for each in factors(other)}:
                    yield node.lineno


def test_the_path_from_data_to_noise_is_written_once_in_models():
    assert list(_paths(ast.parse("t * x1 + (1 - t) * x0"))) == [1] and not list(
        _paths(ast.parse("t * a + (1 - s) * b"))
    )
    found = {
        str(file.relative_to(ROOT))
        for package, _, file in sources()
        if within(package, {"drivedit.models"}) and list(_paths(ast.parse(file.read_text())))
    }
    assert found == {"models/flow/path.py"}


def test_a_room_is_named_by_one_name_only():
    """`drivedit.models.config` (or `from .config` inside models/) would load a second copy of `drivedit.config`."""
    second, folder_names = _second_names(), {f.split("/")[0] for f in FOLDERS.values()} - {"drivedit_env"}
    wrong = [
        f"{where}: {name}"
        for _, where, name in _all_imports()
        if within(name, second) or name.split(".")[0] in folder_names
    ]
    assert not wrong, "import these by their mapped names (drivedit.config, drivedit.data, ...):\n" + "\n".join(wrong)


def test_configurations_need_only_the_standard_library_pydantic_and_yaml():
    allowed = sys.stdlib_module_names | {"pydantic", "yaml", "drivedit"}
    wrong = [
        f"{where}: {name}"
        for package, where, name in _all_imports()
        if within(package, {"drivedit.config"}) and name.split(".")[0] not in allowed
    ]
    assert not wrong, "drivedit.config may import the standard library, pydantic and yaml:\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def f():\n    from drivedit.data import twin", "drivedit.data"),
        ("import drivedit.training.loop as loop", "drivedit.training"),
        ("from drivedit import agents", "drivedit.agents"),
        ("import importlib\nimportlib.import_module('drivedit.evaluation.psnr')", "drivedit.evaluation"),
    ],
)
def test_the_layer_reader_sees_every_kind_of_import(source: str, found: str):
    names = [name for _, name in _imports(ast.parse(source), "drivedit_env.world", False)]
    assert found in {within(name, MAY_IMPORT) for name in names}


@pytest.mark.parametrize("source", ["from .config import ModelConfig", "from . import config", "import models.config"])
def test_the_name_reader_sees_a_second_copy(source: str):
    names = [name for _, name in _imports(ast.parse(source), "drivedit.models.vae", False)]
    assert any(within(name, _second_names()) or name.startswith("models.") for name in names)


def test_no_file_is_longer_than_the_habit():
    long = {
        str(file.relative_to(ROOT)): lines
        for folder in CODE_FOLDERS
        for file in (ROOT / folder).rglob("*")
        if file.suffix in (".py", ".h", ".cpp") and (lines := len(file.read_text().splitlines())) > MAX_LINES
    }
    assert not long, f"split these files (more than {MAX_LINES} lines): {long}"


def test_no_machine_paths_and_no_registry_hosts():
    machine = re.compile(r"(?<![\w.$}])/(?:home|Users|root|work|opt|mnt|tmp)/")
    host = re.compile(r"--(?:extra-)?index-url|--find-links|files\.pythonhosted|download\.pytorch|@\s*(?:file|https?):")
    top = [ROOT / name for name in ("Makefile", "README.md", "pyproject.toml", "constraints.txt", ".ci/run")]
    texts = [f for folder in CODE_FOLDERS for f in (ROOT / folder).rglob("*") if f.suffix in TEXT] + top
    wrong = []
    for file in texts:
        for number, line in enumerate(file.read_text().splitlines(), start=1):
            if machine.search(line) or (file in top and host.search(line)):
                wrong.append(f"{file.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not wrong, "paths of one machine, or hosts of a package registry:\n" + "\n".join(wrong)


def test_type_checkers_see_the_mapped_names():
    links = {link.name: os.readlink(link) for link in (ROOT / ".typing" / "drivedit").iterdir()}
    rooms = {name: FOLDERS[name] for name in MAY_IMPORT if name != "drivedit_env"}
    assert links == {name.removeprefix("drivedit."): f"../../{folder}" for name, folder in rooms.items()}


def test_imports_are_declared_and_declarations_are_imported():
    project = PYPROJECT["project"]
    extras = {name: group for name, group in project["optional-dependencies"].items() if name not in ("dev", "docs")}
    requirements = project["dependencies"] + [line for group in extras.values() for line in group]
    names = {re.match(r"[\w.-]+", line)[0] for line in requirements}  # type: ignore[index]
    declared = {IMPORT_NAME.get(name, name.replace("-", "_")) for name in names}
    imported = {name for _, _, name in _all_imports()}
    tops = {name.split(".")[0] for name in imported}
    third_party = tops - sys.stdlib_module_names - {"drivedit", "drivedit_env"}
    if within("torch.utils.tensorboard", imported):
        third_party.add("tensorboard")  # torch's writer is a thin layer over it
    assert third_party - declared - {"Box2D"} == set(), "declare these in pyproject.toml"
    assert declared - third_party == set(), "nothing imports these any more; take them out of pyproject.toml"


def test_the_tests_run_against_this_checkout():
    for package, folder in FOLDERS.items():
        file = importlib.import_module(package).__file__
        assert file and Path(file).parent == ROOT / folder, f"{package} comes from {file}; run `make clean venv`"


def test_the_configurations_are_there_without_torch():
    done = _run(
        "import importlib, pkgutil, sys, drivedit.config as config\n"
        "for m in pkgutil.walk_packages(config.__path__, 'drivedit.config.'): importlib.import_module(m.name)\n"
        "print(sorted({'torch', 'numpy', 'gymnasium'} & set(sys.modules)))"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_no_module_is_loaded_twice():
    """In an editable install `drivedit.models.config` can be found on disk; nothing may load it under that name."""
    modules = [module for _, module, file in sources() if file.name != "__main__.py"]
    done = _run(
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        f"second = {sorted(_second_names())!r}\n"
        "print([m for m in sys.modules if any(m == s or m.startswith(s + '.') for s in second)])"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_the_world_and_the_environment_need_only_the_core():
    """With every extra made unimportable, what a driver needs is still there; what trains agents names its extra."""
    extras = [
        "Box2D",
        "minari",
        "numba",
        "accelerate",
        "scipy",
        "matplotlib",
        "tensorboard",
        "torchmetrics",
        "stable_baselines3",
        "sb3_contrib",
        "lightning",
        "hydra",
        "omegaconf",
        "diffusers",
    ]
    needing = {f"drivedit.agents.learning.{name}": "agents" for name in ("sb3", "train")}
    needing |= {f"drivedit.models.sde.{name}": "sde" for name in ("stdiff", "pipeline")}
    rooms = WORLD | {"drivedit_env", "drivedit.agents"}
    modules = [
        module
        for package, module, file in sources()
        if within(package, MAY_IMPORT) in rooms and file.name != "__main__.py"
    ]
    done = _run(
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({extras!r}))\n"
        f"for name in {modules!r}:\n"
        "    try: importlib.import_module(name)\n"
        "    except ImportError as error:\n"
        f"        assert name in {needing!r}, name\n"
        f"        assert '.[' + {needing!r}[name] + ']' in str(error), error\n"
    )
    assert done.returncode == 0, done.stderr
