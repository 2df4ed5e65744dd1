"""The wheel and the sdist: everything is in them, and the wheel works outside the checkout.

The sources are copied away first, so that a build leaves nothing in the checkout and sees nothing left there; the
wheel is built from the sdist, so what the sdist lacks the wheel lacks too.
"""

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
WORLDS = ROOT / "drivedit_env" / "worlds"
MAX_WORLDS_BYTES = 70_000_000  # of all worlds in the wheel

# One test process builds for all of them.
pytestmark = pytest.mark.xdist_group("packaging")


def _shipped() -> dict[str, str]:
    """Every file that must ship: its path in the wheel, and its path in the checkout (and so in the sdist)."""
    files = [(package, file) for package, folder in FOLDERS.items() for file in (ROOT / folder).glob("*.py")]
    files += [(package, file) for package, folder in FOLDERS.items() for file in (ROOT / folder).glob("py.typed")]
    files += [("drivedit.inference", file) for file in (ROOT / "models" / "inference" / "cpp").iterdir()]
    domains = [package for package in FOLDERS if package.startswith("drivedit.data.domains.")]
    files += [(package, file) for package in domains for file in (ROOT / FOLDERS[package]).glob("*.safetensors")]
    files += [("drivedit.training", file) for file in (ROOT / "training" / "presets").rglob("*.*")]
    files += [("drivedit.agents", file) for file in (ROOT / "agents" / "weights").iterdir()]
    files += [("drivedit_env", file) for file in WORLDS.rglob("*") if file.is_file()]
    shipped = {}
    for package, file in files:
        inside = file.relative_to(ROOT / FOLDERS[package])
        shipped[f"{package.replace('.', '/')}/{inside.as_posix()}"] = file.relative_to(ROOT).as_posix()
    return shipped


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The (sdist, wheel) of this checkout."""
    work = tmp_path_factory.mktemp("build")
    for name in sorted({folder.split("/")[0] for folder in FOLDERS.values()}):
        shutil.copytree(ROOT / name, work / "src" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, work / "src" / name)
    _run("-m", "build", "--no-isolation", "--outdir", str(work / "dist"), str(work / "src"), cwd=work)
    (sdist,), (wheel,) = (work / "dist").glob("*.tar.gz"), (work / "dist").glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def installed(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel is installed, and nothing else."""
    target = tmp_path_factory.mktemp("installed")
    options = ("--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check")
    _run("-m", "pip", "install", *options, "--target", str(target), str(built[1]), cwd=target)
    return target


def _run(*args: str, cwd: Path) -> str:
    done = subprocess.run([sys.executable, *args], cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{' '.join(args)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _run_installed(code: str, installed: Path, cwd: Path) -> str:
    """Run `code` with the installed wheel; -I -S keeps the editable install and the checkout out of sight."""
    paths = [str(installed), *{sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}]
    return _run("-I", "-S", "-c", f"import sys\nsys.path += {paths!r}\n{code}", cwd=cwd)


def test_the_wheel_holds_every_file_and_no_other(built: tuple[Path, Path]):
    with zipfile.ZipFile(built[1]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        licences = [name for name in wheel.namelist() if name.endswith("/licenses/LICENSE")]
    assert names == set(_shipped())
    assert "drivedit/__init__.py" not in names, "drivedit is a namespace: other distributions may add rooms to it"
    assert len(licences) == 1


def test_the_sdist_holds_every_file(built: tuple[Path, Path]):
    with tarfile.open(built[0]) as sdist:
        names = {member.name.split("/", 1)[-1] for member in sdist.getmembers()}
    assert set(_shipped().values()) | {"LICENSE", "README.md", "pyproject.toml"} <= names


def test_the_shipped_worlds_stay_small():
    sizes = {str(file.relative_to(WORLDS)): file.stat().st_size for file in WORLDS.rglob("*") if file.is_file()}
    assert sum(sizes.values()) <= MAX_WORLDS_BYTES, sizes


def test_the_wheel_imports_outside_the_checkout(installed: Path, tmp_path: Path):
    code = f"import importlib\nfor name in {list(FOLDERS)!r}: print(name, importlib.import_module(name).__file__)"
    files = dict(line.split(" ", 1) for line in _run_installed(code, installed, tmp_path).splitlines())
    assert {name for name, file in files.items() if installed not in Path(file).parents} == set()


def test_the_wheel_drives_outside_the_checkout(installed: Path, tmp_path: Path):
    """The environment is registered by its import and finds the weights that came with the wheel."""
    code = (
        "import gymnasium\n"
        "env = gymnasium.make('drivedit_env:DriveDiT-v0', device='cpu')\n"
        "env.reset(seed=0)\n"
        "frame = env.step(env.action_space.sample() * 0)[0]\n"
        "print(frame.shape, frame.dtype)"
    )
    assert _run_installed(code, installed, tmp_path).splitlines()[-1] == "(64, 64, 3) uint8"
