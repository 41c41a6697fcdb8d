"""The other engines that vLLM can be: split over two ranks, of quantized weights, for embeddings; and its death."""

from pathlib import Path

import pytest
import torch

from shared.contracts.engine import EXIT_FAILED
from shared.contracts.serving import Mode
from shared.settings import Settings
from tests.support.guarded import NAME, GuardedServer, StartGuarded, gone
from tests.support.polling import wait_until
from tests.workers.engine.plain import Plain
from tests.workers.vllm.checkpoints import quantized
from tests.workers.vllm.conftest import MIB, STARTS_S

PROMPT = "def read_lines(path):\n"
TEXTS = ["def read(path):", "x", "import asyncio\n\nasync def main():\n    await sleep(1)\n"]
LEFT_S = 3.0


def started(start: StartGuarded, settings: Settings, **config) -> GuardedServer:
    order = {"kv_bytes": 64 * MIB, **config.pop("order", {})}
    return start("vllm", settings, threads=1, context_length=512, max_in_flight=16, order=order, **config).wait_ready(
        timeout=STARTS_S
    )


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings(vllm_adapters=False, vllm_args=["--enforce-eager"])


class TestTwoRanksOfAQuantizedCheckpoint:
    def test_they_answer_almost_as_the_whole_does_and_die_together(
        self, start_vllm: StartGuarded, settings: Settings, plain: Plain, tmp_path: Path
    ) -> None:
        model = quantized(tmp_path / "w8a8")
        server = started(start_vllm, settings, model_path=model, tensor_parallel=2)
        ranks = [one for one in server.tree() if "Worker_TP" in "".join(one.cmdline())]
        assert len(ranks) == 2
        answer = server.complete(prompt=PROMPT, max_tokens=8, temperature=0, ignore_eos=True)["text"]
        assert answer == plain.complete(PROMPT, 8)
        # When the API server is killed, which its engine core and its ranks do not notice
        family = server.tree()
        server.server.kill()
        # Then nobody is left
        wait_until(lambda: gone(family), timeout=LEFT_S, what="nothing is left")
        assert server.process.wait() == EXIT_FAILED


class TestEmbeddings:
    def test_they_are_the_last_tokens_final_norm_and_a_killed_guard_leaves_nothing(
        self, start_vllm: StartGuarded, settings: Settings, plain: Plain
    ) -> None:
        server = started(start_vllm, settings, order={"mode": Mode.EMBED})
        body = {"model": NAME, "input": TEXTS}
        rows = server.client.post("/v1/embeddings", json=body).raise_for_status().json()["data"]
        vectors = torch.tensor([row["embedding"] for row in rows])
        expected = torch.stack([plain.embed(plain.tokenizer.encode(text)) for text in TEXTS])
        assert torch.allclose(vectors, expected, atol=1e-4)
        assert server.stats().modes == (Mode.EMBED,)
        family = server.tree()
        server.guard.kill()
        wait_until(lambda: gone(family), timeout=LEFT_S, what="nothing is left")
