"""The networks for sums of sines, in three degrees of equivariance."""

from __future__ import annotations

from drivedit.models.sets.cnn import SpectrumCNN
from drivedit.models.sets.flow import SetFlow
from drivedit.models.sets.projections import KSinParamToTokenProjection, LearntProjection
from drivedit.models.sets.transformer import ApproxEquivTransformer

EQUIVARIANCES = ("exact", "learnt", "none")


def ksin_flow(
    k: int, signal_length: int = 1024, equivariance: str = "exact", *, d_model: int = 128, num_layers: int = 5,
    num_heads: int = 4, d_ff: int = 256, conditioning_dim: int = 128,
    channels: tuple[int, ...] = (32, 48, 48), projection_penalty: float = 0.01,
    cfg_dropout_rate: float = 0.1, rectified_sigma_min: float = 0.0,
) -> SetFlow:  # fmt: skip
    """An encoder of spectra and a field on k units of two numbers.

    Args:
        k: Sines.
        signal_length: Samples of a signal.
        equivariance: "exact": unit i is token i. "learnt": parameters make up k tokens by a learnt assignment.
            "none": all parameters make one token.
        d_model: Width of the field.
        num_layers: Its layers.
        num_heads: Its heads.
        d_ff: Width of its feed-forward layers.
        conditioning_dim: Numbers that tell the spectrum.
        channels: Of the encoder's convolutions.
        projection_penalty: Weight of the learnt assignment's mean absolute value.
        cfg_dropout_rate: Chance that a row is not told its signal.
        rectified_sigma_min: Share by which the noise is narrower than a standard normal.

    Raises:
        ValueError: The degree is unknown, or there are no sines.
    """
    if equivariance not in EQUIVARIANCES or k < 1:
        raise ValueError(f"equivariance must be one of {', '.join(EQUIVARIANCES)} and k above 0, "
                         f"got {equivariance!r} and {k}")  # fmt: skip
    if equivariance == "learnt":
        projection = LearntProjection(d_model, d_model, 2 * k, k)
    else:
        projection = KSinParamToTokenProjection(d_model, 2 if equivariance == "exact" else 2 * k)
    field = ApproxEquivTransformer(
        projection, num_layers, d_model, conditioning_dim, num_heads, d_ff, learn_projection=True, pe_type="none",
        projection_penalty=projection_penalty,
    )  # fmt: skip
    encoder = SpectrumCNN(signal_length, conditioning_dim, channels, 2 * conditioning_dim)
    return SetFlow(encoder, field, cfg_dropout_rate, rectified_sigma_min)
