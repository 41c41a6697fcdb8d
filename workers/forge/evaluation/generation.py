"""Greedy answers. B: rows of a batch, T: tokens of the longest prompt."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from workers.forge.evaluation.subjects import Runner
from workers.forge.evaluation.tokens import Done, check_finite

_ROOM = {"cpu": 8192, "cuda": 65_536}  # prompt and answer tokens of a batch: 8 GiB of keys and values for Llama 3 8B


def answers(prompts: Sequence[Sequence[int]], runner: Runner, *, max_tokens: int, done: Done) -> list[list[int]]:
    """The likeliest next token, again and again, until the model ends or there are `max_tokens`; ends are left out.

    Prompts of like length are padded on the left and run together. Of the checkpoint's own generation settings only its
    end tokens are kept: penalties and bans would not be greedy.

    Raises:
        Refused: `non_finite_logits`, with the model's name.
    """
    found: list[list[int]] = [[] for _ in prompts]
    ends = _ends(runner)
    settings = GenerationConfig(
        do_sample=False, max_new_tokens=max_tokens, eos_token_id=sorted(ends) or None, pad_token_id=_pad(runner)
    )
    runner.model.generation_config = settings  # what is not set in settings, transformers takes from here
    ordered = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index))
    for batch in _batches(ordered, prompts, runner, max_tokens=max_tokens):
        ids_BT, mask_BT = _padded([prompts[index] for index in batch], pad=_pad(runner))
        output_BT = runner.model.generate(
            input_ids=ids_BT.to(runner.device),
            attention_mask=mask_BT.to(runner.device),
            generation_config=settings,
            logits_processor=LogitsProcessorList([_Finite(runner.name)]),
        )
        for index, row in zip(batch, output_BT[:, ids_BT.shape[1] :].tolist(), strict=True):
            found[index] = _until_end(row, ends)
        done(len(batch))
    return found


class _Finite(LogitsProcessor):
    """Lets logits be, unless the largest of a row is no number: greedy decoding would go on with any token."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002 - its interface
        check_finite(scores.amax(-1), self._name)
        return scores


def _ends(runner: Runner) -> frozenset[int]:
    told = runner.model.generation_config.eos_token_id
    ids = told if isinstance(told, list) else [runner.reader.tokenizer.eos_token_id if told is None else told]
    return frozenset(each for each in ids if each is not None)


def _pad(runner: Runner) -> int:
    """Any token that the model knows: attention masks hide it."""
    tokenizer: Any = runner.reader.tokenizer
    known = (each for each in (tokenizer.pad_token_id, tokenizer.eos_token_id) if each is not None)
    return next((each for each in known if each < runner.reader.vocabulary), 0)


def _batches(
    ordered: Sequence[int], prompts: Sequence[Sequence[int]], runner: Runner, *, max_tokens: int
) -> Iterator[Sequence[int]]:
    at = 0
    while at < len(ordered):
        size = max(1, _ROOM[runner.device.type] // (len(prompts[ordered[at]]) + max_tokens))
        yield ordered[at : at + size]
        at += size


def _padded(prompts: Sequence[Sequence[int]], *, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(map(len, prompts))
    ids_BT = torch.full((len(prompts), length), pad)
    mask_BT = torch.zeros_like(ids_BT)
    for at, ids in enumerate(prompts):
        ids_BT[at, length - len(ids) :] = torch.tensor(ids)
        mask_BT[at, length - len(ids) :] = 1
    return ids_BT, mask_BT


def _until_end(row: list[int], ends: frozenset[int]) -> list[int]:
    return row[: next((at for at, token in enumerate(row) if token in ends), len(row))]
