"""What an engine can be made of: dtypes, quantized weights, a shorter context, a TCP address, missing memory."""

import json
import shutil
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from shared.contracts.engine import EXIT_OOM, EngineConfig
from tests.support.polling import wait_until
from tests.workers.engine.conftest import YARD_TINY
from tests.workers.engine.plain import Plain
from tests.workers.engine.test_adapters import PROJECTIONS, P, write
from workers.engine.model import load

PROMPT = "def read_lines(path):\n"
ASKED = {"prompt": PROMPT, "max_tokens": 12, "temperature": 0, "ignore_eos": True}

FP8 = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel", "dynamic": False}
INT8 = FP8 | {"type": "int"}
TOKENS = INT8 | {"strategy": "token", "dynamic": True}


def quantized(folder: Path, form: str, *, weights: dict[str, Any], activations: dict[str, Any] | None) -> Path:
    """yard-tiny with its projections in eight bits, one scale a row, as compressed-tensors writes them."""
    shutil.copytree(YARD_TINY, folder)
    whole = weights["type"] == "int"
    dtype, largest = (torch.int8, 127.0) if whole else (torch.float8_e4m3fn, 448.0)
    tensors = {}
    for name, tensor in load_file(YARD_TINY / "model.safetensors").items():
        if not name.endswith("_proj.weight"):
            tensors[name] = tensor
            continue
        scale = tensor.float().abs().amax(dim=1, keepdim=True) / largest
        steps = tensor.float() / scale
        tensors[name] = (steps.round() if whole else steps).clamp(-largest, largest).to(dtype)
        tensors[f"{name}_scale"] = scale.to(tensor.dtype)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": activations}},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def engines(start_engine, tmp_path_factory):
    """Started together, because each spends seconds on its imports."""
    folder = tmp_path_factory.mktemp("checkpoints")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return SimpleNamespace(
        bfloat16=start_engine(dtype="bfloat16", listen=f"127.0.0.1:{port}", token="secret"),
        float16=start_engine(dtype="float16", context_length=64, sampling="fast"),
        fp8=start_engine(model_path=quantized(folder / "fp8", "float-quantized", weights=FP8, activations=None)),
        int8=start_engine(model_path=quantized(folder / "int8", "int-quantized", weights=INT8, activations=TOKENS)),
        greedy=start_engine(num_blocks=10**11),
    )


@pytest.fixture(scope="module")
def plain():
    return Plain(YARD_TINY)


def overlap(plain: Plain, text: str) -> float:
    """How much of the beginning is the original's own greedy text."""
    expected = plain.complete(PROMPT, 12)
    same = next((i for i, (a, b) in enumerate(zip(expected, text, strict=False)) if a != b), len(text))
    return same / len(expected)


class TestWeights:
    @pytest.mark.parametrize("kind", ["bfloat16", "float16"])
    def test_half_precision_begins_as_the_original_does(self, engines, plain, kind):
        engine = getattr(engines, kind).wait_ready()
        assert overlap(plain, engine.complete(**ASKED)["text"]) > 0.5

    @pytest.mark.parametrize("kind", ["fp8", "int8"])
    def test_compressed_tensors_load_and_stay_close_to_the_original(self, engines, plain, tmp_path, kind):
        engine = getattr(engines, kind).wait_ready()
        [row] = engine.post("/v1/embeddings", input=PROMPT).json()["data"]
        near = torch.dot(torch.tensor(row["embedding"]), plain.embed(plain.tokenizer.encode(PROMPT)))
        assert 0.98 < near < 0.999999
        text = engine.complete(**ASKED)["text"]
        assert overlap(plain, text) > 0.5
        # An adapter of zeros is merged into weights that are wide by now
        weights = {
            f"{P}{PROJECTIONS[0]}.lora_A.weight": torch.zeros(4, 256),
            f"{P}{PROJECTIONS[0]}.lora_B.weight": torch.zeros(256, 4),
        }
        path = write(tmp_path / "adapter", weights)
        asked = {"lora_name": "zero", "lora_path": str(path)}
        assert engine.post_json("/v1/load_lora_adapter", asked).status_code == 200
        assert engine.complete(**ASKED, model="zero")["text"] == text


class TestFastSampling:
    def test_greedy_and_sampled_requests_run_in_one_batch(self, engines):
        engine = engines.float16.wait_ready()
        greedy = engine.complete(**ASKED)["text"]
        drawn = engine.post("/v1/completions", **ASKED | {"prompt": [PROMPT] * 4, "temperature": 1.5}).json()["choices"]
        assert engine.complete(**ASKED)["text"] == greedy
        assert len({choice["text"] for choice in drawn}) > 1
        assert engine.complete(**ASKED | {"temperature": 1.0, "top_k": 1})["text"] == greedy
        assert engine.stats().tokens_generated >= 7 * 12

    @pytest.mark.parametrize(
        ("param", "value"),
        [
            ("seed", 1),
            ("logprobs", 0),
            ("min_p", 0.1),
            ("frequency_penalty", 1.0),
            ("logit_bias", {"5": 1}),
            ("response_format", {"type": "json_object"}),
        ],
    )
    def test_what_it_cannot_do_is_refused_by_name(self, engines, param, value):
        answer = engines.float16.wait_ready().post("/v1/completions", prompt="x", **{param: value})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, "unsupported_parameter", param)

    def test_a_seed_says_nothing_about_a_greedy_request(self, engines):
        engines.float16.wait_ready().complete(**ASKED, seed=1)


class TestContext:
    def test_a_shorter_context_is_kept(self, engines):
        engine = engines.float16.wait_ready()
        assert engine.stats().context_length == 64
        answer = engine.post("/v1/completions", prompt=[7] * 60, max_tokens=5)
        assert answer.json()["error"]["code"] == "context_length_exceeded"

    def test_a_longer_one_than_the_models_is_refused(self, engines):
        config = engines.bfloat16.config.model_copy(update={"context_length": 4096})
        with pytest.raises(ValueError, match="context_length 4096 is more than the model's 2048"):
            load(config)

    def test_what_is_not_said_holds_many_contexts(self, engines):
        stats = engines.bfloat16.wait_ready().stats()
        assert stats.kv_blocks_total * 32 >= 32 * 1024


class TestAddress:
    def test_a_tcp_address_serves_who_has_the_token(self, engines):
        engine = engines.bfloat16.wait_ready()
        with httpx.Client(base_url=f"http://{engine.config.listen}") as client:
            assert client.get("/health").status_code == 200
            assert client.get("/stats").status_code == 401
            headers = {"authorization": "Bearer secret"}
            assert client.get("/stats", headers=headers).json()["pid"] == engine.pid

    def test_an_address_without_a_token_is_no_configuration(self, tmp_path):
        fields = {"engine_id": "x", "model_path": tmp_path, "models": ("x",), "uds": tmp_path / "s"}
        with pytest.raises(ValidationError, match="needs a token"):
            EngineConfig.model_validate(fields | {"listen": "127.0.0.1:1"})


class TestMemory:
    def test_memory_that_is_not_there_has_a_status_and_a_name_of_its_own(self, engines):
        assert engines.greedy.process.wait(timeout=110) == EXIT_OOM
        [error] = [line for line in engines.greedy.log.read_text().splitlines() if '"error"' in line]
        assert "OutOfMemoryError" in json.loads(error)["error"]

    @pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read there")
    def test_what_it_holds_is_told(self, engines):
        wait_until(lambda: 2**28 < engines.bfloat16.wait_ready().stats().memory_bytes < 2**32)
