"""Checkpoints that the quantization forge wrote, in vLLM: the same greedy tokens as in plain transformers.

On a CPU vLLM has kernels for int8 and w4a16; for w8a16 (`WNA16`) and fp8 it needs a GPU.
"""

from pathlib import Path

import pytest
import torch

from services.compression import library
from shared.contracts.forge_orders import Data
from shared.settings import Settings
from tests.support.guarded import YARD_TINY, StartGuarded
from tests.workers.engine.plain import Plain
from tests.workers.forge.quantization.models import make, order
from tests.workers.vllm.conftest import MIB, STARTS_S

pytestmark = pytest.mark.filterwarnings("ignore")  # llm-compressor's own

#: Prompts, and how many tokens the checkpoints are sure of. vLLM multiplies whole numbers, plain transformers computes
#: the same in floats: where the two best tokens are as good as equal, they may differ.
SURE = (("import os\nimport sys\n", 10), ("class Counter:\n", 1), ("for index in range(", 3))
MARGIN = 0.3  # logits between the best token and the next


def sure(plain: Plain, prompt: str, tokens: int) -> str:
    """The greedy answer, when every token of it wins by the margin."""
    sequence = plain.tokenizer.encode(prompt)
    for _ in range(tokens):
        best = plain.network(torch.tensor([sequence]), use_cache=False).logits[0, -1].topk(2)
        assert best.values[0] - best.values[1] > MARGIN, f"after {plain.tokenizer.decode(sequence)!r} it is unsure"
        sequence.append(int(best.indices[0]))
    return plain.complete(prompt, tokens)


class TestQuantized:
    @pytest.mark.parametrize(("scheme", "method", "group_size"), [("int8", "gptq", None), ("w4a16", "rtn", 128)])
    def test_it_says_what_plain_transformers_says(
        self, *, scheme: str, method: str, group_size: int | None, start_vllm: StartGuarded, tmp_path: Path
    ) -> None:
        # Given a checkpoint of the forge
        library.write(tmp_path / "library.jsonl", held_out=False)
        data = Data(path=tmp_path / "library.jsonl", name="library")
        sampling = {"samples": 64, "sequence_length": 128}
        given = order(YARD_TINY, scheme, method, data=data, sampling=sampling, group_size=group_size)
        made = make(given, tmp_path / "out")
        plain = Plain(made.folder)
        expected = [sure(plain, prompt, tokens) for prompt, tokens in SURE]
        # When vLLM serves it
        settings = Settings(vllm_adapters=False, vllm_args=["--enforce-eager"])
        server = start_vllm(
            "vllm",
            settings,
            threads=1,
            context_length=512,
            max_in_flight=4,
            model_path=made.folder,
            dtype="bfloat16",  # of which the kernel for w4a16 is
            order={"kv_bytes": 64 * MIB},
        ).wait_ready(timeout=STARTS_S)
        # Then the answers are the same
        answers = [
            server.complete(prompt=prompt, max_tokens=tokens, temperature=0, ignore_eos=True)["text"]
            for prompt, tokens in SURE
        ]
        assert answers == expected
