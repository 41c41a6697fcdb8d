"""Embeddings: the last token's final norm, L2-normalised, beside generation and with the same weights.

Shape suffixes: B inputs of one batch, T tokens of the longest of them, H the model's width.
"""

import asyncio
import base64
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import orjson
import torch

from shared.contracts.engine import EngineConfig
from shared.contracts.openai import EMBEDDING_INPUTS, EmbeddingBody
from workers.engine.errors import ContextLengthExceeded, EngineError, GenerationFailed, InvalidRequest, Overloaded
from workers.engine.memory import batch_tokens_of
from workers.engine.model import Model, sharing

_BATCHES_TOKENS = 4  # a batch of embeddings holds so many times the tokens of a step of generation, padding included

_MOST_WAITING = 16 * EMBEDDING_INPUTS


@dataclass(slots=True, eq=False)
class _Order:
    """The inputs of one request: taken from the left, answered by index."""

    prompts: list[list[int]]
    done: asyncio.Future[None]
    waiting: deque[int] = field(default_factory=deque)
    vectors: dict[int, torch.Tensor] = field(default_factory=dict)


class Embedder:
    """Embeds in batches across requests, on a thread of its own. Everything but `_forward` is on the event loop."""

    def __init__(self, model: Model, config: EngineConfig) -> None:
        self._model = model
        self._network: Any = None  # made for the first request
        self._budget = _BATCHES_TOKENS * batch_tokens_of(config)
        self._orders: deque[_Order] = deque()
        self._thread = ThreadPoolExecutor(1, "embeddings")
        self._working: asyncio.Task[None] | None = None
        self.in_flight = 0  #: inputs taken and not answered

    @property
    def width(self) -> int:
        """Numbers of one vector."""
        return int(self._model.network.config.get_text_config().hidden_size)

    async def embed(self, prompts: list[list[int]]) -> torch.Tensor:
        """Unit vectors, float32, one row a prompt. Cancelled, it leaves the queue. Raises EngineError."""
        if self.in_flight + len(prompts) > _MOST_WAITING:
            raise Overloaded
        order = _Order(prompts, asyncio.get_running_loop().create_future(), deque(range(len(prompts))))
        self._orders.append(order)
        self.in_flight += len(prompts)
        if self._working is None:
            self._working = asyncio.create_task(self._work())
        try:
            await order.done
        finally:
            self.in_flight -= len(prompts)
            if order in self._orders:
                self._orders.remove(order)
        return torch.stack([order.vectors[index] for index in range(len(prompts))])

    def abort(self, error: EngineError) -> None:
        """Make every reader raise `error`."""
        for order in list(self._orders):
            self._fail(order, error)

    def close(self) -> None:
        """Let the thread and the second network go."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._network = None

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._orders:
            batch = self._take()
            prompts = [order.prompts[index] for order, index in batch]
            try:
                rows_BH = await loop.run_in_executor(self._thread, self._forward, prompts)
            except Exception as error:  # noqa: BLE001 - the batch fails, the next one may not
                for order, _ in batch:
                    self._fail(order, GenerationFailed(f"Embedding failed: {type(error).__name__}."))
                continue
            for (order, index), row_H in zip(batch, rows_BH, strict=True):
                order.vectors[index] = row_H
                if len(order.vectors) == len(order.prompts) and not order.done.done():
                    order.done.set_result(None)
                    self._orders.remove(order)
        self._working = None

    def _take(self) -> list[tuple[_Order, int]]:
        """Inputs in turn from every request, as many as the budget holds when padded; one at least."""
        batch: list[tuple[_Order, int]] = []
        longest = 0
        turn = deque(self._orders)
        while turn:
            order = turn.popleft()
            if not order.waiting:
                continue
            longest = max(longest, len(order.prompts[order.waiting[0]]))
            if batch and longest * (len(batch) + 1) > self._budget:
                break
            batch.append((order, order.waiting.popleft()))
            turn.append(order)
        return batch

    def _fail(self, order: _Order, error: EngineError) -> None:
        if order in self._orders:
            self._orders.remove(order)
        if not order.done.done():
            order.done.set_exception(error)

    def _forward(self, prompts: Sequence[list[int]]) -> torch.Tensor:
        """Right padding needs no mask: a causal model's token sees nothing that comes after it."""
        if self._network is None:
            self._network = sharing(self._model.network.base_model, "sdpa")
        longest = max(map(len, prompts))
        tokens_BT = torch.tensor([prompt + [0] * (longest - len(prompt)) for prompt in prompts])
        last_B = torch.tensor([len(prompt) - 1 for prompt in prompts])
        with torch.inference_mode():
            device = self._model.network.device
            hidden_BTH = self._network(input_ids=tokens_BT.to(device), use_cache=False).last_hidden_state
            last_BH = hidden_BTH[torch.arange(len(prompts)), last_B].float()
            return torch.nn.functional.normalize(last_BH, dim=-1).cpu()


async def answer(embedder: Embedder, model: Model, body: EmbeddingBody) -> bytes:
    """OpenAI's list of embeddings. Raises EngineError."""
    if body.dimensions is not None and body.dimensions > embedder.width:
        raise InvalidRequest(f"The model's vectors have {embedder.width} dimensions.", param="dimensions")
    prompts = await asyncio.to_thread(lambda: [model.tokenizer.encode(text, param="input") for text in body.inputs])
    for index, prompt in enumerate(prompts):
        if len(prompt) > model.context_length:
            told = f"Input {index} has {len(prompt)} tokens; the context holds {model.context_length}."
            raise ContextLengthExceeded(told, param="input")
    vectors_BH = await embedder.embed(prompts)
    if body.dimensions is not None:
        vectors_BH = torch.nn.functional.normalize(vectors_BH[:, : body.dimensions], dim=-1)
    rows = [_spell(row, body) for row in vectors_BH.numpy()]
    tokens = sum(map(len, prompts))
    return orjson.dumps(
        {
            "object": "list",
            "data": [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)],
            "model": body.model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )


def _spell(row_H: Any, body: EmbeddingBody) -> Any:
    """Numbers, or their little-endian float32 in base64, as OpenAI has it."""
    return base64.b64encode(row_H.astype("<f4").tobytes()).decode() if body.encoding_format == "base64" else row_H
