"""Log-likelihood of choices, as lm-evaluation-harness (lm_eval/api/model.py, `TemplateLM._encode_pair`) takes it.

Prompt and choice are tokenized together, and the choice is what follows the prompt's own tokens; white space at the end
of a prompt goes over to the choice. Where neither has white space at the seam, one blank goes between them, as the
harness's `target_delimiter`. B: rows of a batch, T: tokens of the longest row, t: those of a choice, V: words.
"""

import inspect
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from workers.forge.data.tasks import Choice
from workers.forge.evaluation.subjects import Reader, Runner
from workers.forge.evaluation.tokens import Done, batch_tokens, check_finite


class Request(NamedTuple):
    """Tokens, and where those begin whose likelihood is asked for; at least one comes before them."""

    ids: tuple[int, ...]
    start: int


Row = tuple[int, ...]
"""What goes through a model: a request without its last token. Choices of one token share the row of their prompt."""


def requests_of(reader: Reader, choice: Choice) -> list[Request]:
    """One request a choice, in their order."""
    return [_request(reader, choice.prompt, text) for text in choice.choices]


def _request(reader: Reader, prompt: str, text: str) -> Request:
    seam = "" if not prompt or prompt[-1].isspace() or text[0].isspace() else " "
    context = prompt.rstrip()
    rest = prompt[len(context) :] + seam + text
    context_ids = reader.encode(context) if context else []
    whole_ids = reader.encode(context + rest)
    rest_ids = whole_ids[len(context_ids) :] or reader.encode(rest)  # a tokenizer may merge across the seam
    before = reader.begun(context_ids)
    return Request((*before, *rest_ids), len(before))


def log_likelihoods(requests: Sequence[Request], runner: Runner, *, done: Done) -> list[float]:
    """Sum of log-likelihoods of each request's tokens from `start` on, in nats; `done` is told how many each time.

    Raises:
        Refused: `non_finite_logits`, with the model's name.
    """
    found = [0.0] * len(requests)
    rows: defaultdict[Row, list[int]] = defaultdict(list)
    for index, request in enumerate(requests):
        rows[request.ids[:-1]].append(index)
    for batch in _batches(sorted(rows, key=lambda row: (-len(row), row)), runner):
        first = min(requests[index].start for row in batch for index in rows[row])
        logits_BTV, offset = _logits(batch, runner, first=first)
        for at, row in enumerate(batch):
            for index in rows[row]:
                found[index] = _sum(requests[index], logits_BTV[at], offset, runner.name)
            done(len(rows[row]))
    return found


def _sum(request: Request, logits_TV: torch.Tensor, offset: int, name: str) -> float:
    """`offset` is the position of the first row of logits."""
    begin = request.start - 1 - offset
    targets_t = torch.tensor(request.ids[request.start :], device=logits_TV.device)
    log_p_tV = torch.log_softmax(logits_TV[begin : begin + len(targets_t)], dim=-1, dtype=torch.float32)
    log_p_t = log_p_tV.gather(-1, targets_t[:, None]).double()
    check_finite(log_p_t, name)
    return float(log_p_t.sum())


def _batches(rows: Sequence[Row], runner: Runner) -> Iterator[list[Row]]:
    """Rows, longest first, that fit into a batch when padded."""
    room = batch_tokens(runner.device.type, runner.reader.vocabulary)
    at = 0
    while at < len(rows):
        size = max(1, room // len(rows[at]))
        yield list(rows[at : at + size])
        at += size


def _logits(batch: Sequence[Row], runner: Runner, *, first: int) -> tuple[torch.Tensor, int]:
    """Logits [B, T, V] of rows padded on the right, which causal attention does not see, from position `first` - 1 on.

    The second value is the position of the first logits that there are: models that cannot leave any out begin at 0.
    """
    length = max(map(len, batch))
    ids_BT = torch.zeros((len(batch), length), dtype=torch.long)
    mask_BT = torch.zeros_like(ids_BT)
    for at, row in enumerate(batch):
        ids_BT[at, : len(row)] = torch.tensor(row)
        mask_BT[at, : len(row)] = 1
    kept: dict[str, Any] = {}
    if "logits_to_keep" in inspect.signature(runner.model.forward).parameters:
        kept["logits_to_keep"] = length - (first - 1)
    logits_BTV = runner.model(
        input_ids=ids_BT.to(runner.device), attention_mask=mask_BT.to(runner.device), use_cache=False, **kept
    ).logits
    return logits_BTV, length - logits_BTV.shape[1]
