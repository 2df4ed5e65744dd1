"""How well sets of agents that were read fit the true ones: who was found, how far off, and whether spreads are right.

Legend: N pictures, m samples, K tokens.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from drivedit.models.sets.agent_sets import CUTOFF, AgentSamples, AgentSet, ospa, pair_costs
from drivedit.models.sets.tokens import assign
from drivedit.utils import extra

FOUND = 2.0  # metres within which an agent is found
RANGE = (5.0, 30.0)  # metres of those who are asked for
BANDS = ((5.0, 15.0), (15.0, 30.0))  # metres
REGION = 0.9  # of the probability
LIKELY = 0.5  # presence from which on an agent is read
LANE = 2.0  # metres to either side of straight ahead
FEWEST = 6  # samples that have an agent whose spread is judged


def found_figures(read: AgentSet, boxes: Tensor, present: Tensor, uncounted: Tensor) -> dict[str, float]:
    """Recall and precision within 2 m at 5 to 30 m, and median errors of places.

    A read agent that stands where one is that does not count is neither right nor wrong. Errors are those of true
    agents whose counterpart, under the cheapest assignment, is less than 10 m off.

    Args:
        read: What was read.
        boxes: The true ones `[N, K, 8]`.
        present: Bool `[N, K]`.
        uncounted: Places `[N, K, 2]` of others in view that do not count, zeros where nobody is.
    """
    told, likely = read.boxes[..., :2], read.presence >= LIKELY
    true = boxes[..., :2]
    apart, paired = _paired(true, present, told, likely, FOUND)
    far, read_far = true.norm(dim=-1), told.norm(dim=-1)
    asked = present & _between(far, RANGE)
    right = torch.zeros_like(likely).scatter(1, paired, apart < FOUND)
    beside = (torch.cdist(told, uncounted) < FOUND) & (uncounted.norm(dim=-1) > 0)[:, None]
    judged = likely & _between(read_far, RANGE) & (right | ~beside.any(2))
    figures = {"recall": _share(apart < FOUND, asked), "precision": _share(right, judged)}
    wide, _ = _paired(true, present, told, likely, CUTOFF)
    for low, high in BANDS:
        errors = wide[present & _between(far, (low, high)) & (wide < CUTOFF)]
        figures[f"error_{low:g}_{high:g}"] = float(errors.median()) if len(errors) else float("nan")
    return figures


def set_figures(read: AgentSet, boxes: Tensor, present: Tensor) -> dict[str, float]:
    """OSPA of the mean set, and the energy score of the samples under it, in metres."""
    return {
        "ospa": ospa(read.boxes[..., :2], read.presence >= LIKELY, boxes[..., :2], present).mean().item(),
        "energy": energy_scores(read, boxes, present).mean().item(),
    }


def energy_scores(read: AgentSet, boxes: Tensor, present: Tensor) -> Tensor:
    """Energy scores `[N]` of samples (Gneiting and Raftery 2007) under the OSPA distance; less is better.

    The mean distance of a sample to the truth less half of that of two different samples; one sample alone: its
    distance.
    """
    places, there = read.samples.boxes[..., :2], read.samples.present
    count = places.shape[1]
    to_truth = torch.stack([ospa(places[:, k], there[:, k], boxes[..., :2], present) for k in range(count)]).mean(0)
    pairs = torch.combinations(torch.arange(count), 2)
    if not len(pairs):
        return to_truth
    among = torch.stack([ospa(places[:, a], there[:, a], places[:, b], there[:, b]) for a, b in pairs.tolist()])
    return to_truth - among.mean(0) / 2


def calibration_figures(read: AgentSet, boxes: Tensor, present: Tensor) -> dict[str, float]:
    """Share of true places that lie inside the region which samples say holds 90% of them, and of how many.

    The region is the ellipse in which one more draw would lie were the samples of a normal distribution (Hotelling).
    Judged are agents that were read, in samples enough, less than 10 m from a true one.
    """
    with extra("sets", "the figures of agents"):
        from scipy.stats import f

    likely = read.presence >= LIKELY
    apart, paired = _paired(boxes[..., :2], present, read.boxes[..., :2], likely, CUTOFF)
    picture, agent = torch.nonzero(present & (apart < CUTOFF), as_tuple=True)
    slot = paired[picture, agent]
    there = read.samples.present[picture, :, slot]  # [n, m]
    enough = there.sum(1) >= FEWEST
    picture, agent, slot, there = (each[enough] for each in (picture, agent, slot, there))
    if not len(picture):
        return {"inside_90": float("nan"), "inside_90_count": 0.0}
    weight, count = there[..., None].double(), there.sum(1).double()
    places = read.samples.boxes[picture, :, slot, :2].double()
    middle = (places * weight).sum(1) / count[:, None]
    off = (places - middle[:, None]) * weight
    spread = off.transpose(1, 2) @ off / (count - 1)[:, None, None] + 1e-6 * torch.eye(2)
    away = boxes[picture, agent, :2].double() - middle
    squared = (away * torch.linalg.solve(spread, away)).sum(1) * count / (count + 1)
    n = count.numpy()
    limit = torch.from_numpy(2 * (n - 1) / (n - 2) * f.ppf(REGION, 2, n - 2))
    return {"inside_90": (squared <= limit).double().mean().item(), "inside_90_count": float(len(picture))}


def drawn_figures(drawn: AgentSamples, boxes: Tensor, present: Tensor) -> dict[str, float]:
    """Kolmogorov-Smirnov distances, 0 to 1, of sets drawn of no picture to recorded ones `[N, K, 8]`, `[N, K]`.

    Of the numbers of agents in a set, of their speeds, and of the gaps: the distance to the nearest one ahead of those
    within 2 m of straight ahead, in sets that have one. NaN where there is nothing to compare.
    """
    with extra("sets", "the figures of agents"):
        from scipy.stats import ks_2samp

    figures = {}
    pairs = zip(
        _told_of(drawn.boxes.flatten(0, 1), drawn.present.flatten(0, 1)).items(),
        _told_of(boxes, present).values(), strict=True,
    )  # fmt: skip
    for (name, ours), theirs in pairs:
        some = len(ours) and len(theirs)
        figures[f"ks_{name}"] = float(np.asarray(ks_2samp(ours.numpy(), theirs.numpy())[0])) if some else float("nan")
    return figures


def _told_of(boxes: Tensor, present: Tensor) -> dict[str, Tensor]:
    """Numbers, speeds and gaps of sets `[N, K, 8]`."""
    ahead = present & (boxes[..., 0] > 0) & (boxes[..., 1].abs() < LANE)
    gaps = torch.where(ahead, boxes[..., 0], torch.inf).amin(1)
    return {"number": present.sum(1), "speed": boxes[..., 7][present], "gap": gaps[gaps.isfinite()]}


def _paired(true: Tensor, present: Tensor, told: Tensor, likely: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
    """Of every true agent the distance to its counterpart `[N, K]`, infinite without one, and where those are."""
    order = assign(pair_costs(true, present, told, likely, cutoff))
    apart = (true - told.gather(1, order[..., None].expand_as(true))).norm(dim=-1)
    return torch.where(present & likely.gather(1, order), apart, torch.inf), order


def _between(values: Tensor, limits: tuple[float, float]) -> Tensor:
    return (values >= limits[0]) & (values < limits[1])


def _share(right: Tensor, asked: Tensor) -> float:
    """Share of those asked that are right; NaN where nobody is asked."""
    return float(np.divide((right & asked).sum().item(), asked.sum().item())) if asked.any() else float("nan")
