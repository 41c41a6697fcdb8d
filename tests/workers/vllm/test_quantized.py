"""Checkpoints that the quantization forge wrote, on a yard: vLLM and our own engine say what plain transformers says.

On a CPU vLLM has kernels for int8 and w4a16; for w8a16 (`WNA16`) and fp8 it needs a GPU.
"""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch

from services.compression import library
from shared.contracts.forge_orders import Data
from tests.support.guarded import YARD_TINY
from tests.support.yards import RunningYard, yards
from tests.workers.engine.plain import Plain
from tests.workers.forge.quantization.models import make, order
from tests.workers.vllm.conftest import STARTS_S

pytestmark = pytest.mark.filterwarnings("ignore")  # llm-compressor's own

#: Prompts, and how many tokens the checkpoints are sure of. vLLM multiplies whole numbers, plain transformers computes
#: the same in floats: where the two best tokens are as good as equal, they may differ.
SURE = (("import os\nimport sys\n", 10), ("class Counter:\n", 1), ("for index in range(", 3))
MARGIN = 0.3  # logits between the best token and the next
ENGINES = ("vllm", "transformers")


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningYard]:
    with yards(tmp_path_factory.mktemp("yard")) as start:
        yield start(
            engine_threads=1,
            vllm_args=["--enforce-eager"],
            vllm_adapters=False,
            engine_start_s=STARTS_S,
            place_wait_s=STARTS_S,
            engine_spares=0,
        )


def sure(plain: Plain, prompt: str, tokens: int) -> str:
    """The greedy answer, when every token of it wins by the margin."""
    sequence = plain.tokenizer.encode(prompt)
    for _ in range(tokens):
        best = plain.network(torch.tensor([sequence]), use_cache=False).logits[0, -1].topk(2)
        assert best.values[0] - best.values[1] > MARGIN, f"after {plain.tokenizer.decode(sequence)!r} it is unsure"
        sequence.append(int(best.indices[0]))
    return plain.complete(prompt, tokens)


def completed(client: httpx.Client, model: str, prompt: str, tokens: int) -> str:
    body = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    return str(client.post("/v1/completions", json=body).raise_for_status().json()["choices"][0]["text"])


class TestQuantized:
    @pytest.mark.parametrize(("scheme", "method", "group_size"), [("int8", "gptq", None), ("w4a16", "rtn", 128)])
    def test_every_engine_says_what_plain_transformers_says(
        self, *, scheme: str, method: str, group_size: int | None, yard: RunningYard, tmp_path: Path
    ) -> None:
        # Given a checkpoint of the forge
        library.write(tmp_path / "library.jsonl", held_out=False)
        data = Data(path=tmp_path / "library.jsonl", name="library")
        sampling = {"samples": 64, "sequence_length": 128}
        given = order(YARD_TINY, scheme, method, data=data, sampling=sampling, group_size=group_size)
        made = make(given, tmp_path / "out")
        plain = Plain(made.folder)
        expected = [sure(plain, prompt, tokens) for prompt, tokens in SURE]
        for engine in ENGINES:
            # When an engine serves it
            name = f"{scheme}-{engine}"
            (made.folder / "README.md").write_text(name)  # another digest: the same one is served by the engine it has
            yard.cli("models", "register", str(made.folder), "--name", name, "--set", f"engine={engine}")
            with yard.client() as client:
                client.timeout = httpx.Timeout(STARTS_S)
                body = {"model": name, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
                chat = client.post("/v1/chat/completions", json=body)
                # Then it answers, and says the same
                assert chat.status_code == httpx.codes.OK, f"{chat.text}\n{yard.logs()}"
                assert [completed(client, name, prompt, tokens) for prompt, tokens in SURE] == expected
                [worker] = client.get("/v1/workers").raise_for_status().json()["data"]
            assert engine in {each["kind"] for each in worker["engines"]}
