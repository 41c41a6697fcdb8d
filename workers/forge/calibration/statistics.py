"""Figures of every channel of an activation, gathered over a stream of rows in bounded memory.

Shape suffixes: R rows (tokens), C channels, B bins of a histogram.
"""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

BINS = 256  #: of a channel's histogram: 1 KiB a channel, 3 GB for the 224 layers of an 8-billion-parameter Llama
HISTOGRAM_ROWS = 32_768  #: rows that histograms count; of more, that many spread evenly over all of them
QUANTILES = {"p99": 0.99, "p999": 0.999}
NAMES = ("min", "max", "absmax", "mean_square", *QUANTILES)

# A float32's sign, 8 bits of exponent and upper 3 of its mantissa are the upper 12 bits: without the sign, they number
# bins that are an eighth of an octave wide.
_SHIFT = 20
_LOWEST = -16  # the first bin begins at 2**-16, the last ends at 2**16
_FIRST = (127 + _LOWEST) << 3
_CHUNK = {"cpu": 256}  # rows at once: what fits into the cache of a core, or is worth the start of a kernel
_CHUNK_ELSEWHERE = 4096


@dataclass(slots=True)
class ChannelFigures:
    """Figures of the rows seen so far.

    Quantiles of |x| come from histograms with bins on a logarithmic scale, as HdrHistogram and DDSketch (Masson, Rim,
    Lee, arXiv 1908.10693) have them: a value is known to one part in 16 between 2**-16 and 2**16, and to 2**-16 below.
    Where there are more than `HISTOGRAM_ROWS` rows, the sample adds an error in rank whose standard deviation is
    sqrt(q (1 - q) / 32768): p99 means 99.0 ± 0.055%, p999 99.9 ± 0.017%. All other figures are of every row.
    """

    rows: int
    low: Tensor  #: [C]
    high: Tensor  #: [C]
    square_sum: Tensor  #: float64 [C]
    counted: int  #: rows in the histograms
    histogram: Tensor  #: int32 [C, B]

    @classmethod
    def of(cls, x_RC: Tensor, counted_R: Tensor | None = None) -> Self:
        """The figures of at least one row; `counted_R` are the rows that histograms count, None: all."""
        low_C, high_C, square_sum_C = _moments(x_RC)
        chosen_RC = x_RC if counted_R is None else x_RC.index_select(0, counted_R)
        return cls(x_RC.shape[0], low_C, high_C, square_sum_C, chosen_RC.shape[0], _histogram(chosen_RC))

    def copy(self) -> "ChannelFigures":
        """The same figures, to be added to."""
        return ChannelFigures(
            self.rows,
            self.low.clone(),
            self.high.clone(),
            self.square_sum.clone(),
            self.counted,
            self.histogram.clone(),
        )

    def add(self, other: "ChannelFigures") -> None:
        """Take in the figures of other rows."""
        self.rows += other.rows
        torch.minimum(self.low, other.low, out=self.low)
        torch.maximum(self.high, other.high, out=self.high)
        self.square_sum += other.square_sum
        self.counted += other.counted
        self.histogram += other.histogram

    def finite(self) -> Tensor:
        """Whether no row had an infinity or NaN: a scalar on the figures' device."""
        return torch.isfinite(self.low).all() & torch.isfinite(self.high).all()

    def absmax(self) -> Tensor:
        """The largest |x| of each channel, float32 [C]."""
        return torch.maximum(self.low.abs(), self.high.abs())

    def result(self) -> dict[str, Tensor]:
        """`NAMES` → float32 [C]."""
        absmax_C = self.absmax()
        found = {
            "min": self.low,
            "max": self.high,
            "absmax": absmax_C,
            "mean_square": (self.square_sum / self.rows).float(),
        }
        for name, share in QUANTILES.items():
            found[name] = _quantile(self.histogram, rank=math.ceil(share * self.counted), absmax_C=absmax_C)
        return found


def spread(start: int, rows: int, share: float) -> Tensor | None:
    """Which of the rows `start … start + rows` belong to an even sample of `share` of all; None: every one.

    Rows i whose i · φ (the golden ratio) has a fractional part below `share`: spread more evenly than chance would
    (Weyl's sequence), and in step with no period of the data. Equal steps would be: samples that begin every 256
    tokens have their first tokens, which models treat unlike any other (arXiv 2309.17453), at multiples of 256.
    """
    if share >= 1:
        return None
    position_R = torch.arange(start, start + rows, dtype=torch.float64)
    golden = (math.sqrt(5) - 1) / 2
    return torch.nonzero((position_R * golden).frac() < share).squeeze(1)


def _chunks(x_RC: Tensor) -> tuple[Tensor, ...]:
    chunks: tuple[Tensor, ...] = x_RC.split(_CHUNK.get(x_RC.device.type, _CHUNK_ELSEWHERE))
    return chunks


def _moments(x_RC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    lows, highs, sums = [], [], []
    for chunk_RC in _chunks(x_RC):
        wide_RC = torch.empty_like(chunk_RC, dtype=torch.float32).copy_(chunk_RC)
        lows.append(wide_RC.amin(0))  # amin and amax on their own: aminmax along a dimension takes five times as long
        highs.append(wide_RC.amax(0))
        sums.append(wide_RC.square_().sum(0))
    return torch.stack(lows).amin(0), torch.stack(highs).amax(0), torch.stack(sums).sum(0, dtype=torch.float64)


def _histogram(x_RC: Tensor) -> Tensor:
    channels = x_RC.shape[1]
    first_C = torch.arange(0, channels * BINS, BINS, dtype=torch.int32, device=x_RC.device)
    histogram = torch.zeros(channels * BINS, dtype=torch.int32, device=x_RC.device)
    one = torch.ones(1, dtype=torch.int32, device=x_RC.device)
    for chunk_RC in _chunks(x_RC):
        wide_RC = torch.empty_like(chunk_RC, dtype=torch.float32).copy_(chunk_RC)
        bin_RC = wide_RC.abs_().view(torch.int32).bitwise_right_shift_(_SHIFT).sub_(_FIRST).clamp_(0, BINS - 1)
        index = bin_RC.add_(first_C).view(-1)
        histogram.index_add_(0, index, one.expand(index.numel()))
    return histogram.view(channels, BINS)


def _quantile(histogram_CB: Tensor, *, rank: int, absmax_C: Tensor) -> Tensor:
    """The middle of the bin that holds the value of a 1-based rank, never more than the largest value."""
    bin_C = (histogram_CB.cumsum(1) < rank).sum(1).clamp_(max=BINS - 1)
    edges = torch.arange(_FIRST, _FIRST + BINS + 1, dtype=torch.int32, device=histogram_CB.device) << _SHIFT
    edge_B = edges.view(torch.float32)
    middle_B = (edge_B[:-1] + edge_B[1:]) / 2
    middle_B[0] = edge_B[0] / 2  # zero is in there
    middle_B[-1] = math.inf  # and here all that is larger: the largest value is what is known of it
    return torch.minimum(middle_B[bin_C], absmax_C)
