"""Recordings to and from Minari datasets (0.5), lossless.

Frames are stored raw (Minari's JPEG would lose 32 dB). Telemetry, poses and the progress term are `infos`; the route,
the driver and the start are metadata of the episode, so an import gives back every array of the recording, bit for bit.
Drives of the simulator name it as their environment; filmed drives have none, only its spaces.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from drivedit.config import WorldConfig
from drivedit.data.recordings import (
    ENV_ID,
    EPISODES_AT_ONCE,
    TELEMETRY,
    Episode,
    batches,
    iter_episodes,
    read_folder_attrs,
    shard_path,
    write_shard,
)
from drivedit.utils import extra, work_folder

with extra("data", "reading and writing Minari datasets"):
    import minari
    from minari.data_collector import EpisodeBuffer

TWIN = EnvSpec(ENV_ID, entry_point="drivedit.data.domains.carracing.twin:CarRacingTwin", max_episode_steps=1000)


def export_minari(folder: str | Path, dataset: str, held_out: bool | None = None) -> Path:
    """Writes a recording folder as a local Minari dataset.

    Args:
        folder: holds `shard-*.h5`.
        dataset: Minari's id, for example `drivedit/carracing-v0`; it must not exist yet.
        held_out: as the folder is, unless given; a folder of the other kind is refused.

    Returns:
        The folder of the dataset (below `MINARI_DATASETS_PATH` if that is set).
    """
    if dataset in minari.list_local_datasets():
        raise ValueError(f"the Minari dataset {dataset!r} exists already; choose another id or version, or delete it")
    attrs = read_folder_attrs(folder, held_out)[0]
    held_out = bool(attrs.get("held_out", False))
    env = str(attrs.get("env", ""))
    description = {"held_out": held_out, "env": env, "fps": attrs["fps"]}
    made: Any = None
    for batch in batches(iter_episodes(folder, held_out=held_out), EPISODES_AT_ONCE):
        buffers = [_to_buffer(episode) for episode in batch]
        if made is None:
            made = minari.create_dataset_from_buffers(
                dataset,
                buffers,
                **_where(env, batch[0]),
                algorithm_name="drivedit.data.domains.carracing.drivers" if env == ENV_ID else batch[0].driver,
                description=json.dumps(description),
                requirements=["drivedit[data]"],
                jpeg_encoding=False,
            )
            first = 0
        else:
            first = made.storage.total_episodes
            made.storage.update_episodes(buffers)
        metadata = [
            {
                "driver": e.driver,
                "start": json.dumps(e.start),
                "closed": e.closed,
                "telemetry": json.dumps(e.telemetry_names),
            }
            | ({"route": e.route} if len(e.route) else {})
            | ({} if e.bounds is None else {"bounds": e.bounds})
            for e in batch
        ]
        made.storage.update_episode_metadata(metadata, range(first, first + len(batch)))
    return Path(made.storage.data_path)


def import_minari(dataset: str, out: str | Path) -> list[Path]:
    """Writes a dataset of `export_minari` as a recording folder.

    Args:
        dataset: id of a local Minari dataset.
        out: the folder to be; it must not exist or be empty, and stays so if the import fails.

    Returns:
        The paths of the shards.
    """
    out = Path(out)
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} holds something already; choose an empty folder")
    loaded = minari.load_dataset(dataset)
    text = str(loaded.storage.metadata.get("description", ""))
    description = json.loads(text) if text.startswith("{") else {}
    env = description.get("env", "" if "fps" in description else ENV_ID)  # only films told their rate at first
    attrs = {"held_out": bool(description.get("held_out", False)), "recipe": f"minari {dataset}", "env": env}
    episodes = _from_minari(loaded, float(description.get("fps", WorldConfig.fps)))
    count = 0
    with work_folder(out) as work:
        for count, batch in enumerate(batches(episodes, EPISODES_AT_ONCE), 1):
            write_shard(shard_path(work, count - 1), batch, attrs)
        os.replace(work, out)
    return [shard_path(out, number) for number in range(count)]


def _where(env: str, episode: Episode) -> dict[str, Any]:
    """The environment that a recording comes from, or, without one, the spaces of its pictures and controls."""
    if env == ENV_ID:
        return {"env": TWIN}
    return {
        "observation_space": spaces.Box(0, 255, episode.frames.shape[1:], np.uint8),
        "action_space": spaces.Box(-1.0, 1.0, (2,), np.float32),
    }


def _to_buffer(episode: Episode) -> EpisodeBuffer:
    """One episode in Minari's form; the last step is a truncation unless the car left."""
    truncated = np.zeros(len(episode), dtype=bool)
    truncated[-1] = not episode.terminated[-1]
    progress = np.concatenate([[0.0], episode.progress]).astype(np.float32)  # Minari: one info per frame, [n+1]
    return EpisodeBuffer(
        seed=episode.seed,
        options=dict(episode.start),
        observations=episode.frames,  # pyright: ignore[reportArgumentType] (Minari stores arrays as they are)
        actions=episode.controls,  # pyright: ignore[reportArgumentType]
        rewards=episode.reward,  # pyright: ignore[reportArgumentType]
        terminations=episode.terminated,  # pyright: ignore[reportArgumentType]
        truncations=truncated,  # pyright: ignore[reportArgumentType]
        infos={"telemetry": episode.telemetry, "poses": episode.poses, "progress": progress},
    )


def _from_minari(loaded: Any, fps: float) -> Iterator[Episode]:
    """The episodes of a Minari dataset."""
    for data in loaded.iterate_episodes():
        (metadata,) = loaded.storage.get_episode_metadata([data.id])
        infos = data.infos or {}
        missing = {"telemetry", "poses", "progress"} - set(infos) | {"driver", "start"} - set(metadata)
        if missing:
            raise ValueError(
                f"episode {data.id} of {loaded.spec.dataset_id} lacks {sorted(missing)}; "
                "only datasets of `python -m drivedit.data export-minari` can be imported"
            )
        yield Episode(
            frames=np.asarray(data.observations, dtype=np.uint8),
            controls=np.asarray(data.actions, dtype=np.float32),
            reward=np.asarray(data.rewards, dtype=np.float32),
            progress=np.asarray(infos["progress"], dtype=np.float32)[1:],
            terminated=np.asarray(data.terminations, dtype=bool),
            telemetry=np.asarray(infos["telemetry"], dtype=np.float32),
            poses=np.asarray(infos["poses"], dtype=np.float64),
            route=np.asarray(metadata.get("route", np.zeros((0, 2))), dtype=np.float32),
            seed=int(metadata["seed"]),
            driver=str(metadata["driver"]),
            start=json.loads(metadata["start"]),
            closed=bool(metadata["closed"]),
            bounds=np.asarray(metadata["bounds"], np.float32) if "bounds" in metadata else None,
            fps=fps,
            telemetry_names=tuple(json.loads(metadata["telemetry"])) if "telemetry" in metadata else TELEMETRY,
        )
