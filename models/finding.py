"""Finding worlds: shipped ones by name, others by folder, and on the Hugging Face hub only where that is asked for."""

from __future__ import annotations

import difflib
import http.client
import importlib.util
import threading
import urllib.error
import urllib.request
import warnings
from pathlib import Path

from drivedit.config.rooms import SHIPS
from drivedit.utils import restore_folder

WEIGHTS, SCENES, CONFIG, CARD = "model.safetensors", "scenes.safetensors", "config.json", "CARD.md"
AGENTS = "agents.safetensors"  # a reader of who is where (`drivedit.models.sets.agents`), beside a world that has one
FILES = (CONFIG, WEIGHTS, SCENES, CARD)  # of a world's folder
HUB = "hub:"
HUB_SECONDS = 8.0  # in which the hub has to answer


def shipped_worlds() -> dict[str, Path]:
    """The worlds that come with the package: folder by name."""
    package = importlib.util.find_spec(SHIPS)
    places = (package.submodule_search_locations if package else None) or []
    folders = [folder for place in places for folder in sorted(Path(place, "worlds").glob("*"))]
    return {folder.name: folder for folder in folders if (folder / CONFIG).is_file()}


def find_world(world: str | Path) -> Path:
    """The folder of a world.

    Args:
        world: Name of a shipped world, which goes before a folder of that name (`./NAME` is the folder); a folder (a
            `Path` always is one); or `hub:NAME/WORLD`, which is downloaded from the Hugging Face hub, or taken from
            its cache where the hub does not answer in some seconds.

    Raises:
        FileNotFoundError: There is no such world, or the hub did not answer.
    """
    if isinstance(world, str) and world.startswith(HUB):
        return _download(world.removeprefix(HUB))
    path, shipped = Path(world), shipped_worlds()
    if isinstance(world, str) and world in shipped:
        if path.exists() and not path.samefile(shipped[world]):
            warnings.warn(f"{world!r} is the shipped world; for the folder of that name say './{world}'", stacklevel=3)
        return shipped[world]
    restore_folder(path, FILES)
    if path.is_dir():
        return path
    raise FileNotFoundError(_not_found(str(world), path, shipped))


def _not_found(world: str, path: Path, shipped: dict[str, Path]) -> str:
    """What was looked for, and what is near."""
    what = "a file, a world is a folder" if path.is_file() else f"there is no folder {path.absolute()}"
    near = difflib.get_close_matches(world, shipped)
    if path.parent.is_dir():
        beside = {str(folder.parent): folder for folder in path.parent.glob(f"*/{CONFIG}")}
        near += difflib.get_close_matches(str(path), beside)
    told = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return (
        f"there is no world folder {world!r}: {what}, and the shipped worlds are {', '.join(shipped) or 'none'}.{told} "
        f"(A world on the Hugging Face hub is named hub:NAME/WORLD.)"
    )


def lacks(path: Path, name: str) -> FileNotFoundError:
    """The error for a folder without one of a world's files; it names the worlds further inside."""
    inside = [str(found.parent) for depth in ("*", "*/*") for found in sorted(path.glob(f"{depth}/{CONFIG}"))]
    told = f"it holds the worlds {', '.join(inside)}" if inside else "copy or download the whole folder again"
    return FileNotFoundError(f"the world {path} lacks {name}; {told}")


def _download(name: str) -> Path:
    """Folder of a world of the hub; from the local cache where the hub is silent, or is not to be asked."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    silent = "HF_HUB_OFFLINE is set"
    try:
        validate_repo_id(name)
        if not constants.HF_HUB_OFFLINE:
            silent = _silence(f"{constants.ENDPOINT}/api/models/{name}", HUB_SECONDS)
        return Path(snapshot_download(name, allow_patterns=[*FILES, AGENTS], local_files_only=bool(silent)))
    except (HFValidationError, OSError) as error:
        why = f"the hub was not asked or did not answer ({silent}), and its cache here lacks it" if silent else error
        raise FileNotFoundError(f"there is no world {HUB}{name}: {why}") from error


def _silence(address: str, seconds: float) -> str:
    """Why a server gives no answer at all in so many seconds; empty if it answers, were it by refusing."""
    found = [f"{address} did not answer in {seconds:g} s"]

    def ask() -> None:
        try:
            with urllib.request.urlopen(address, timeout=seconds):
                found.append("")
        except urllib.error.HTTPError:
            found.append("")
        except (OSError, ValueError, http.client.HTTPException) as error:
            found.append(f"{address}: {error}")

    asking = threading.Thread(target=ask, daemon=True)  # looking up a name knows no time limit of its own
    asking.start()
    asking.join(seconds)
    return found[-1]
