"""What follows from a table of sensitivities: the scheme, the layers to leave alone, and why, in words."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from shared.contracts.compression import SCHEMES, LayerSensitivity, Recommendation, Scheme
from workers.forge.calibration.sensitivity import Smoothing

HEAD: Final = "lm_head"  #: always left alone: its errors go straight into the answer, and vLLM expects it so

#: Median over layers that a scheme has to reach, in dB: noise of 1.6% of the signal's power. Normally distributed
#: weights in groups of 128 come to 19.2 dB in 4 bits (the largest of 128 is 2.85 standard deviations, a step is
#: 2 · 2.85 / 15 of one, the noise step² / 12): a layer that is as easy as that has to pass, with a little room. Of
#: yard-tiny's layers half have more than 21.7 dB in 4 bits, and its perplexity rises by 1.4% (rounded to nearest).
MEDIAN_DB: Final = 18.0
#: What a single layer has to reach, or it is left alone: noise of 4%, two and a half times what the median may have.
FLOOR_DB: Final = 14.0
#: Largest share of groups of layers that may be left alone: beyond it the scheme is the problem, not some layers.
MOST_KEPT: Final = 0.1

#: These quantize activations too: multiplications are faster, not only reading.
_ACTIVATIONS: Final = frozenset(
    {Scheme.INT8, Scheme.INT8_DYNAMIC, Scheme.FP8_DYNAMIC, Scheme.FP8, Scheme.FP8_KV, Scheme.NVFP4}
)


@dataclass(frozen=True, slots=True)
class _Candidate:
    scheme: Scheme
    median_db: float
    kept: tuple[str, ...]  #: layers to leave alone, those of one group together
    kept_groups: int
    most_groups: int

    @property
    def passes(self) -> bool:
        return self.median_db >= MEDIAN_DB and self.kept_groups <= self.most_groups

    def rank(self) -> tuple[int, bool, float]:
        """Smallest weights first, then faster arithmetic, then less noise."""
        return (SCHEMES[self.scheme].bits, self.scheme not in _ACTIVATIONS, -self.median_db)

    def reason(self) -> str:
        if self.median_db == -math.inf:
            return f"{self.scheme}: its groups divide the columns of no layer."
        parts = []
        if self.median_db < MEDIAN_DB:
            parts.append(f"below {MEDIAN_DB:g} dB")
        if self.kept_groups > self.most_groups:
            parts.append(f"{len(self.kept)} layers would have to be left alone, more than a tenth")
        verdict = "too much noise: " + ", ".join(parts) if parts else "good enough"
        return f"{self.scheme}: median {self.median_db:.1f} dB, {verdict}."


def recommend(
    table: Sequence[LayerSensitivity],
    groups: Sequence[Collection[str]],
    schemes: Sequence[Scheme],
    *,
    smoothing: Smoothing | None,
    plain: Scheme,
) -> Recommendation:
    """The scheme of the smallest weights whose layers' outputs stay good enough; `plain` (bf16, fp16) when none does.

    `groups` are layers that read one tensor: engines run them as one and load them only when all are quantized alike,
    so that they are left alone together. Layers that a scheme's groups of columns do not divide are among them. Ties go
    to the candidate that was named first.
    """
    rows = {row.layer: row.sqnr_db for row in table}
    candidates = [_judge(scheme, rows, groups) for scheme in schemes]
    passing = [candidate for candidate in candidates if candidate.passes]
    reasons = [candidate.reason() for candidate in candidates]
    if not passing:
        reasons.append(f"No candidate is good enough: the model stays in {plain}.")
        return Recommendation(scheme=plain, ignore=[HEAD], smoothing_strength=None, reasons=reasons)
    best = min(passing, key=_Candidate.rank)
    reasons.append(_why(best, passing))
    reasons += [_kept_reason(best, rows)] if best.kept else []
    reasons += [_smoothing_reason(smoothing)] if smoothing else []
    return Recommendation(
        scheme=best.scheme,
        ignore=[HEAD, *best.kept],
        smoothing_strength=smoothing.strength if smoothing else None,
        reasons=reasons,
    )


def _judge(scheme: Scheme, rows: Mapping[str, Mapping[str, float]], groups: Sequence[Collection[str]]) -> _Candidate:
    values = [row[scheme] for row in rows.values() if scheme in row]
    bad = [group for group in groups if any(rows[name].get(scheme, -math.inf) < FLOOR_DB for name in group)]
    together = {name for group in bad for name in group}
    return _Candidate(
        scheme=scheme,
        median_db=median(values) if values else -math.inf,
        kept=tuple(name for name in rows if name in together),
        kept_groups=len(bad),
        most_groups=math.ceil(MOST_KEPT * len(groups)),
    )


def _why(best: _Candidate, passing: Sequence[_Candidate]) -> str:
    bits = SCHEMES[best.scheme].bits
    others = [each for each in passing if each is not best and SCHEMES[each.scheme].bits == bits]
    if not others:
        return f"{best.scheme} has the smallest weights of what is good enough, {bits} bits each."
    names = ", ".join(each.scheme for each in others)
    faster = best.scheme in _ACTIVATIONS and any(each.scheme not in _ACTIVATIONS for each in others)
    return (
        f"{best.scheme} has weights of {bits} bits, the smallest of what is good enough; of the same size: {names}."
        f" {'It multiplies in fewer bits, or has' if faster else 'It has'} the least noise."
    )


def _kept_reason(best: _Candidate, rows: Mapping[str, Mapping[str, float]]) -> str:
    known = {name: rows[name][best.scheme] for name in best.kept if best.scheme in rows[name]}
    worst = min(known, key=lambda name: known[name], default=None)
    told = f"; the worst is {worst} with {known[worst]:.1f} dB" if worst else ""
    return (
        f"{len(best.kept)} layers are left alone, because they or those that run together with them stay below"
        f" {FLOOR_DB:g} dB or cannot be divided into groups{told}."
    )


def _smoothing_reason(smoothing: Smoothing) -> str:
    plain_db, best_db = smoothing.mean_db[0.0], smoothing.mean_db[smoothing.strength]
    if smoothing.strength == 0:
        return f"SmoothQuant does not help int8: {plain_db:.1f} dB on average without it, and no strength is better."
    return (
        f"SmoothQuant of strength {smoothing.strength:g} takes int8 from {plain_db:.1f} to {best_db:.1f} dB on average"
        " in the layers that follow a norm."
    )
