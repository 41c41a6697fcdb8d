"""How the next token of each sequence is chosen, with parameters of its own for every sequence of a batch.

transformers' continuous batching asks a list of logits processors to rewrite the scores and then takes the
argmax (`do_sample=False`). `Sampler` stands in for that list: it leaves greedy rows alone and, for the
others, draws the token itself and raises its score to infinity, so that the argmax is the sample. Before that it
changes the scores of the rows that ask for it: penalties, then biases and `min_tokens`, then the grammar; after it,
temperature, `min_p`, `top_k`, `top_p` (vLLM's order; `draws`). A row pays for what its own request asks, and for
nothing else.

Every rank of a tensor-parallel engine runs its own Sampler on the same scores: parameters are plain values, a grammar
is text, and what a rank keeps of a sequence follows from the tokens that transformers hands to all of them.

Shape suffixes: B rows of this step, S rows that are sampled, L rows whose log probabilities are noted, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from llguidance import LLMatcher

from workers.engine.draws import draw, draw_limited, uniform
from workers.engine.grammar import Grammars, forbid
from workers.engine.penalties import Change, Tally, add, penalise
from workers.engine.records import Record, measure, note


@dataclass(frozen=True, slots=True)
class Sampling:
    """One sequence's wishes. `temperature` 0 is greedy; `top_k` 0, `top_p` 1 and `min_p` 0 keep every token."""

    temperature: float
    top_k: int
    top_p: float
    seed: int
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    bias: tuple[tuple[int, float], ...] = ()  #: (token, what is added to its score)
    min_tokens: int = 0  #: so many before one of `endings` may come
    endings: tuple[int, ...] = ()  #: tokens that end the sequence
    grammar: str | None = None  #: what the answer must follow (`workers.engine.grammar`)
    logprobs: int | None = None  #: alternatives noted for each token; None: no log probabilities at all

    @property
    def penalties(self) -> tuple[float, float, float]:
        """Presence, frequency, repetition."""
        return self.presence_penalty, self.frequency_penalty, self.repetition_penalty

    @property
    def is_limited(self) -> bool:
        """Whether the draw is not among all tokens."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0

    @property
    def is_penalised(self) -> bool:
        """Whether what was said counts."""
        return bool(self.presence_penalty or self.frequency_penalty or self.repetition_penalty != 1)

    @property
    def edits(self) -> bool:
        """Whether scores are changed before the draw."""
        return bool(self.is_penalised or self.bias or self.min_tokens or self.grammar)


class _State(Protocol):
    """What is read of transformers' `RequestState`."""

    request_id: str
    position_offset: int  #: tokens of prompt and output already in the cache or in this step
    logit_processor_kwargs: Mapping[str, Any]
    initial_tokens: list[int]  #: the prompt; after a preemption with what was generated before
    generated_tokens: list[int]  #: since the start, or since the last preemption
    _true_initial_tokens: int  #: tokens of the prompt, after a preemption; else 0


class _Row(Protocol):
    """What is read of transformers' `FutureRequestState`."""

    has_new_token: bool
    query_length: int  #: tokens of this step
    state: _State


class _Track:
    """What is kept of one sequence. It hangs on transformers' state object, and so lives exactly as long.

    A preempted sequence comes back as a new state, and its track is made again from the tokens it brings.
    """

    def __init__(self, state: _State, grammars: Grammars | None, record: Record | None) -> None:
        self._seen = 0
        self.position = 0  #: tokens before the one that is chosen now
        self.sampling: Sampling = state.logit_processor_kwargs["sampling"]
        self.record = record
        self.greedy = self.sampling.temperature == 0
        self.limited, self.edits = self.sampling.is_limited, self.sampling.edits
        self.noted = self.sampling.logprobs is not None and record is not None
        self.matcher: LLMatcher | None = None
        self.tally: Tally | None = None
        split = state._true_initial_tokens or len(state.initial_tokens)  # noqa: SLF001 - it has no other name
        prompt, before = state.initial_tokens[:split], state.initial_tokens[split:]
        self.generated = len(before)
        if self.sampling.grammar is not None:
            assert grammars is not None
            self.matcher = grammars.start(self.sampling.grammar, before)
        if self.sampling.is_penalised:
            self.tally = Tally(prompt if self.sampling.repetition_penalty != 1 else ())
            self.tally.add(before)

    def follow(self, generated: Sequence[int]) -> None:
        """Take up the tokens that were chosen since the last step; `generated` has all of this state's."""
        fresh = generated[self._seen :]
        self._seen += len(fresh)
        self.generated += len(fresh)
        if self.tally is not None:
            self.tally.add(fresh)
        if self.matcher is not None and fresh:
            self.matcher.consume_tokens(list(fresh))


class Sampler:
    """Stands in for transformers' `ContinuousBatchingLogitsProcessorList` (5.17), whose interface this is."""

    do_processing = True
    tensors_required = 0  # rows of int32 carried along for us; what a step needs is known here without them

    def __init__(self, grammars: Grammars | None = None) -> None:
        """Without `grammars` no request may carry one."""
        self.grammars = grammars
        self.records: dict[str, Record] = {}  #: by sequence, of those whose reader put one here
        self.tokens_generated = 0  #: rows that got a new token since the start, of every sequence
        self._rows: list[_Track] = []  # of this step, in the order of the scores

    def check_kwargs(self, kwargs: Mapping[str, Any]) -> None:
        if not isinstance(kwargs.get("sampling"), Sampling):
            raise TypeError("a request carries `sampling`, an instance of Sampling, and nothing else")

    def fill_defaults(self, arguments: torch.Tensor) -> None:
        """Nothing to fill: see `tensors_required`."""

    def prepare_tensor_args(self, requests_in_batch: Sequence[_Row], arg_storage: torch.Tensor) -> torch.Tensor:
        self._rows = []
        for row in requests_in_batch:
            track = self._track(row)
            if row.has_new_token:
                track.position = row.state.position_offset
                if track.edits:
                    track.follow(row.state.generated_tokens)
                self._rows.append(track)
        self.tokens_generated += len(self._rows)
        return arg_storage

    def __call__(self, _input_ids: torch.Tensor, scores_BV: torch.Tensor, _arguments: torch.Tensor) -> torch.Tensor:
        """Rows behind those that get a token are padding and stay as they are."""
        noted = [at for at, track in enumerate(self._rows) if track.noted]
        logprob_LV = measure(scores_BV, noted) if noted else None
        edited = [(at, track) for at, track in enumerate(self._rows) if track.edits]
        if edited:
            self._edit(scores_BV, edited)
        for limited in (True, False):
            sampled = [at for at, track in enumerate(self._rows) if not track.greedy and track.limited is limited]
            if sampled:
                _sample(scores_BV, sampled, [self._rows[at] for at in sampled], limited=limited)
        if logprob_LV is not None:
            self._note(scores_BV, noted, logprob_LV)
        return scores_BV

    def _track(self, row: _Row) -> _Track:
        track: _Track | None = getattr(row.state, "track", None)
        if track is None:
            record = self.records.get(row.state.request_id)
            track = _Track(row.state, self.grammars, record)
            row.state.track = track  # type: ignore[attr-defined]
            if record is not None and not track.generated:
                record.cached_tokens = row.state.position_offset - row.query_length
        return track

    def _edit(self, scores_BV: torch.Tensor, edited: Sequence[tuple[int, _Track]]) -> None:
        tallied = [(at, track.tally, track.sampling.penalties) for at, track in edited if track.tally is not None]
        if tallied:
            rows, tallies, penalties = zip(*tallied, strict=True)
            penalise(scores_BV, rows, tallies, penalties)
        changes = [change for at, track in edited for change in _changes(at, track)]
        if changes:
            add(scores_BV, changes)
        guided = [(at, track.matcher) for at, track in edited if track.matcher is not None]
        if guided:
            assert self.grammars is not None
            rows, matchers = zip(*guided, strict=True)
            for at in forbid(scores_BV, rows, matchers, self.grammars.words):
                self._give_up(scores_BV, at)

    def _give_up(self, scores_BV: torch.Tensor, at: int) -> None:
        """End a sequence whose grammar hit a limit: what it would write from here on need not be valid."""
        track = self._rows[at]
        if track.record is not None:
            track.record.error = "The answer's grammar became too complex."
        scores_BV[at] = -torch.inf
        scores_BV[at, list(track.sampling.endings)] = 0.0

    def _note(self, scores_BV: torch.Tensor, rows: Sequence[int], logprob_LV: torch.Tensor) -> None:
        chosen_L = scores_BV[torch.tensor(rows, device=scores_BV.device)].argmax(-1)
        tracks = [self._rows[at] for at in rows]
        records = [track.record for track in tracks if track.record is not None]
        note(logprob_LV, chosen_L, records, [track.sampling.logprobs or 0 for track in tracks])


def _changes(at: int, track: _Track) -> list[Change]:
    sampling, changes = track.sampling, list[Change]()
    if sampling.bias:
        changes.append((at, [token for token, _ in sampling.bias], [value for _, value in sampling.bias]))
    if track.generated < sampling.min_tokens and sampling.endings:
        changes.append((at, sampling.endings, [-torch.inf] * len(sampling.endings)))
    return changes


def _sample(scores_BV: torch.Tensor, rows: Sequence[int], tracks: Sequence[_Track], *, limited: bool) -> None:
    """Draw for `rows` and make the drawn tokens the argmax."""
    device, wishes = scores_BV.device, [track.sampling for track in tracks]
    row_S = torch.tensor(rows, device=device)
    values = [
        [wish.temperature for wish in wishes],
        [uniform(track.sampling.seed, track.position) for track in tracks],
        [wish.top_p for wish in wishes],
        [wish.min_p for wish in wishes],
    ]
    temperature_S, uniform_S, top_p_S, min_p_S = torch.tensor(values, dtype=torch.float32, device=device)
    logits_SV = scores_BV[row_S] / temperature_S[:, None]
    if limited:
        top_k_S = torch.tensor([wish.top_k for wish in wishes], device=device)
        token_S = draw_limited(logits_SV, uniform_S, top_k_S=top_k_S, top_p_S=top_p_S, min_p_S=min_p_S)
    else:
        token_S = draw(logits_SV.softmax(-1), uniform_S)
    scores_BV[row_S, token_S] = torch.inf
