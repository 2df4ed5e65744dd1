"""Training modules for Lightning: thin around `SetFlow`, with metrics and a schedule.

All that is drawn comes from generators of (seed, step).

Legend: B rows, P parameters, k sines.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from drivedit.data.parameter_files import M2L, MEL, PARAMS
from drivedit.evaluation.metrics.sets import ChamferDistance, LinearAssignmentDistance, LogSpectralDistance
from drivedit.models.sets.flow import SetFlow
from drivedit.models.sets.ksin import ksin_flow
from drivedit.utils import extra, generator

with extra("sets", "training modules of sets"):
    from lightning import LightningModule

FEATURES = {"mel": MEL, "m2l": M2L}
Read = tuple[Tensor, Tensor | None, Tensor | None]  # what is observed, parameters, noise


class SetFlowModule(LightningModule):
    """Trains a `SetFlow`; what a batch holds is told by `read`.

    Args:
        flow: The networks.
        optimizer: Makes the optimizer of parameters.
        scheduler: Makes the schedule after the warm-up, of the optimizer; None: a constant rate. Where it takes a
            `T_max` that is not given, that is all steps but the warm-up.
        warmup_steps: Steps over which the rate rises linearly.
        validation_sample_steps: Steps of RK4 to validate.
        validation_cfg_strength: Scale of guidance then (1: none).
        test_sample_steps: Steps of RK4 to test and predict.
        test_cfg_strength: Scale of guidance then.
        compile: Whether the networks are compiled when training begins.
        seed: Of times, dropout, and noise where a batch has none.
    """

    def __init__(
        self, flow: SetFlow, optimizer: Callable[..., Any], scheduler: Callable[..., Any] | None, *,
        warmup_steps: int = 5000, validation_sample_steps: int = 50, validation_cfg_strength: float = 4.0,
        test_sample_steps: int = 100, test_cfg_strength: float = 4.0, compile: bool = False, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.flow, self.optimizer, self.scheduler, self.warmup_steps = flow, optimizer, scheduler, warmup_steps
        self.sampling = {
            "val": (validation_sample_steps, validation_cfg_strength), "test": (test_sample_steps, test_cfg_strength)
        }  # fmt: skip
        self.compiles, self.seed = compile, seed

    def read(self, batch: Any) -> Read:
        """What is observed, the parameters `[B, P]` and their noise; the two may be None to predict."""
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        """Compiles the networks before training, if they are to be."""
        if self.compiles and stage == "fit":
            self.flow.encoder.compile()
            self.flow.vector_field.compile()

    def forward(self, observation: Tensor | None, noise: Tensor, steps: int, guidance: float) -> Tensor:
        """Parameters `[B, P]` that fit observations, as `SetFlow.sample`."""
        return self.flow.sample(observation, noise, steps, guidance)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of a batch; logs train/loss and train/penalty."""
        observation, params, noise = self.read(batch)
        assert params is not None and noise is not None
        rng = generator(self.seed, f"flow {self.global_rank} {batch_idx}", self.global_step)
        loss, logs = self.flow.loss(observation, params, noise, rng)
        self.log("train/loss", loss.detach(), prog_bar=True)
        self.log("train/penalty", logs["penalty"])
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Logs val/param_mse, and whatever `measure` does."""
        self._judge(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Logs test/param_mse, and whatever `measure` does."""
        self._judge(batch, "test")

    def _judge(self, batch: Any, split: str) -> None:
        observation, params, noise = self.read(batch)
        if params is None or noise is None:
            raise ValueError(f"without parameters there is nothing to judge ({split}); predict instead")
        predicted = self(observation, noise, *self.sampling[split])
        error = (predicted - params).square().mean()
        self.log(f"{split}/param_mse", error, batch_size=len(params), prog_bar=True, sync_dist=True)
        self.measure(split, predicted, batch)

    def measure(self, split: str, predicted: Tensor, batch: Any) -> None:
        """Adds a batch to metrics beside the error of the parameters."""

    def predict_step(self, batch: Any, batch_idx: int) -> tuple[Tensor, Any]:
        """Parameters `[B, P]` of a batch, and the batch."""
        observation, _, noise = self.read(batch)
        if noise is None:
            rng = generator(self.seed, f"predict {self.global_rank}", batch_idx)
            noise = torch.randn(len(observation), self.width(), generator=rng).to(observation)
        return self(observation, noise, *self.sampling["test"]), batch

    def width(self) -> int:
        """Parameters P, where no batch tells them."""
        raise NotImplementedError

    def configure_optimizers(self) -> Any:
        """The optimizer, and warm-up and schedule in optimizer steps."""
        optimizer = self.optimizer([weight for weight in self.parameters() if weight.requires_grad])
        total = int(self.trainer.estimated_stepping_batches)
        warmup = max(0, min(self.warmup_steps, total - 1))
        rising = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / (warmup + 1)))
        if self.scheduler is None:
            plan: Any = rising
        else:
            wanted = inspect.signature(self.scheduler).parameters.get("T_max")
            told = {"T_max": max(1, total - warmup)} if wanted and wanted.default is wanted.empty else {}
            plan = torch.optim.lr_scheduler.SequentialLR(
                optimizer, [rising, self.scheduler(optimizer, **told)], [warmup]
            )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plan, "interval": "step"}}


class SurgeFlowMatchingModule(SetFlowModule):
    """Trains on batches of `SurgeDataModule`.

    Args:
        encoder: Features to conditions.
        vector_field: As `ApproxEquivTransformer`.
        optimizer: As in `SetFlowModule`, and so are the following.
        scheduler: Makes the schedule; None: a constant rate.
        conditioning: "mel" or "m2l".
        warmup_steps: Steps of the warm-up.
        cfg_dropout_rate: Chance that a row is not told its feature.
        rectified_sigma_min: Share by which the noise is narrower than a standard normal.
        validation_sample_steps: Steps of RK4 to validate.
        validation_cfg_strength: Scale of guidance then.
        test_sample_steps: Steps of RK4 to test and predict.
        test_cfg_strength: Scale of guidance then.
        compile: Whether the networks are compiled.
        num_params: Parameters to predict, where a file does not tell them.
        seed: Of times, dropout, and noise where a batch has none.

    Raises:
        ValueError: The conditioning is unknown, or a share out of its range.
    """

    def __init__(
        self,
        encoder: nn.Module,
        vector_field: nn.Module,
        optimizer: Any,
        scheduler: Any = None,
        conditioning: str = "mel",
        warmup_steps: int = 5000,
        cfg_dropout_rate: float = 0.1,
        rectified_sigma_min: float = 0.0,
        validation_sample_steps: int = 50,
        validation_cfg_strength: float = 4.0,
        test_sample_steps: int = 100,
        test_cfg_strength: float = 4.0,
        compile: bool = False,
        num_params: int = 90,
        *,
        seed: int = 0,
    ) -> None:
        if conditioning not in FEATURES:
            raise ValueError(f"conditioning must be one of {', '.join(FEATURES)}, got {conditioning!r}")
        super().__init__(
            SetFlow(encoder, vector_field, cfg_dropout_rate, rectified_sigma_min), optimizer, scheduler,
            warmup_steps=warmup_steps, validation_sample_steps=validation_sample_steps,
            validation_cfg_strength=validation_cfg_strength, test_sample_steps=test_sample_steps,
            test_cfg_strength=test_cfg_strength, compile=compile, seed=seed,
        )  # fmt: skip
        self.feature, self.num_params = FEATURES[conditioning], num_params

    def read(self, batch: Any) -> Read:
        """The feature, the parameters `[B, P]` and their noise.

        Raises:
            ValueError: The batch lacks the feature.
        """
        if batch[self.feature] is None:
            raise ValueError(f"this module is conditioned on {self.feature}, which the batch lacks")
        return batch[self.feature], batch[PARAMS], batch["noise"]

    def width(self) -> int:
        """`num_params`."""
        return self.num_params


class KSinFlowMatchingModule(SetFlowModule):
    """Trains on batches of `KSinDataModule`; logs {val, test}/lsd, chamfer and assignment as well.

    Args:
        k: Sines.
        optimizer: As in `SetFlowModule`.
        scheduler: Makes the schedule; None: a constant rate.
        signal_length: Samples of a signal.
        equivariance: "exact", "learnt" or "none", as in `drivedit.models.sets.ksin.ksin_flow`.
        d_model: Width of the field.
        num_layers: Its layers.
        num_heads: Its heads.
        d_ff: Width of its feed-forward layers.
        cfg_dropout_rate: Chance that a row is not told its signal.
        rectified_sigma_min: Share by which the noise is narrower than a standard normal.
        **options: Of `SetFlowModule`.
    """

    def __init__(
        self, k: int, optimizer: Any, scheduler: Any = None, signal_length: int = 1024, equivariance: str = "exact",
        d_model: int = 128, num_layers: int = 5, num_heads: int = 4, d_ff: int = 256, cfg_dropout_rate: float = 0.1,
        rectified_sigma_min: float = 0.0, **options: Any,
    ) -> None:  # fmt: skip
        flow = ksin_flow(
            k, signal_length, equivariance, d_model=d_model, num_layers=num_layers, num_heads=num_heads, d_ff=d_ff,
            cfg_dropout_rate=cfg_dropout_rate, rectified_sigma_min=rectified_sigma_min,
        )  # fmt: skip
        super().__init__(flow, optimizer, scheduler, **options)
        self.k = k
        self.metrics = nn.ModuleDict(
            {
                f"{split}_{name}": made
                for split in ("val", "test")
                for name, made in (
                    ("lsd", LogSpectralDistance()),
                    ("chamfer", ChamferDistance(2)),
                    ("assignment", LinearAssignmentDistance(2)),
                )
            }
        )

    def read(self, batch: Any) -> Read:
        """The signal, the parameters `[B, 2k]` and their noise."""
        return batch[0], batch[1], batch[2]

    def width(self) -> int:
        """2k."""
        return 2 * self.k

    def measure(self, split: str, predicted: Tensor, batch: Any) -> None:
        """Adds a batch to the metrics, which Lightning computes over all batches."""
        signal, params, _, synth = batch
        for name, told in (("lsd", (signal, synth)), ("chamfer", (params,)), ("assignment", (params,))):
            metric: Any = self.metrics[f"{split}_{name}"]
            metric.update(predicted, *told)
            self.log(f"{split}/{name}", metric, on_step=False, on_epoch=True, batch_size=len(params))
