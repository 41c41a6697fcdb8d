"""How reports and cards write figures."""

import math
from collections.abc import Sequence

from services.compression.about import Origin
from shared.contracts.evaluation import Gate

NONE = "—"
_STEP = 1000.0
_KIB = 1024.0


def figure(value: float, digits: int = 4) -> str:
    """A number in so many significant digits, without an exponent where it can be read without one."""
    if not math.isfinite(value):
        return "not finite"
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits}g}"
    places = digits - 1 - (math.floor(math.log10(abs(value))) if value else 0)
    return f"{value:,.{max(0, min(places, 6))}f}"


def count(value: int) -> str:
    """1,902,080; 8.03 B."""
    for size, name in ((_STEP**4, "T"), (_STEP**3, "B")):
        if value >= size:
            return f"{value / size:.3g} {name}"
    return f"{value:,}"


def size(value: int) -> str:
    """Bytes in the unit that suits: 512 B, 3.63 MiB, 14.9 GiB."""
    rest, unit = float(value), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if rest < _KIB:
            break
        rest, unit = rest / _KIB, larger
    return f"{value:,} B" if unit == "B" else f"{figure(rest, 3)} {unit}"


def seconds(value: float) -> str:
    """0.42 s, 61 s, 12 min."""
    return f"{figure(value, 2 if value < 10 else 3)} s" if value < 120 else f"{value / 60:.3g} min"


def percent(fraction: float) -> str:
    """A rise or a fall: +1.37%, −72.1%; beyond ten times the value, how many times."""
    if not math.isfinite(fraction):
        return "not finite"
    if fraction >= 9:
        return f"× {figure(fraction + 1, 3)}"
    if not fraction:
        return "±0"
    text = f"{abs(fraction) * 100:.2f}" if abs(fraction) < 0.1 else f"{abs(fraction) * 100:.1f}"
    return f"{'±' if not float(text) else '+' if fraction > 0 else '−'}{text}%"


def change(before: float, after: float) -> str:
    """What became of a figure, as a rise or a fall."""
    return percent(after / before - 1) if before > 0 else NONE


def difference(before: float, after: float) -> str:
    """What became of a share or a score, in its own unit."""
    gap = round(after - before, 9)  # 0.21 − 0.2 is 0.00999…
    return f"{'+' if gap > 0 else '−'}{figure(abs(gap), 3)}" if gap else "±0"


def limits(gate: Gate) -> list[str]:
    """What a gate asks, in words."""
    asked = []
    if gate.max_ppl_increase is not None:
        asked.append(f"perplexity rises by at most {gate.max_ppl_increase * 100:g}%")
    if gate.min_agreement is not None:
        asked.append(f"at least {gate.min_agreement * 100:g}% of next tokens agree")
    if gate.max_kl_divergence is not None:
        asked.append(f"KL divergence is at most {gate.max_kl_divergence:g} nats a token")
    return asked


def shares(data: Sequence[Origin]) -> dict[str, str]:
    """How much of the samples each source was to give, where there are several."""
    whole = sum(each.weight for each in data)
    return {each.name: f"{each.weight / whole:.0%}" for each in data} if len(data) > 1 else {}
