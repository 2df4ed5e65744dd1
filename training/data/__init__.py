"""`drivedit.data`: recordings of driving, and the simulators they come from.

`collect_recordings` records the simulator of a domain with drivers of many skills; the simulators can be imported from
here as well (`CarRacingTwin` is the one behind the spaces of `DriveDiT-v0`). `Episode`, `read_shard`, `write_shard` and
`iter_episodes` are the recordings on disk; `export_minari` and `import_minari` exchange them, `import_drives` makes
them of videos and pictures, `upgrade_recordings` renews older ones. What needs Box2D or Minari is imported at first use
(the extra `data`).

`VideoDataset` and `VideoLoader` give clips of pictures or recordings as tensors; `VideoTransforms`, `FrameTransforms`,
`AugmentationPipeline`, `VideoPreprocessor` and `ControlPreprocessor` change them. `create_dataloader_from_config_v2`
gives batches of captioned pictures, each of one size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from drivedit.config import all_domains
from drivedit.utils import load_object
from drivedit.utils.lazy import lazily

if TYPE_CHECKING:
    from drivedit.data.collect import Recipe, collect_recordings, collect_shard, record_episode
    from drivedit.data.datasets.augmentation import AugmentationPipeline
    from drivedit.data.datasets.buckets import BucketSampler
    from drivedit.data.datasets.captioned import BucketLoader, CaptionedPictures, create_dataloader_from_config_v2
    from drivedit.data.datasets.preprocessing import ControlPreprocessor, VideoPreprocessor
    from drivedit.data.datasets.transforms import FrameTransforms, VideoTransforms
    from drivedit.data.datasets.video_dataset import VideoDataset, VideoLoader
    from drivedit.data.exchange.films import Plan, import_drives
    from drivedit.data.exchange.minari import export_minari, import_minari
    from drivedit.data.geometry import CentreLine, Projection, wrap_angle
    from drivedit.data.recordings import (
        Agents,
        Episode,
        ShardError,
        iter_episodes,
        read_shard,
        shard_paths,
        write_shard,
    )
    from drivedit.data.sheet import write_sheet
    from drivedit.data.upgrade import upgrade_recordings

__all__ = [
    "Agents",
    "AugmentationPipeline",
    "BucketLoader",
    "BucketSampler",
    "CaptionedPictures",
    "CentreLine",
    "ControlPreprocessor",
    "Episode",
    "Projection",
    "FrameTransforms",
    "Plan",
    "Recipe",
    "ShardError",
    "VideoDataset",
    "VideoLoader",
    "VideoPreprocessor",
    "VideoTransforms",
    "collect_recordings",
    "collect_shard",
    "create_dataloader_from_config_v2",
    "export_minari",
    "import_drives",
    "import_minari",
    "iter_episodes",
    "read_shard",
    "record_episode",
    "shard_paths",
    "upgrade_recordings",
    "wrap_angle",
    "write_shard",
    "write_sheet",
]


def _of_a_domain(name: str) -> Any:
    """The simulator of a domain, and what draws its drivers."""
    for domain in all_domains().values():
        for place in (domain.simulator, domain.drivers):
            if place.endswith(f":{name}"):
                return load_object(place)
    return None


__getattr__, __dir__ = lazily(__name__, _of_a_domain)
