"""Lightning as Hydra configures it: `python -m drivedit.training.sets.train experiment=ksin/baseline`.

The configurations lie in `drivedit/training/presets/sets`. Our own loop trains the same networks without both.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from importlib import resources
from math import prod
from typing import Any

from drivedit.utils import extra, generator, seeded

with extra("sets", "training by Hydra and Lightning"):
    import hydra
    from hydra.errors import InstantiationException
    from omegaconf import DictConfig, OmegaConf

CONFIGS = str(resources.files("drivedit.training") / "presets" / "sets")
OmegaConf.register_new_resolver("mul", lambda *factors: prod(factors), replace=True)  # ${mul:2,${data.k}}


def train(cfg: DictConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Trains a model, and tests it if the configuration says so.

    Args:
        cfg: `data`, `model`, `trainer`, and if wanted `callbacks`, `logger`, `seed`, `train`, `test`, `ckpt_path`
            (of a run that goes on).

    Returns:
        Metrics by name; and what was made: cfg, datamodule, model, callbacks, logger, trainer.

    Raises:
        hydra.errors.InstantiationException: A part has no `_target_`, or cannot be made.
    """
    with seeding(cfg):
        objects = instantiate(cfg)
        model, data, trainer = objects["model"], objects["datamodule"], objects["trainer"]
        metrics: dict[str, Any] = {}
        if cfg.get("train", True):
            trainer.fit(model, datamodule=data, ckpt_path=cfg.get("ckpt_path"), weights_only=True)
            metrics |= trainer.callback_metrics
        if cfg.get("test"):
            best = getattr(trainer.checkpoint_callback, "best_model_path", "") if cfg.get("train", True) else None
            trainer.test(model, datamodule=data, ckpt_path=best or cfg.get("ckpt_path"), weights_only=True)
            metrics |= trainer.callback_metrics
    return metrics, objects


def instantiate(cfg: DictConfig) -> dict[str, Any]:
    """Makes the parts of a configuration.

    Raises:
        hydra.errors.InstantiationException: A part has no `_target_`, or cannot be made.
    """
    data, model = (_make(cfg, name) for name in ("data", "model"))
    callbacks, loggers = (_make_each(cfg, name) for name in ("callbacks", "logger"))
    trainer = _make(cfg, "trainer", callbacks=callbacks, logger=loggers or False)
    made = {"datamodule": data, "model": model, "callbacks": callbacks, "logger": loggers, "trainer": trainer}
    return {"cfg": cfg, **made}


def _make(cfg: DictConfig, name: str, **more: Any) -> Any:
    if not isinstance(cfg.get(name), DictConfig) or "_target_" not in cfg[name]:
        raise InstantiationException(f"{name} needs a _target_, what is to be made; got {cfg.get(name)}")
    return hydra.utils.instantiate(cfg[name], **more)


def _make_each(cfg: DictConfig, name: str) -> list[Any]:
    return [_make(cfg[name], str(each)) for each in cfg.get(name) or {}]


def seeding(cfg: DictConfig) -> Any:
    """Lets torch's own generators draw by `seed` meanwhile, if there is one; afterwards they are as they were."""
    return nullcontext() if cfg.get("seed") is None else seeded(generator(cfg.seed, "lightning"))


def main(words: list[str] | None = None) -> None:
    """The command line; words are Hydra's overrides, None: those of this process."""
    command(train, "train", words)


def command(function: Callable[[DictConfig], Any], name: str, words: list[str] | None) -> None:
    """Runs a function of a configuration as Hydra's command line does, which reads the process's arguments alone."""

    def task(cfg: DictConfig) -> None:
        function(cfg)

    kept = sys.argv
    try:
        sys.argv = kept if words is None else [kept[0], *words]
        hydra.main(version_base="1.3", config_path=CONFIGS, config_name=name)(task)()
    finally:
        sys.argv = kept


if __name__ == "__main__":
    main()
