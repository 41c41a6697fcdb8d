"""Which tokens may follow, when an answer must be JSON.

llguidance, and not xgrammar: one wheel of 3 MB without dependencies (xgrammar brings triton), no compilation of the
whole grammar ahead (a schema takes 0.1 to 15 ms, a step's mask 10 to 50 µs on 4,096 tokens), limits on every phase,
and it refuses what it does not implement instead of ignoring it.

A grammar travels as text, so that each rank of a tensor-parallel engine builds its own and all of them agree.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import llguidance.hf
import numpy as np
import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

JSON_OBJECT: dict[str, Any] = {"type": "object"}

_KEPT = 64  # compiled grammars; one takes some 100 KB
_LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000,  # some 20 ms, the library's default
    step_lexer_fuel=200_000,  # some 14 ms a token at the very worst
    step_max_items=50_000,
    max_lexer_states=50_000,  # 1 to 2 KB each
    max_grammar_size=200_000,
    verbose_errors=False,  # else an error repeats what was generated
)


class GrammarRefused(ValueError):
    """The schema cannot become a grammar."""


def of_schema(schema: dict[str, Any]) -> str:
    """The grammar of a JSON schema, as text. Whether it can be compiled is told by `Grammars.compile`."""
    return LLMatcher.grammar_from_json_schema(
        schema,
        # A blank, or a new line with its indentation: where white space is free, small models write nothing else.
        overrides={"whitespace_pattern": r"( |\n {0,20})", "lenient": False},
    )


class Grammars:
    """Compiled grammars of one tokenizer, the latest kept. Every method may be called from any thread."""

    def __init__(self, tokenizer: Any, *, vocabulary: int, eos: Sequence[int]) -> None:
        """`tokenizer` is transformers' fast one; `vocabulary` counts the columns of the logits."""
        self._tokenizer = tokenizer
        self._columns = max(vocabulary, len(tokenizer))
        self._eos = sorted(eos)
        self._lock = threading.Lock()  # of what is kept: never held while something is compiled
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._spelling = threading.Lock()
        self._tokens: LLTokenizer | None = None

    @property
    def words(self) -> int:
        """int32 words of one row's mask."""
        return -(-self._columns // 32)

    def bytes_of(self, token: int) -> bytes:
        """What a token writes; a part of a character, perhaps."""
        return self._vocabulary().decode_bytes([token])

    def compile(self, grammar: str) -> None:
        """Make a grammar ready, so that `start` takes microseconds. Tens of milliseconds: call it off the loop.

        Raises GrammarRefused when it is not valid, not implemented, or too large.
        """
        self._template(grammar)

    def start(self, grammar: str, tokens: Sequence[int]) -> LLMatcher:
        """A matcher behind `tokens`. Compiles a grammar that is not kept, as on a rank that nobody asked before."""
        matcher = self._template(grammar).deep_copy()
        matcher.consume_tokens(list(tokens))
        return matcher

    def _template(self, grammar: str) -> LLMatcher:
        with self._lock:
            if grammar in self._compiled:
                self._compiled.move_to_end(grammar)
                return self._compiled[grammar]
        matcher = LLMatcher(self._vocabulary(), grammar, log_level=0, limits=_LIMITS)
        if not matcher.is_error():
            matcher.compute_bitmask()  # the first one fills the lexer that copies share, and finds what has no answer
        if matcher.is_error():
            raise GrammarRefused(matcher.get_error().partition("\n")[0])
        with self._lock:
            self._compiled[grammar] = matcher
            if len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
        return matcher

    def _vocabulary(self) -> LLTokenizer:
        """Made by the first who needs it: 15 ms for 4,096 tokens, about a second for 128,000."""
        with self._spelling:
            if self._tokens is None:
                self._tokens = llguidance.hf.from_tokenizer(
                    self._tokenizer, n_vocab=self._columns, eos_token=self._eos or None
                )
            return self._tokens


def forbid(scores_BV: torch.Tensor, rows: Sequence[int], matchers: Sequence[LLMatcher], words: int) -> list[int]:
    """Put −∞ where a row's grammar has no such token; answers the rows whose grammar gave up, which stay as they are.

    Shape suffixes: B rows of the batch, V vocabulary, G rows with a grammar, W words of a mask.
    """
    mask_GW = np.zeros((len(rows), words), np.int32)
    stride = mask_GW.strides[0]
    for at, matcher in enumerate(matchers):
        matcher.unsafe_compute_mask_ptr(mask_GW.ctypes.data + at * stride, stride)
    broken = [at for at, matcher in enumerate(matchers) if matcher.is_error()]
    mask_GW[broken] = -1
    words_GW = torch.from_numpy(mask_GW).to(scores_BV.device)
    bit = torch.arange(32, dtype=torch.int32, device=scores_BV.device)
    allowed_GV = ((words_GW[:, :, None] >> bit) & 1).flatten(1)[:, : scores_BV.size(1)].bool()
    row_G = torch.tensor(rows, device=scores_BV.device)
    scores_BV[row_G] = scores_BV[row_G].masked_fill(~allowed_GV, -torch.inf)
    return [rows[at] for at in broken]
