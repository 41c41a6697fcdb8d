"""What the forge does not take: said before work begins, with nothing left behind."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPTNeoXConfig, MixtralConfig, Qwen3MoeConfig

from shared.contracts.forge_orders import Data, Subject
from tests.workers.forge.quantization.models import SHAPE, make, order, saved
from workers.forge.quantization import loading
from workers.forge.refusing import Refused

QUERY = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


def refused(tmp_path: Path, *args: Any, **options: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        make(order(*args, **options), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    return caught.value


def configure(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


class TestModels:
    def test_a_pickle(self, copy: Path, tmp_path: Path) -> None:
        torch.save({}, copy / "pytorch_model.bin")
        error = refused(tmp_path, copy, "fp8-dynamic")
        assert (error.code, error.detail) == ("unsafe_model", "pytorch_model.bin")

    def test_no_safetensors(self, copy: Path, tmp_path: Path) -> None:
        (copy / "model.safetensors").unlink()
        assert refused(tmp_path, copy, "fp8-dynamic").code == "unsafe_model"

    def test_code_of_its_own(self, copy: Path, tmp_path: Path) -> None:
        configure(copy, auto_map={"AutoModelForCausalLM": "modeling.Model"})
        error = refused(tmp_path, copy, "fp8-dynamic")
        assert (error.code, error.detail) == ("unsafe_model", "auto_map in config.json")

    def test_a_broken_file(self, copy: Path, tmp_path: Path) -> None:
        (copy / "model.safetensors").write_bytes(b"\xff" * 64)
        assert refused(tmp_path, copy, "fp8-dynamic").code == "unsafe_model"

    @pytest.mark.parametrize("scheme", ["fp8-dynamic", "bf16"])
    def test_weights_that_are_not_finite(self, scheme: str, copy: Path, tmp_path: Path) -> None:
        tensors = load_file(copy / "model.safetensors")
        tensors[QUERY][3, 5] = float("nan")
        save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
        error = refused(tmp_path, copy, scheme)
        assert (error.code, error.detail) == ("non_finite_weights", QUERY)

    def test_numbers_that_fp16_does_not_have(self, copy: Path, tmp_path: Path) -> None:
        tensors = load_file(copy / "model.safetensors")
        tensors[QUERY][3, 5] = 1e6
        save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
        error = refused(tmp_path, copy, "fp16")
        assert (error.code, error.detail) == ("non_finite_weights", QUERY)

    def test_a_tensor_that_is_missing(self, copy: Path, tmp_path: Path) -> None:
        tensors = load_file(copy / "model.safetensors")
        del tensors[QUERY]
        save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
        error = refused(tmp_path, copy, "fp8-dynamic")
        assert (error.code, error.detail) == ("unsupported_model", QUERY)

    def test_a_tensor_that_is_missing_for_a_rank_that_reads(self, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tensors = load_file(copy / "model.safetensors")
        del tensors[QUERY]
        save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
        monkeypatch.setenv("RANK", "0")  # as torchrun does
        with pytest.raises(Refused) as caught:
            loading.load(copy)
        assert (caught.value.code, caught.value.detail) == ("unsupported_model", QUERY)

    def test_one_that_is_quantized_already(self, tiny: Path, tmp_path: Path) -> None:
        made = make(order(tiny, "w8a16"), tmp_path / "first")
        error = refused(tmp_path, made.folder, "fp8-dynamic")
        assert (error.code, error.detail) == ("unsupported_model", "by compressed-tensors: give the original")

    def test_other_floats_than_nvfp4_is_unpacked_to(self, tiny: Path, words: Data, tmp_path: Path) -> None:
        half = make(order(tiny, "fp16", "auto"), tmp_path / "half").folder
        error = refused(tmp_path, half, "nvfp4", data=words)
        assert (error.code, error.detail) == ("unsupported_model", "torch.float16")

    def test_an_architecture_that_nobody_knows(self, copy: Path, tmp_path: Path) -> None:
        configure(copy, model_type="yard", architectures=["YardForCausalLM"])
        error = refused(tmp_path, copy, "fp8-dynamic")
        assert error.code == "unsupported_model"
        assert "yard" in error.detail

    @pytest.mark.parametrize(
        ("config", "scheme", "method", "reason"),
        [
            (GPT2Config(n_embd=64, n_layer=2, n_head=4, vocab_size=4096), "fp8-dynamic", "rtn", "of 1"),
            (
                GPTNeoXConfig(**{name: SHAPE[name] for name in SHAPE if name != "num_key_value_heads"}),
                "w4a16",
                "awq",
                "NeoX",
            ),
            (Qwen3MoeConfig(**SHAPE, moe_intermediate_size=64, num_experts=4), "int8-dynamic", "rtn", "int8-dynamic"),
            (MixtralConfig(**SHAPE, num_local_experts=4), "w8a16", "rtn", "experts.0.gate_proj"),
        ],
        ids=["no linear layers", "no mapping for AWQ", "experts in int8", "experts of other names"],
    )
    def test_one_that_the_scheme_is_not_for(
        self, *, config: Any, scheme: str, method: str, reason: str, words: Data, tmp_path: Path
    ) -> None:
        error = refused(tmp_path, saved(tmp_path / "given", config), scheme, method, data=words)
        assert error.code == "unsupported_model"
        assert re.search(reason, error.detail)


class TestOrders:
    def test_a_pattern_that_matches_nothing(self, tiny: Path, tmp_path: Path) -> None:
        error = refused(tmp_path, tiny, "fp8-dynamic", ignore=["lm_head", "c_attn"])
        assert (error.code, error.detail) == ("pattern_matches_nothing", "c_attn")

    def test_a_group_size_that_does_not_divide(self, tiny: Path, tmp_path: Path) -> None:
        error = refused(tmp_path, tiny, "w4a16", group_size=48)
        assert error.code == "group_size_does_not_divide"
        assert "model.layers.0.mlp.down_proj (128 columns, groups of 48)" in error.detail

    def test_data_to_judge_by_that_cannot_be_read(self, tiny: Path, tmp_path: Path) -> None:
        path = tmp_path / "judged.jsonl"
        path.write_text('{"text": "one"}\n{"text": 2}\n')
        task = {
            "task": {"type": "text", "name": "judged", "sequence_length": 32},
            "data": [Data(path=path, name="judged")],
        }
        subjects = {name: Subject(folder=tiny, name=name) for name in ("candidate", "baseline")}
        error = refused(tmp_path, tiny, "w4a16", evaluate={"tasks": [task], **subjects})
        assert error.code == "invalid_data"

    def test_a_scheme_that_needs_data_and_has_none(self, tiny: Path, tmp_path: Path) -> None:
        assert refused(tmp_path, tiny, "fp8").code == "not_enough_data"
