"""Calibration samples: taken from texts, kept in a file, given to llm-compressor."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from shared.contracts.forge_orders import SAMPLES_FILE, SampleFacts, SamplingOrder
from workers.forge.data.choosing import choose, shares
from workers.forge.data.filling import Filler, PackedFiller, Row, SingleFiller
from workers.forge.data.packing import Packer
from workers.forge.data.reading import read
from workers.forge.data.tokenizing import Encoder, Log
from workers.forge.refusing import Refused

# N samples, L tokens of each

# Why a text is left out, beside the reasons of `choosing`.
REFUSED_BY_TEMPLATE = "refused_by_template"  #: the model's chat template raises an error for this chat
NOT_NEEDED = "not_needed"  #: there were enough samples before it
REMAINDER = "remainder"  #: it has no token in a sample: what is left at the end does not fill one


@dataclass(frozen=True, eq=False)
class Samples:
    """Token ids of N samples of length L, and which of them are not padding."""

    input_ids_NL: NDArray[np.int32]  # noqa: N815 - a tensor's name
    attention_mask_NL: NDArray[np.uint8]  # noqa: N815
    facts: SampleFacts

    def save(self, folder: Path) -> Path:
        """Write `SAMPLES_FILE` into `folder`, the facts in its header; its path."""
        path = folder / SAMPLES_FILE
        tensors: dict[str, NDArray[Any]] = {"input_ids": self.input_ids_NL, "attention_mask": self.attention_mask_NL}
        save_file(tensors, path, metadata={"facts": self.facts.model_dump_json()})
        return path

    @classmethod
    def load(cls, folder: Path) -> "Samples":
        """What `save` wrote.

        Raises:
            Refused: `invalid_data`, when the file is not what it should be.
        """
        try:
            with safe_open(folder / SAMPLES_FILE, framework="np") as file:
                facts = SampleFacts.model_validate_json((file.metadata() or {}).get("facts", ""))
                ids_NL, mask_NL = file.get_tensor("input_ids"), file.get_tensor("attention_mask")
        except (FileNotFoundError, SafetensorError, ValidationError) as error:
            raise Refused("invalid_data", "The calibration's samples cannot be read", str(error)) from error
        if ids_NL.shape != (facts.samples, facts.sequence_length) or mask_NL.shape != ids_NL.shape:
            raise Refused("invalid_data", "The calibration's samples are damaged", f"shape {ids_NL.shape}")
        if _digest(ids_NL) != facts.sha256:
            raise Refused("invalid_data", "The calibration's samples are damaged", "sha256 of the token ids")
        return cls(ids_NL, mask_NL, facts)

    def dataset(self) -> Any:
        """A `datasets.Dataset` of `input_ids` and `attention_mask`: what `oneshot(dataset=…)` takes as tokenized."""
        from datasets import Dataset  # noqa: PLC0415 - a second and a half; calibration needs none

        return Dataset.from_dict({"input_ids": self.input_ids_NL, "attention_mask": self.attention_mask_NL})


def take(order: SamplingOrder, tokenizer: Any, *, tell: Log) -> Samples:
    """The samples that an order asks for, of `order.sampling.sequence_length` tokens.

    Each source fills its share of the samples by weight; what one cannot fill goes to the others. Less data than asked
    for is told to `tell`.

    Raises:
        Refused: `invalid_data`, `not_enough_data` when the texts fill no sample.
    """
    sampling = order.sampling
    length = sampling.sequence_length
    assert length is not None
    texts = [read(data) for data in order.data]
    reference = [text for data in order.reference for text in read(data)]
    chosen = choose(texts, reference, sampling)
    encoder = Encoder(tokenizer, tell=tell)
    kind = PackedFiller if sampling.packed else SingleFiller
    fillers: list[Filler] = [kind(each, encoder, length=length) for each in chosen.sources]
    rows, spare_tokens = _fill(fillers, [data.weight for data in order.data], count=sampling.samples, length=length)

    left_out = chosen.left_out + _left_out(fillers, chosen.sources, enough=len(rows) == sampling.samples)
    tokens = sum(row.tokens for row in rows)
    if not rows or (len(rows) < sampling.samples and tokens < length):
        raise _too_little(tokens + spare_tokens, length, texts=sum(map(len, texts)), left_out=left_out)
    if len(rows) < sampling.samples:
        tell.log(f"{len(rows)} samples of {length} tokens instead of {sampling.samples}: there is no more data")
    sources: Counter[str] = Counter()
    for data, filler in zip(order.data, fillers, strict=True):
        sources[data.name] += len(filler.used)
    ids_NL = np.stack([row.ids_T for row in rows])
    tokens_N1 = np.array([[row.tokens] for row in rows])
    return Samples(
        input_ids_NL=ids_NL,
        attention_mask_NL=(np.arange(length) < tokens_N1).astype(np.uint8),
        facts=SampleFacts(
            samples=len(rows),
            sequence_length=length,
            tokens=tokens,
            texts=sum(map(len, texts)),
            left_out=dict(left_out),
            sources=dict(sources),
            sha256=_digest(ids_NL),
        ),
    )


def _fill(fillers: Sequence[Filler], weights: Sequence[float], *, count: int, length: int) -> tuple[list[Row], int]:
    """Rows, the sources' mixed evenly, and the number of tokens that did not fill one."""
    rows: list[list[Row]] = [[] for _ in fillers]
    missing = count
    living = list(range(len(fillers)))
    while missing and living:
        wanted = dict(zip(living, shares(missing, [weights[index] for index in living]), strict=True))
        for index, share in wanted.items():
            made = fillers[index].fill(share)
            rows[index] += made
            missing -= len(made)
            if len(made) < share:
                living.remove(index)
    mixed = _mixed(rows)
    if not missing:
        return mixed, 0
    ends, spare_tokens = _ends(fillers, count=missing, length=length)
    return mixed + ends, spare_tokens


def _ends(fillers: Sequence[Filler], *, count: int, length: int) -> tuple[list[Row], int]:
    """Rows out of what is left of all sources, and the number of tokens that are still left."""
    packer = Packer(length)
    runs = [(filler, index, ids) for filler in fillers for index, ids in filler.rest()]
    for run, (_, _, ids) in enumerate(runs):
        packer.add(run, ids)
    rows: list[Row] = []
    while len(rows) < count and (row_T := packer.row()) is not None:
        rows.append(Row(row_T, length))
    for run in packer.used:
        filler, index, _ = runs[run]
        filler.used.add(index)
    return rows, packer.waiting_tokens


def _mixed(rows: Sequence[Sequence[Row]]) -> list[Row]:
    """All rows, so that any first few of them hold every source's share."""
    placed = [((at + 0.5) / len(of), source, row) for source, of in enumerate(rows) for at, row in enumerate(of)]
    return [row for _, _, row in sorted(placed, key=lambda each: each[:2])]


def _left_out(fillers: Sequence[Filler], sources: Sequence[Sequence[Any]], *, enough: bool) -> Counter[str]:
    used = sum(len(filler.used) for filler in fillers)
    refused = sum(len(filler.refused) for filler in fillers)
    others = sum(map(len, sources)) - used - refused
    return +Counter({REFUSED_BY_TEMPLATE: refused, NOT_NEEDED if enough else REMAINDER: others})


def _too_little(tokens: int, length: int, *, texts: int, left_out: Counter[str]) -> Refused:
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(left_out.items()) if reason != REMAINDER)
    return Refused(
        "not_enough_data",
        "There is not enough text for one sample",
        f"{tokens:,} tokens in {texts:,} texts; a sample takes {length:,}"
        + (f" (texts left out: {reasons})" if reasons else ""),
    )


def _digest(ids_NL: NDArray[np.int32]) -> str:
    return sha256(np.ascontiguousarray(ids_NL, dtype="<i4").tobytes()).hexdigest()
