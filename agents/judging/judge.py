"""Judging policies in a dream, and saying how far the judgement can be trusted.

Many policies drive in the dream and in reality from the same starts. If the dream ranks them as reality does, it may
be asked about policies that never drove in reality. Each policy's drives are kept in a file of their own, so that an
interrupted run goes on where it was; they are driven anew when the policy, the world or the code is another.

Legend: P policies, S starts, H steps (the horizon).
"""

from __future__ import annotations

import itertools
import json
import logging
import re
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from drivedit.agents.drivers.pilot import PolicyError
from drivedit.agents.drivers.policies import LEARNED, find_policy, weights_of
from drivedit.agents.judging.agreement import (
    MEASURES,
    Estimate,
    agreement,
    better_half,
    halves,
    mean,
    mean_score,
    starts_needed,
)
from drivedit.agents.judging.starts import FREE, GIVEN, REAL, JudgeSetup, Start, find_starts
from drivedit.agents.judging.trials import PLANNER, Drives, batched, check, drive_apart, drive_together
from drivedit.config import DomainConfig, domain_of, find_domain
from drivedit.config.rooms import BLIND, MODELS
from drivedit.utils import code_fingerprint, extra, fingerprint, package_of, write_atomically

HORIZONS = (25, 50, 100, 300)  # those below the contest's own are reported beside it
KEPT = (0.9, 0.75, 0.5)  # shares of the dream's steps that are kept when those of low confidence are cut off
LEAST_POLICIES = 3
WELL = 0.9  # rank correlation from which on an order is said to repeat itself
DREAMED = {GIVEN: "", FREE: ", told nothing"}  # how lines of each dreamed side end
CODE = ("drivedit.agents", MODELS)  # that drives come from, with that of the environments
MADE_FROM = "made_from"  # name beside the drives
MAY_CHANGE = ("free",)  # fields of a contest that the drives do not depend on
OF_REALITY = ("real", "starts", "horizon", "first_seed", "run_up", "obs_type")  # those that drives in reality depend on

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Line:
    """A line of a table of agreement.

    Attributes:
        label: What was compared.
        policies: How many policies it is about.
        figures: Estimates by name of the measure.
    """

    label: str
    policies: int
    figures: dict[str, Estimate]


@dataclass(frozen=True)
class JudgeResult:
    """What came of a contest.

    Attributes:
        contest: What was driven.
        returns: Mean returns of every policy by side, best in reality first.
        rates: Share of the drives that ended before the horizon, by policy and side.
        endings: How many drives ended by each ending in reality, by policy.
        steps: Mean steps until an episode ended, by policy and side.
        confidence: Mean confidence of the dream, by policy; NaN where none is told.
        overall: Agreement at the whole horizon.
        by_horizon: Agreement at shorter horizons and the whole one, of each dream, and of reality with itself.
        by_ending: The same of the shares that ended; empty if none did.
        by_confidence: Agreement with the steps of low confidence cut off; empty if the dream tells no confidence.
        upper: Agreement among the better half of the policies.
        needed: From how many starts reality's order by the share that ended would repeat itself well (a rank
            correlation of `WELL`), by horizon; None: from these starts nothing is repeated.
        failed: What went wrong, by policy.
    """

    contest: JudgeSetup
    returns: dict[str, dict[str, Estimate]]
    rates: dict[str, dict[str, Estimate]]
    endings: dict[str, dict[str, int]]
    steps: dict[str, dict[str, float]]
    confidence: dict[str, float]
    overall: Line
    by_horizon: list[Line]
    by_ending: list[Line]
    by_confidence: list[Line]
    upper: Line
    needed: dict[int, int | None]
    failed: dict[str, str]


def judge(
    contest: JudgeSetup, policies: Sequence[str], out: str | Path, workers: int = 2, progress: bool = True
) -> JudgeResult:
    """Lets policies drive on both sides and compares.

    Args:
        contest: What is driven.
        policies: Names, see `drivedit.agents.load.load_agent`.
        out: Folder of the results; a run that was interrupted there goes on.
        workers: Processes that drive environments which cannot step in a batch.
        progress: Whether to show progress bars.

    Returns:
        The verdict, which is also written to `verdict.json` in the folder.

    Raises:
        ValueError: A policy gives no actions, the spaces differ, there are too few policies, or the folder holds the
            drives of another contest.
        RuntimeError: Too few policies were left when the others had failed.
    """
    with extra("agents", "judging policies"):  # now rather than after an hour of driving
        import matplotlib  # noqa: F401
        import scipy  # noqa: F401

    out, policies, contest = Path(out), list(dict.fromkeys(policies)), contest.resolved()
    if len(policies) < LEAST_POLICIES:
        raise ValueError(f"a judgement needs at least {LEAST_POLICIES} different policies, got {len(policies)}")
    starts = find_starts(contest)
    check(contest, policies, starts[0])
    _claim(contest, out)
    failed: dict[str, str] = {}
    sources = _sources(contest, policies)
    drives = {side: _drives(contest, side, policies, starts, out, sources[side], failed, workers, progress)
              for side in contest.sides}  # fmt: skip
    left = [policy for policy in policies if policy not in failed]
    if len(left) < LEAST_POLICIES:
        raise RuntimeError(f"only {len(left)} of {len(policies)} policies could be judged: {failed}")
    verdict = compare(contest, {side: {name: drives[side][name] for name in left} for side in contest.sides}, failed)
    text = json.dumps(_plain(verdict), indent=2) + "\n"
    write_atomically(out / "verdict.json", lambda file: file.write(text.encode()))
    return verdict


def _drives(
    contest: JudgeSetup, side: str, policies: Sequence[str], starts: Sequence[Start], out: Path,
    sources: dict[str, str], failed: dict[str, str], workers: int, progress: bool,
) -> dict[str, Drives]:  # fmt: skip
    """Drives of policies on one side, those that are kept and those that are driven now; who fails is noted."""
    kept = {policy: _read(_file(out, side, policy), sources[policy]) for policy in policies}
    drives = {policy: found for policy, found in kept.items() if found is not None}
    missing = [policy for policy in policies if policy not in failed and policy not in drives]
    at_once = [policy for policy in missing if policy != PLANNER] if side != REAL and batched(contest) else []
    alone = [policy for policy in missing if policy not in at_once]
    results = [drive_together(contest, at_once, starts, side)] if at_once else []
    results += [drive_apart(contest, side, alone, starts, workers)] if alone else []
    steps = len(missing) * len(starts) * contest.horizon
    with tqdm(total=steps, desc=side, unit=" step", disable=not progress, mininterval=1.0) as bar:
        for count, outcome in itertools.chain(*results):
            bar.update(count)
            if outcome is None:
                continue
            policy, drives_or_error = outcome
            if isinstance(drives_or_error, PolicyError):
                failed[policy] = str(drives_or_error)
            else:
                drives[policy] = drives_or_error
                _keep(_file(out, side, policy), drives_or_error, sources[policy])
    return drives


def compare(
    contest: JudgeSetup, drives: dict[str, dict[str, Drives]], failed: dict[str, str] | None = None
) -> JudgeResult:
    """All figures of drives of the same policies, by side and policy; reality and the dream are needed."""
    names, sides, horizons = list(drives[REAL]), list(drives), _horizons(contest)
    scores = {side: {h: _table(drives[side], names, "returns", h) for h in horizons} for side in sides}
    lived = {side: {h: 1.0 - _table(drives[side], names, "ended", h) for h in horizons} for side in sides}
    whole, rates = ({side: table[side][contest.horizon] for side in sides} for table in (scores, lived))
    order = [names[i] for i in np.argsort(-mean(whole[REAL]), kind="stable")]
    confidence = np.stack([drives[GIVEN][name].confidence for name in names])  # [P, S, H]
    overall = _line("all steps", whole[REAL], whole[GIVEN])
    best = better_half(whole[REAL])
    told = {name: np.unique(drives[REAL][name].ending, return_counts=True) for name in order}
    ended = any((rate < 1).any() for rate in rates.values())
    return JudgeResult(
        contest=contest,
        returns={n: {side: mean_score(whole[side][names.index(n)]) for side in sides} for n in order},
        rates={n: {side: mean_score(1.0 - rates[side][names.index(n)]) for side in sides} for n in order},
        endings={n: {str(k): int(v) for k, v in zip(*told[n], strict=True) if k} for n in order},
        steps={n: {side: float(drives[side][n].steps.mean()) for side in sides} for n in order},
        confidence={n: float(mean(drives[GIVEN][n].confidence.ravel())) for n in order},
        overall=overall,
        by_horizon=_horizon_lines(scores),
        by_ending=_horizon_lines(lived) if ended else [],
        by_confidence=[] if np.isnan(confidence).all() else [
            overall, *_cut_lines(drives[REAL], drives[GIVEN], confidence)
        ],
        upper=_line("the better half", whole[REAL][best], whole[GIVEN][best]),
        needed={h: _needed(lived[REAL][h]) for h in horizons} if ended and _halved(whole[REAL]) else {},
        failed=failed or {},
    )  # fmt: skip


def _table(drives: dict[str, Drives], names: Sequence[str], what: str, horizon: int) -> np.ndarray:
    """Scores `[P, S]` of policies by a method of their drives."""
    return np.stack([getattr(drives[name], what)(horizon) for name in names]).astype(float)


def _horizon_lines(scores: dict[str, dict[int, np.ndarray]]) -> list[Line]:
    """Agreement at every horizon of each dream with reality, and of reality with itself; scores `[P, S]` by side."""
    lines = []
    for horizon, real in scores[REAL].items():
        lines += [_line(f"{horizon} steps{DREAMED[side]}", real, scores[side][horizon])
                  for side in scores if side != REAL]  # fmt: skip
        if _halved(real):
            figures = {name: halves(measure, real) for name, measure in MEASURES.items()}
            lines.append(Line(f"{horizon} steps, reality: half of the starts and the other", len(real), figures))
    return lines


def _halved(scores: np.ndarray) -> bool:
    """Whether halves of the starts of scores `[P, S]` can be compared."""
    return len(scores) >= LEAST_POLICIES and scores.shape[1] > 1


def _needed(lived: np.ndarray) -> int | None:
    """From how many starts an order by scores `[P, S]` would repeat itself well."""
    half = halves(MEASURES["Spearman"], lived).value
    return None if np.isnan(half) else starts_needed(half, lived.shape[1], WELL)


def trusted_steps(drives: Sequence[Drives], threshold: float) -> np.ndarray:
    """The steps of dreams that are not cut off, bool `[P, S, H]`: those of at least `threshold` confidence.

    The steps after an ending stay: nothing is dreamed there, and nothing earned.
    """
    confidence = np.stack([drive.confidence for drive in drives])
    over = np.arange(confidence.shape[2]) >= np.stack([drive.steps for drive in drives])[..., None]
    return over | (confidence >= threshold)


def trusted_scores(drives: Sequence[Drives], kept: np.ndarray) -> np.ndarray:
    """The horizon times the mean reward of the steps that are kept, `[P, S]`; NaN where none is."""
    rewards = np.stack([drive.rewards for drive in drives])
    return rewards.shape[2] * mean(np.where(kept, rewards, np.nan))


def _cut_lines(real: dict[str, Drives], dream: dict[str, Drives], confidence: np.ndarray) -> list[Line]:
    """Agreement when only the most confident steps of the dream count.

    Once reality is left whole, as where it is not known; once it loses the same steps, which shows whether the dream
    is right where it is sure.
    """
    lines = []
    whole = np.ones(confidence.shape, bool)
    for share in KEPT:
        threshold = float(np.nanquantile(confidence, 1.0 - share))
        kept = trusted_steps(list(dream.values()), threshold)
        dreamed = trusted_scores(list(dream.values()), kept)
        for where, mask in (("the dream", whole), ("both", kept)):
            truth = trusted_scores(list(real.values()), mask)
            left = np.isfinite(mean(dreamed))
            label = f"the {share:.0%} most confident steps of {where} (at least {threshold:.3f})"
            lines.append(_line(label, truth[left], dreamed[left]))
    return lines


def _line(label: str, real: np.ndarray, dream: np.ndarray) -> Line:
    """All measures of scores `[P, S]`; with fewer than 3 policies there are none."""
    if len(real) < LEAST_POLICIES:
        return Line(label, len(real), {})
    return Line(label, len(real), {name: agreement(measure, real, dream) for name, measure in MEASURES.items()})


def _horizons(contest: JudgeSetup) -> list[int]:
    return [h for h in HORIZONS if h < contest.horizon] + [contest.horizon]


def _claim(contest: JudgeSetup, out: Path) -> None:
    """Writes down whose drives the folder holds, or ValueError if they are another contest's.

    Of another world under the same name they are this contest's still; they are driven anew (see `_sources`).
    """
    path, mine = out / "contest.json", contest.to_dict()
    if path.exists():
        theirs = json.loads(path.read_text())
        other = [f"{k} {theirs[k]!r} there, {mine[k]!r} here" for k in asdict(contest)
                 if k not in MAY_CHANGE and k in theirs and theirs[k] != mine[k]]  # fmt: skip
        if other:
            raise ValueError(f"{out} holds drives of another contest: {'; '.join(other)}; choose another folder")
    text = json.dumps(mine, indent=2) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def _sources(contest: JudgeSetup, policies: Sequence[str]) -> dict[str, dict[str, str]]:
    """Fingerprints of all that the drives come from, by side and policy, code and weights included.

    What somebody's code does in reality may depend on the dream, as the planner's does; policies of a domain do not.
    """
    environments = [contest.open(side) for side in (GIVEN, REAL)]
    for env in environments:
        env.close()
    inside = [env.unwrapped for env in environments]
    weights = [getattr(getattr(env, "world", None), "fingerprint", "") for env in inside]
    domain = domain_of(contest.reality)
    code = code_fingerprint(*CODE, *(package_of(type(env).__module__) for env in inside), *_package(domain))
    all_of_it = {name: value for name, value in asdict(contest).items() if name not in MAY_CHANGE}
    real = {name: all_of_it[name] for name in OF_REALITY}
    common = {side: fingerprint(all_of_it, weights, code) for side in contest.sides}
    common |= {"alone": fingerprint(real, code)}
    return {
        side: {policy: fingerprint(common["alone" if side == REAL and find_policy(policy) else side], policy,
                                   _content(policy)) for policy in policies}
        for side in contest.sides
    }  # fmt: skip


def _content(policy: str) -> str:
    """Fingerprint of a policy's file, or of the code of its module or domain; the planner is this package's."""
    if found := find_policy(policy):
        domain, name = found
        return fingerprint(weights_of(domain)) if name == LEARNED else code_fingerprint(*_package(find_domain(domain)))
    if Path(policy).is_file():
        return fingerprint(Path(policy))
    module, _, attribute = policy.partition(":")
    return code_fingerprint(package_of(module)) if attribute else ""


def _package(domain: DomainConfig | None) -> list[str]:
    """Where the code of a domain's policies is, if there are any."""
    return [package_of(domain.policies.partition(":")[0]), BLIND] if domain and domain.policies else []


def _file(out: Path, side: str, policy: str) -> Path:
    """Where a policy's drives are kept."""
    digest = fingerprint(policy)[:8]
    return out / "drives" / f"{side}-{re.sub(r'[^A-Za-z0-9_.]+', '_', policy)}-{digest}.npz"


def _keep(path: Path, drives: Drives, source: str) -> None:
    kept = {**vars(drives), MADE_FROM: np.array(source)}
    write_atomically(path, lambda file: np.savez_compressed(file, allow_pickle=False, **kept))


def _read(path: Path, source: str) -> Drives | None:
    """The drives that are kept, if they are there, whole, and made from this."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            kept = dict(stored)
        return Drives(**kept) if str(kept.pop(MADE_FROM, "")) == source else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        log.warning("%s is damaged (%s), its drives are driven anew", path, error)
        return None


def _plain(value: Any) -> Any:
    """Only what JSON knows: dataclasses become dictionaries, NaN becomes null."""
    if hasattr(value, "__dataclass_fields__"):
        value = vars(value)
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
