"""Judges a checkpoint: `python -m drivedit.training.sets.eval experiment=ksin/baseline ckpt_path=PATH mode=test`."""

from __future__ import annotations

from typing import Any

from drivedit.training.sets.train import DictConfig, command, instantiate, seeding

MODES = ("test", "val", "predict")


def evaluate(cfg: DictConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tests or validates a checkpoint, or predicts with it.

    Args:
        cfg: As of `train`, with the `ckpt_path` of the weights, and a `mode`: "test" (if there is none), "val" or
            "predict".

    Returns:
        Metrics by name, and what was made; of "predict" also `predictions`, (samples `[B, P]`, batch) of each batch.

    Raises:
        ValueError: There is no `ckpt_path`, or the mode is unknown.
        hydra.errors.InstantiationException: A part has no `_target_`, or cannot be made.
    """
    mode, path = cfg.get("mode", "test"), cfg.get("ckpt_path")
    if not path:
        raise ValueError("ckpt_path is missing: the checkpoint that is evaluated")
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    with seeding(cfg):
        objects = instantiate(cfg)
        trainer, told = objects["trainer"], {"datamodule": objects["datamodule"], "ckpt_path": path}
        run = {"test": trainer.test, "val": trainer.validate, "predict": trainer.predict}[mode]
        result = run(objects["model"], **told, weights_only=True)
    if mode == "predict":
        objects["predictions"] = result
    return dict(trainer.callback_metrics), objects


def main(words: list[str] | None = None) -> None:
    """The command line; words are Hydra's overrides, None: those of this process."""
    command(evaluate, "eval", words)


if __name__ == "__main__":
    main()
