"""DPM-Solver++ of second order, for networks that tell clean estimates (Lu et al. 2022, arXiv 2211.01095).

With l = log((1 - sigma) / sigma), half the logarithm of the signal-to-noise ratio, the flow is solved exactly but for
an integral of the clean estimate over l. Held constant over a step, it gives `euler_step`. Of second order is the same
step along a better estimate: extrapolated from the last step, or asked in the middle of this one. Where l is infinite,
at pure noise and pure data, a step is plain. That happens once at each end and costs h^2; on even levels h apart that
go down to pure data, the steps in l grow as well, and the whole error falls as h^2 log(1 / h).
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from torch import Tensor

from drivedit.models.flow.path import euler_step
from drivedit.models.flow.sampler import Callback, Denoiser


def multistep(
    denoiser: Denoiser, x: Tensor, levels: Tensor, given: Any = None, callback: Callback | None = None
) -> Tensor:
    """Carries `x` down the levels of noise by DPM-Solver++(2M), with one call of the denoiser for each step.

    Args:
        denoiser: The network.
        x: `[B, ...]` at the first level.
        levels: `[S + 1]`, falling all the time, from at most 1 to at least 0.
        given: What the denoiser is given beside them.
        callback: Called after each step with its number, from 0, and `x`.

    Returns:
        `[B, ...]` at the last level.
    """
    lengths = (-levels.double().logit().diff()).tolist()  # of the steps, in l
    before = x
    for step, (sigma, lower) in enumerate(pairwise(levels)):
        clean = denoiser(x, sigma.to(x.dtype).expand(len(x)), given)
        extrapolates = step > 0 and math.isfinite(lengths[step])
        share = lengths[step] / (2 * lengths[step - 1]) if extrapolates else 0.0  # 0 after a step of infinite length
        x = euler_step(x, clean + share * (clean - before), sigma, lower)
        before = clean
        if callback is not None:
            callback(step, x)
    return x


def singlestep(
    denoiser: Denoiser, x: Tensor, levels: Tensor, given: Any = None, callback: Callback | None = None
) -> Tensor:
    """Carries `x` down the levels of noise by DPM-Solver++(2S): two calls of the denoiser for each step.

    A step that begins at pure noise or ends at pure data has no middle, and one call. Arguments are those of
    `multistep`.

    Returns:
        `[B, ...]` at the last level.
    """
    for step, (sigma, lower) in enumerate(pairwise(levels)):
        clean = denoiser(x, sigma.to(x.dtype).expand(len(x)), given)
        if sigma < 1 and lower > 0:
            middle = ((sigma.logit() + lower.logit()) / 2).sigmoid()
            halfway = euler_step(x, clean, sigma, middle)
            clean = denoiser(halfway, middle.to(x.dtype).expand(len(x)), given)
        x = euler_step(x, clean, sigma, lower)
        if callback is not None:
            callback(step, x)
    return x
