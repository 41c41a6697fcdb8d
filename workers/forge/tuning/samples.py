"""The data of a tuning run: read, prepared, tokenized, measured, packed."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shared.contracts.tuning import DataFacts, Training
from shared.contracts.tuning_orders import TuneOrder
from workers.forge.data.reading import read as read_texts
from workers.forge.refusing import Refused
from workers.forge.telling import Tell
from workers.forge.tuning.encoding import Sample, SampleEncoder
from workers.forge.tuning.examples import SHOWN, Example, listed, read
from workers.forge.tuning.filtering import prepare, split
from workers.forge.tuning.packing import pack
from workers.forge.tuning.weighing import UNLUCKY, times

# T tokens of a row

LONGEST = 2048  #: tokens of a row, where nobody says how many
UNIT = "samples"  #: of progress

# Why a sample is left out, beside the reasons of `filtering`.
REFUSED_BY_TEMPLATE = "refused_by_template"  #: the model's chat template raises an error for this chat
NOTHING_TO_LEARN = "nothing_to_learn"  #: no token is left that the loss would be of
TOO_LONG = "too_long"  #: more tokens than `max_length`

_BATCH = 512  # examples that are tokenized at once


@dataclass(frozen=True, eq=False, slots=True)
class Row:
    """One training row of T tokens, without padding."""

    ids_T: NDArray[np.int32]  # noqa: N815 - a tensor's name
    loss_T: NDArray[np.bool_]  # noqa: N815 - tokens that the loss is of
    lengths: tuple[int, ...]  #: of the samples in it: one, unless packed


@dataclass(frozen=True)
class TuningData:
    """What a run learns, and what it is looked at with."""

    train: list[Row]
    validation: list[Row]
    facts: DataFacts
    max_length: int  #: tokens; no row is longer


class _Encoded(NamedTuple):
    sample: Sample
    example: Example


@dataclass
class _Account:
    """What happens to samples on their way."""

    left_out: Counter[str] = field(default_factory=Counter)
    truncated: int = 0
    longest: int = 0
    without: dict[str, list[str]] = field(default_factory=dict)  #: places of examples without a sample, by reason
    too_long: list[str] = field(default_factory=list)


def load(order: TuneOrder, tokenizer: Any, *, tell: Tell) -> TuningData:
    """The rows of an order's data. The same order makes the same rows, whatever the process.

    Without a preparation no line is left out but for its length, when the order says so: one that the chat template
    refuses, or from which nothing can be learned, is an error.

    Raises:
        Refused: `invalid_data`, with files and lines; `not_enough_data`, when nothing is left to learn; `too_long`,
            with lines and their tokens; `unsupported_model`, when its chat template or tokenizer cannot be used.
    """
    limit = _limit(order)
    account = _Account()
    train, validation, count = _examples(order, account, tell)
    encoder = SampleEncoder(tokenizer, order.model.folder, loss_on=order.training.loss_on, tell=tell)
    work = _Work(encoder, account, order=order, limit=limit, tell=tell)
    learned = work.encoded(train, before=0, total=len(train) + len(validation))
    judged = work.encoded(validation, before=len(train), total=len(train) + len(validation))
    work.settle()
    learned = _weighed(learned, account, seed=order.training.seed)
    _check_some(learned, judged, expected=bool(validation), account=account)
    room = _room(order.training, learned, judged, limit)
    rows = _rows(learned, packing=order.training.packing, room=room)
    looked_at = _rows(judged, packing=order.training.packing, room=room)
    kept = _once(learned)
    return TuningData(
        train=rows,
        validation=looked_at,
        max_length=room,
        facts=DataFacts(
            read=count,
            kept=len(kept),
            validation=len(_once(judged)),
            left_out=dict(sorted(account.left_out.items())),
            tokens=sum(len(row.ids_T) for row in rows),
            trained_tokens=sum(int(row.loss_T.sum()) for row in rows),
            longest=account.longest,
            rows=len(rows),
            truncated=account.truncated,
            sources={data.name: 0 for data in order.data} | Counter(example.source for example in kept),
            kinds=dict(Counter(str(example.kind) for example in kept)),
            sha256=_digest(rows, looked_at),
        ),
    )


def _limit(order: TuneOrder) -> int:
    asked = order.training.max_length
    if asked is not None and asked > order.context_length:
        title = "max_length is more than the model holds"
        raise Refused(TOO_LONG, title, f"max_length {asked:,}; the context has {order.context_length:,} tokens")
    return asked or min(LONGEST, order.context_length)


def _examples(order: TuneOrder, account: _Account, tell: Tell) -> tuple[list[Example], list[Example], int]:
    """What is learned, what is for validation, and how many lines there were."""
    loss_on, seed = order.training.loss_on, order.training.seed
    train = read(order.data, loss_on=loss_on)
    validation = read(order.validation, loss_on=loss_on)
    count = len(train) + len(validation)
    if order.preparation is not None:
        reference = [text for data in order.reference for text in read_texts(data)]
        prepared = prepare(train, order.preparation, reference=reference, validation=validation, seed=seed, tell=tell)
        train = prepared.kept
        account.left_out += prepared.left_out
    if order.validation and not validation:
        raise _nothing("There is no validation data", account)
    if not train:
        raise _nothing("There is nothing to learn", account)
    if order.validation_share is not None:
        train, validation = split(train, order.validation_share, seed=seed)
    return train, validation, count


class _Work:
    """Tokenizes, in batches, and keeps what has the right length."""

    def __init__(self, encoder: SampleEncoder, account: _Account, *, order: TuneOrder, limit: int, tell: Tell) -> None:
        self._encoder = encoder
        self._account = account
        self._too_long = order.training.too_long
        self._strict = order.preparation is None
        self._limit = limit
        self._tell = tell

    def encoded(self, examples: Sequence[Example], *, before: int, total: int) -> list[_Encoded]:
        """Samples that can be used, in their examples' order; `before` and `total` count for the progress."""
        found: list[_Encoded] = []
        for start in range(0, len(examples), _BATCH):
            batch = examples[start : start + _BATCH]
            for example, samples in zip(batch, self._encoder.encode(batch), strict=True):
                found += [_Encoded(sample, example) for sample in self._usable(example, samples)]
            self._tell.progress(before + start + len(batch), total, UNIT)
        return found

    def settle(self) -> None:
        """Refuse what must not be left out, and tell what was.

        Raises:
            Refused: `too_long`, `invalid_data`.
        """
        too_long, without = self._account.too_long, self._account.without
        if too_long and self._too_long == "refuse":
            title = f"Samples are longer than {self._limit:,} tokens: {len(too_long):,}"
            raise Refused(TOO_LONG, title, listed(too_long[:SHOWN], len(too_long)))
        if too_long:
            what = "cut to that" if self._too_long == "truncate" else "left out"
            lines = listed(too_long[:SHOWN], len(too_long))
            self._tell.log(f"longer than {self._limit:,} tokens, {what}: {lines}", "warning")
        for reason, places in sorted(without.items()):
            shown = listed(places[:SHOWN], len(places))
            if self._strict:
                raise Refused("invalid_data", _IN_WORDS[reason], shown)
            self._tell.log(f"{_IN_WORDS[reason]}, and are left out: {shown}", "warning")

    def _usable(self, example: Example, samples: Sequence[Sample]) -> Iterator[Sample]:
        if not samples:
            why = self._encoder.problems.get(example.place)
            self._leave_out(example, REFUSED_BY_TEMPLATE if why else NOTHING_TO_LEARN, why)
            return
        usable = [fit for sample in samples if (fit := self._fitting(example, sample)) is not None]
        learnable = [sample for sample in usable if sample.loss_T.any()]
        cut = any(len(sample.ids_T) > self._limit for sample in samples)
        if learnable:
            self._account.truncated += cut and self._too_long == "truncate"
            yield from learnable
        elif not cut:
            self._leave_out(example, NOTHING_TO_LEARN, None)
        elif self._too_long != "refuse":
            self._account.left_out[NOTHING_TO_LEARN if usable else TOO_LONG] += 1

    def _fitting(self, example: Example, sample: Sample) -> Sample | None:
        length = len(sample.ids_T)
        if length > self._limit:
            self._account.too_long.append(f"{example.place}: {length:,} tokens")
            if self._too_long != "truncate":
                return None
            sample = Sample(sample.ids_T[: self._limit].copy(), sample.loss_T[: self._limit].copy())
        self._account.longest = max(self._account.longest, len(sample.ids_T))
        return sample

    def _leave_out(self, example: Example, reason: str, why: str | None) -> None:
        self._account.left_out[reason] += 1
        self._account.without.setdefault(reason, []).append(f"{example.place}: {why}" if why else example.place)


_IN_WORDS = {
    REFUSED_BY_TEMPLATE: "Lines of the data are refused by the model's chat template",
    NOTHING_TO_LEARN: "Lines of the data have no token to learn",
}


def _weighed(encoded: Sequence[_Encoded], account: _Account, *, seed: int) -> list[_Encoded]:
    """The samples of an epoch: some examples are seen more than once, and some not at all."""
    often = {id(example): count for example, count in times(_once(encoded), seed=seed)}
    if unseen := sum(not count for count in often.values()):
        account.left_out[UNLUCKY] += unseen
    return [each for each in encoded for _ in range(often[id(each.example)])]


def _once(encoded: Sequence[_Encoded]) -> list[Example]:
    """The examples, some of which have several samples."""
    return list({id(each.example): each.example for each in encoded}.values())


def _check_some(learned: Sequence[_Encoded], judged: Sequence[_Encoded], *, expected: bool, account: _Account) -> None:
    if not learned:
        raise _nothing("There is nothing to learn", account)
    if expected and not judged:
        raise _nothing("There is no validation data", account)


def _nothing(title: str, account: _Account) -> Refused:
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(account.left_out.items()))
    return Refused("not_enough_data", title, f"samples left out: {reasons}" if reasons else "the data has no lines")


def _room(training: Training, learned: Sequence[_Encoded], judged: Sequence[_Encoded], limit: int) -> int:
    """Tokens of the longest row that may come: packed rows are as long as they may be."""
    if training.packing or training.max_length is not None:
        return limit
    return max(len(each.sample.ids_T) for each in (*learned, *judged))


def _rows(encoded: Sequence[_Encoded], *, packing: bool, room: int) -> list[Row]:
    samples = [each.sample for each in encoded]
    if not packing:
        return [Row(sample.ids_T, sample.loss_T, (len(sample.ids_T),)) for sample in samples]
    return [
        _joined([samples[index] for index in row]) for row in pack([len(sample.ids_T) for sample in samples], room=room)
    ]


def _joined(samples: Sequence[Sample]) -> Row:
    return Row(
        np.concatenate([sample.ids_T for sample in samples]),
        np.concatenate([sample.loss_T for sample in samples]),
        tuple(len(sample.ids_T) for sample in samples),
    )


def _digest(*parts: Sequence[Row]) -> str:
    digest = sha256()
    for rows in parts:
        digest.update(len(rows).to_bytes(8, "little"))
        for row in rows:
            digest.update(np.array([len(row.lengths), *row.lengths], "<i4").tobytes())
            digest.update(row.ids_T.astype("<i4", copy=False).tobytes())
            digest.update(np.packbits(row.loss_T).tobytes())
    return digest.hexdigest()
