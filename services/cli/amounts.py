"""Amounts in the words of a terminal."""

import math


def count(number: float) -> str:
    """`8.03 B`, `494 M`."""
    return f"{number / 1e9:.3g} B" if number >= 1e9 else f"{number / 1e6:.3g} M"


def size(number: float) -> str:
    """Bytes: `15 GiB`, `9.1 MiB`."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = min(len(units) - 1, int(math.log(max(1.0, number), 1024)))
    value = number / 1024**power
    return f"{value:.3g} {units[power]}" if value < 100 else f"{value:.0f} {units[power]}"
