"""Several samples in one row, none of them cut: best fit decreasing (arXiv 2404.10830, as TRL's `pack_dataset`).

TRL's own goes through a `Dataset` in batches of a thousand and lays the tokens out anew; here only lengths are packed,
all at once, so that rows are fuller and a sample keeps its place.
"""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Sequence


def pack(lengths: Sequence[int], *, room: int) -> list[list[int]]:
    """Indices of the samples of each row of at most `room` tokens; in order, rows by their first one.

    The longest first, each sample goes where the least room is left behind it. No sample is longer than a row.
    """
    rows: list[list[int]] = []
    open_rows: dict[int, list[int]] = defaultdict(list)  # by the room that is left
    spaces: list[int] = []  # keys of it, sorted
    for sample in sorted(range(len(lengths)), key=lambda each: -lengths[each]):
        length = lengths[sample]
        assert 0 < length <= room
        at = bisect_left(spaces, length)
        if at == len(spaces):
            row, space = len(rows), room
            rows.append([])
        else:
            space = spaces[at]
            row = open_rows[space].pop()
            if not open_rows[space]:
                spaces.pop(at)
        rows[row].append(sample)
        if left := space - length:
            if not open_rows[left]:
                insort(spaces, left)
            open_rows[left].append(row)
    return sorted(map(sorted, rows))
