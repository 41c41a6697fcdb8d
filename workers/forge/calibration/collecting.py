"""What every linear layer of a model sees and answers while samples run through it.

Shape suffixes: N samples, L tokens of a sample, B samples of a batch, R rows (tokens), I input channels,
C any channels.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from workers.forge.calibration.statistics import HISTOGRAM_ROWS, ChannelFigures, spread
from workers.forge.refusing import Refused
from workers.forge.telling import Tell

ROWS = 1024  #: rows of a layer's input that are kept
ROW_BYTES = 4 * 1024**3  #: all that are kept, of all layers: wide models keep fewer rows
_BATCH_TOKENS = {"cpu": 2048}
_BATCH_TOKENS_ELSEWHERE = 8192


class Group(NamedTuple):
    """Layers that read one tensor, and rows of it."""

    layers: tuple[str, ...]
    rows: Tensor  #: [R, I], in the model's dtype
    norm: str | None  #: the norm whose output it is, which can take SmoothQuant's scales


@dataclass(frozen=True)
class Collected:
    """What was seen. Layers that no token reached (experts that nobody was sent to) are in `unseen` alone."""

    inputs: dict[str, ChannelFigures]
    outputs: dict[str, ChannelFigures]
    groups: list[Group]
    unseen: list[str]


def batches(ids_NL: NDArray[np.int32], mask_NL: NDArray[np.uint8], *, tokens: int) -> Iterator[NDArray[np.int32]]:
    """Batches of about `tokens` tokens without any padding: samples of one length go together, longest first.

    So nothing has to be masked, wherever a model sends its tokens.
    """
    lengths_N = mask_NL.sum(1, dtype=np.int64)
    for length in sorted(set(lengths_N.tolist()) - {0}, reverse=True):
        (chosen,) = np.nonzero(lengths_N == length)
        samples = ids_NL[chosen][mask_NL[chosen].astype(bool)].reshape(-1, length)
        size = max(1, tokens // length)
        yield from (samples[first : first + size] for first in range(0, len(samples), size))


def collect(
    model: Any,
    layers: Mapping[str, nn.Linear],
    ids_NL: NDArray[np.int32],
    mask_NL: NDArray[np.uint8],
    *,
    device: torch.device,
    tell: Tell,
) -> Collected:
    """Run samples through a causal language model, up to its head: logits over a vocabulary are not needed.

    Raises:
        Refused: `non_finite_activations`, with the first layer that has some.
    """
    collector = _Collector(layers, tokens=int(mask_NL.sum(dtype=np.int64)))
    samples, done = len(ids_NL), 0
    tell.progress(0, samples, "samples")
    with torch.inference_mode(), _hooked(model, layers, collector):
        for batch_BL in batches(ids_NL, mask_NL, tokens=_BATCH_TOKENS.get(device.type, _BATCH_TOKENS_ELSEWHERE)):
            collector.begin(batch_BL.size)
            model.base_model(input_ids=torch.from_numpy(batch_BL.astype(np.int64)).to(device), use_cache=False)
            collector.end()
            done += len(batch_BL)
            tell.progress(done, samples, "samples")
        return collector.result()


@contextmanager
def _hooked(model: Any, layers: Mapping[str, nn.Linear], collector: "_Collector") -> Iterator[None]:
    def see_layer(name: str) -> Any:
        return lambda _module, args, kwargs, out: collector.layer(name, args[0] if args else kwargs["input"], out)

    def see_norm(name: str) -> Any:
        return lambda _module, _args, out: collector.norm(name, out)

    hooks = [layer.register_forward_hook(see_layer(name), with_kwargs=True) for name, layer in layers.items()]
    hooks += [
        module.register_forward_hook(see_norm(name)) for name, module in model.named_modules() if _is_norm(module)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _is_norm(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return type(module).__name__.endswith("Norm") and isinstance(weight, Tensor) and weight.ndim == 1


@dataclass
class _Latest:
    """The input that a layer saw last: the layers that read the same one come directly after."""

    tensor: Tensor
    figures: ChannelFigures
    rows: Tensor  #: [R, I], those that are kept
    norm: str | None


@dataclass
class _Seen:
    """What was gathered of one layer."""

    input: ChannelFigures
    output: ChannelFigures
    rows: list[Tensor] = field(default_factory=list)
    norms: set[str | None] = field(default_factory=set)


class _Collector:
    def __init__(self, layers: Mapping[str, nn.Linear], *, tokens: int) -> None:
        row_bytes = sum(layer.in_features * layer.weight.element_size() for layer in layers.values())
        self._names = list(layers)
        self._counted_share = HISTOGRAM_ROWS / tokens
        self._kept_share = max(1, min(ROWS, ROW_BYTES // max(1, row_bytes))) / tokens
        self._start = 0
        self._tokens = 0
        self._seen: dict[str, _Seen] = {}
        self._latest: _Latest | None = None
        self._normed: tuple[Tensor, str] | None = None
        self._finite: list[tuple[str, Tensor]] = []
        self._chosen: dict[tuple[int, float, torch.device], Tensor | None] = {}

    def begin(self, tokens: int) -> None:
        self._start += self._tokens
        self._tokens = tokens
        self._chosen.clear()

    def end(self) -> None:
        """Look once whether all of the batch was finite: asking after each layer would stop a GPU each time."""
        self._latest = self._normed = None
        finite, self._finite = self._finite, []
        if not finite:
            return
        device = finite[0][1].device
        found = torch.stack([flag.to(device) for _, flag in finite]).tolist()
        for (where, _), good in zip(finite, found, strict=True):
            if not good:
                raise Refused(
                    "non_finite_activations", "A layer's activations are not finite", f"{where} has infinities or NaN"
                )

    def norm(self, name: str, out: Any) -> None:
        if isinstance(out, Tensor):
            self._normed = (out, name)

    def layer(self, name: str, x: Tensor, y: Tensor) -> None:
        if x.numel() == 0:  # an expert that nobody was sent to
            return
        latest = self._input(x)
        figures = self._figures(y.reshape(-1, y.shape[-1]))
        self._finite += [(f"the input of {name}", latest.figures.finite()), (f"the output of {name}", figures.finite())]
        seen = self._seen.get(name)
        if seen is None:
            seen = self._seen[name] = _Seen(latest.figures.copy(), figures)
        else:
            seen.input.add(latest.figures)
            seen.output.add(figures)
        seen.rows.append(latest.rows)
        seen.norms.add(latest.norm)

    def _input(self, x: Tensor) -> _Latest:
        if self._latest is not None and self._latest.tensor is x:
            return self._latest
        x_RI = x.reshape(-1, x.shape[-1])
        kept_R = self._choose(x_RI, self._kept_share)
        norm = self._normed[1] if self._normed is not None and self._normed[0] is x else None
        rows_RI = x_RI.clone() if kept_R is None else x_RI.index_select(0, kept_R)
        self._latest = _Latest(x, self._figures(x_RI), rows_RI, norm)
        return self._latest

    def _figures(self, x_RC: Tensor) -> ChannelFigures:
        return ChannelFigures.of(x_RC, self._choose(x_RC, self._counted_share))

    def _choose(self, x_RC: Tensor, share: float) -> Tensor | None:
        rows = x_RC.shape[0]
        key = (rows, share, x_RC.device)
        if key not in self._chosen:
            # rows that are not the batch's tokens are those that a router sent here: they have no place of their own
            chosen_R = spread(self._start if rows == self._tokens else 0, rows, share)
            self._chosen[key] = chosen_R if chosen_R is None else chosen_R.to(x_RC.device)
        return self._chosen[key]

    def result(self) -> Collected:
        together: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for name in self._names:
            if name in self._seen:
                together[tuple(map(id, self._seen[name].rows))].append(name)
        return Collected(
            inputs={name: self._seen[name].input for name in self._names if name in self._seen},
            outputs={name: self._seen[name].output for name in self._names if name in self._seen},
            groups=[self._group(names) for names in together.values()],
            unseen=[name for name in self._names if name not in self._seen],
        )

    def _group(self, names: list[str]) -> Group:
        seen = self._seen[names[0]]
        (norm, *others) = seen.norms
        rows_RI = torch.cat(seen.rows)
        for name in names:
            self._seen[name].rows.clear()
        return Group(tuple(names), rows_RI, None if others else norm)
