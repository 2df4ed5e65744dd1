"""Recordings to and from Minari datasets (0.5), lossless.

Observations are stored raw (Minari's JPEG would lose 32 dB). Telemetry, reward terms, poses, times and agents are
`infos`; what is told once of an episode, and what it only carries (`extra`), is its metadata; the spec and what a shard
says of itself are the dataset's description. Drives of a simulator name it as their environment; others have none, only
their spaces.

Legend: n steps of an episode, A agents of a state at most.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from drivedit.config import Modality, WorldSpec
from drivedit.config.domain import domain_of
from drivedit.data.recordings import (
    EPISODES_AT_ONCE,
    Agents,
    Episode,
    batches,
    iter_episodes,
    joint_spec,
    read_folder_attrs,
    shard_path,
    write_shard,
)
from drivedit.utils import extra, work_folder
from drivedit.utils.episodes import columns

with extra("data", "reading and writing Minari datasets"):
    import minari
    from minari.data_collector import EpisodeBuffer

log = logging.getLogger(__name__)
NEEDED = {"telemetry", "rewards", "poses", "times"}  # infos of an exported episode


def export_minari(folder: str | Path, dataset: str, held_out: bool | None = None) -> Path:
    """Writes a recording folder as a local Minari dataset.

    Args:
        folder: Folder of the recording.
        dataset: Minari's id, for example `drivedit/carracing-v0`; it must not exist yet.
        held_out: Whether the folder is kept for judging, and one of the other kind refused; None: either is taken.

    Returns:
        The folder of the dataset (below `MINARI_DATASETS_PATH` if that is set).
    """
    if dataset in minari.list_local_datasets():
        raise ValueError(f"the Minari dataset {dataset!r} exists already; choose another id or version, or delete it")
    attrs = read_folder_attrs(folder, held_out)
    spec, env, held_out = joint_spec([told["spec"] for told in attrs]), str(attrs[0]["env"]), bool(attrs[0]["held_out"])
    description = {"held_out": held_out, "env": env, "made_from": attrs[0]["made_from"], "spec": spec.to_dict()}
    made: Any = None
    for batch in batches(iter_episodes(folder, held_out=held_out), EPISODES_AT_ONCE):
        buffers = [_to_buffer(episode, spec) for episode in batch]
        if made is None:
            with warnings.catch_warnings():  # a recording does not know who made it, nor by which code on the web
                warnings.filterwarnings("ignore", r"`(code_permalink|author|author_email)` is set to None", UserWarning)
                made = minari.create_dataset_from_buffers(
                    dataset,
                    buffers,
                    **_where(env, spec),
                    algorithm_name=batch[0].driver,
                    description=json.dumps(description),
                    requirements=["drivedit[data]"],
                    jpeg_encoding=False,
                )
            first = 0
        else:
            first = made.storage.total_episodes
            made.storage.update_episodes(buffers)
        made.storage.update_episode_metadata(
            [_metadata(episode) for episode in batch], range(first, first + len(batch))
        )
    return Path(made.storage.data_path)


def import_minari(dataset: str, out: str | Path) -> list[Path]:
    """Writes a dataset of `export_minari` as a recording folder.

    Args:
        dataset: Id of a local Minari dataset, for example `drivedit/carracing-v0`.
        out: Folder of the recording, new or empty; it stays so if the import fails.

    Returns:
        The paths of the shards.
    """
    out = Path(out)
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} holds something already; choose an empty folder")
    loaded = minari.load_dataset(dataset)
    text = str(loaded.storage.metadata.get("description", ""))
    told = json.loads(text) if text.startswith("{") else {}
    if "spec" not in told:
        raise ValueError(
            f"the Minari dataset {dataset!r} tells no spec; only datasets of `python -m drivedit.data export-minari` "
            "can be imported, older ones are to be exported anew"
        )
    attrs = {name: told[name] for name in ("held_out", "env", "made_from")}
    count = drives = 0
    with work_folder(out) as work:
        episodes = _from_minari(loaded, WorldSpec.from_dict(told["spec"]))
        for count, batch in enumerate(batches(episodes, EPISODES_AT_ONCE), 1):
            write_shard(shard_path(work, count - 1), batch, attrs)
            drives += len(batch)
        os.replace(work, out)
    log.info("%d episodes of the Minari dataset %s are in %s", drives, dataset, out)
    return [shard_path(out, number) for number in range(count)]


def _where(env: str, spec: WorldSpec) -> dict[str, Any]:
    """The environment that a recording comes from, if a domain knows it, and the spaces."""
    domain = domain_of(env)
    low, high = (np.array([getattr(q, side) for q in spec.controls], np.float32) for side in ("low", "high"))
    kinds: dict[str, spaces.Space] = {name: _box(kind) for name, kind in spec.observations.items()}
    return {
        **({} if domain is None else {"env": EnvSpec(env, entry_point=domain.simulator, max_episode_steps=1000)}),
        "observation_space": kinds[spec.picture] if len(kinds) == 1 else spaces.Dict(kinds),
        "action_space": spaces.Box(low, high, dtype=np.float32),
    }


def _box(kind: Modality) -> spaces.Box:
    return spaces.Box(kind.low, kind.high, kind.shape, np.uint8 if kind.dtype == "uint8" else np.float32)


def _metadata(episode: Episode) -> dict[str, Any]:
    """What is told once of an episode."""
    told = {name: getattr(episode, name) for name in ("driver", "closed", "ending")}
    told |= {name: json.dumps(getattr(episode, name)) for name in ("start", "attributes")}
    told |= {"timed": episode.times is not None, "extra": _packed(episode.extra)}
    told |= {"route": episode.route} if len(episode.route) else {}
    told |= {"bounds": episode.bounds} if episode.bounds is not None else {}
    return told | ({"agents": json.dumps(episode.agents.names)} if episode.agents is not None else {})


def _packed(carried: dict[str, Any]) -> str:
    """What an episode only carries, as JSON: a text as it is, numbers in base64 with type and shape."""
    told: dict[str, Any] = {}
    for name, value in carried.items():
        array = np.asarray(value)
        data = base64.b64encode(array.tobytes()).decode()
        told[name] = value if isinstance(value, str) else {"dtype": array.dtype.str, "shape": array.shape, "data": data}
    return json.dumps(told)


def _unpacked(text: str) -> dict[str, Any]:
    """The reverse; numbers alone are NumPy's."""
    found: dict[str, Any] = {}
    for name, value in json.loads(text).items():
        found[name] = value
        if isinstance(value, dict):
            array = np.frombuffer(base64.b64decode(value["data"]), value["dtype"]).reshape(value["shape"])
            found[name] = array.copy() if array.shape else array[()]
    return found


def _to_buffer(episode: Episode, spec: WorldSpec) -> EpisodeBuffer:
    """One episode in Minari's form; the last step is a truncation unless the drive ended. One info per state."""
    truncated = np.zeros(len(episode), dtype=bool)
    truncated[-1] = not episode.terminated[-1]
    states = len(episode) + 1
    telemetry = [episode.told(name) for name in spec.names("telemetry")]
    rewards = [np.append(np.float32(0), episode.earned(name)) for name in spec.rewards]
    infos = {
        "telemetry": np.stack(telemetry, 1) if telemetry else np.zeros((states, 0), np.float32),
        "rewards": np.stack(rewards, 1) if rewards else np.zeros((states, 0), np.float32),
        "poses": episode.poses,
        "times": episode.seconds(),
    }
    infos |= {} if episode.agents is None else _of_agents(episode.agents)
    seen: Any = episode.observations
    return EpisodeBuffer(
        seed=episode.seed,
        options=dict(episode.start),
        observations=seen if len(seen) > 1 else episode.picture,  # pyright: ignore[reportArgumentType] (arrays do)
        actions=episode.controls,  # pyright: ignore[reportArgumentType]
        rewards=episode.reward,  # pyright: ignore[reportArgumentType]
        terminations=episode.terminated,  # pyright: ignore[reportArgumentType]
        truncations=truncated,  # pyright: ignore[reportArgumentType]
        infos=infos,
    )


def _of_agents(agents: Agents) -> dict[str, np.ndarray]:
    """Agents as arrays with a row per state, `[n + 1, A, ...]`; rows of no agent are zero."""
    counts = np.diff(agents.first)
    there = np.arange(max(1, counts.max())) < counts[:, None]
    padded = {}
    for name in ("ids", "boxes", "kinds"):
        flat = getattr(agents, name)
        padded[f"agents_{name}"] = np.zeros((*there.shape, *flat.shape[1:]), flat.dtype)
        padded[f"agents_{name}"][there] = flat
    return {"agents_there": there, **padded}


def _agents(infos: dict[str, Any], names: str) -> Agents:
    """The reverse."""
    there = np.asarray(infos["agents_there"], bool)
    flat = {name: np.asarray(infos[f"agents_{name}"])[there] for name in ("ids", "boxes", "kinds")}
    return Agents(np.cumsum([0, *there.sum(1)]), **flat, names=tuple(json.loads(names)))


def _from_minari(loaded: Any, spec: WorldSpec) -> Iterator[Episode]:
    """The episodes of a Minari dataset."""
    for data in loaded.iterate_episodes():
        (told,) = loaded.storage.get_episode_metadata([data.id])
        infos = data.infos or {}
        missing = NEEDED - set(infos) | {"driver", "start"} - set(told)
        if missing:
            raise ValueError(
                f"episode {data.id} of {loaded.spec.dataset_id} lacks {sorted(missing)}; "
                "only datasets of `python -m drivedit.data export-minari` can be imported"
            )
        seen = data.observations if len(spec.observations) > 1 else {spec.picture: data.observations}
        yield Episode(
            spec=spec,
            observations={name: np.asarray(seen[name], kind.dtype) for name, kind in spec.observations.items()},
            controls=np.asarray(data.actions, np.float32),
            reward=np.asarray(data.rewards, np.float32),
            rewards=columns(np.asarray(infos["rewards"], np.float32)[1:], spec.rewards),
            terminated=np.asarray(data.terminations, bool),
            telemetry=columns(np.asarray(infos["telemetry"], np.float32), spec.names("telemetry")),
            poses=np.asarray(infos["poses"], np.float64),
            times=np.asarray(infos["times"], np.float64) if told["timed"] else None,
            route=np.asarray(told.get("route", np.zeros((0, 2))), np.float32),
            closed=bool(told["closed"]),
            bounds=np.asarray(told["bounds"], np.float32) if "bounds" in told else None,
            agents=_agents(infos, told["agents"]) if "agents" in told else None,
            attributes=json.loads(told["attributes"]),
            ending=str(told["ending"]),
            seed=int(told["seed"]),
            driver=str(told["driver"]),
            start=json.loads(told["start"]),
            extra=_unpacked(told.get("extra", "{}")),
        )
