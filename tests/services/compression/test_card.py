"""The model card: what the Hub reads of it, and what people do."""

from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from services.compression.about import Origin
from services.compression.card import model_card
from shared.contracts.compression import SCHEMES, Method, Scheme
from shared.contracts.evaluation import Verdict
from tests.services.compression import found

HUB = {"type": "huggingface", "repo_id": "meta-llama/Llama-3-8B", "revision": "abc123"}


def card(**fields: Any) -> tuple[dict[str, Any], str]:
    """Front matter and text."""
    empty, front, text = model_card(found.quantized(**fields)).split("---\n", 2)
    assert empty == ""
    return yaml.safe_load(front), text


class TestFrontMatter:
    def test_what_the_hub_reads(self) -> None:
        front, _ = card()
        assert front == {
            "base_model": "org/tiny",
            "base_model_relation": "quantized",
            "library_name": "transformers",
            "pipeline_tag": "text-generation",
            "tags": [
                *("w4a16", "int4", "4-bit", "gptq", "compressed-tensors", "llm-compressor", "vllm", "modelyard"),
            ],
        }

    def test_a_base_of_the_hub_is_called_as_there(self) -> None:
        front, text = card(base_source=HUB)
        assert front["base_model"] == "meta-llama/Llama-3-8B"
        assert "Quantized from `org/tiny@2` (`meta-llama/Llama-3-8B` at revision `abc123`" in text

    def test_the_license_is_the_bases(self) -> None:
        front, text = card()
        assert "license" not in front
        assert "The license is that of the base model." in text

    def test_a_name_is_no_yaml(self) -> None:
        front, _ = card(base_source={"type": "huggingface", "repo_id": 'a/b"\nlicense: mit #'})
        assert front["base_model"] == 'a/b"\nlicense: mit #'
        assert "license" not in front


class TestText:
    @pytest.mark.parametrize("scheme", list(Scheme))
    def test_every_scheme_has_a_card(self, scheme: Scheme) -> None:
        methods = SCHEMES[scheme].methods or (Method.AUTO,)
        for method in methods:
            front, text = card(scheme=scheme, method=method)
            assert front["tags"][0] == str(scheme)
            assert f"Scheme `{scheme}`: " in text
            assert ("Rounding: " in text) == bool(SCHEMES[scheme].methods)
            assert ("compressed-tensors" in text) == bool(SCHEMES[scheme].methods)

    def test_what_was_done(self) -> None:
        _, text = card(smoothing_strength=0.5)
        for said in (
            "GPTQ",
            "Group size: 128",
            "SmoothQuant",
            "Layers quantized: 21",
            "Layers left alone: `lm_head`",
            "`w8a16` for `re:.*down_proj`",
            found.JOB,
            found.OTHER_SHA,
        ):
            assert said in text

    def test_with_which_texts(self) -> None:
        _, text = card(calibration_id=found.JOB)
        for said in (
            "128 samples of 256 tokens (32,768 without padding), taken from 1,804 texts",
            f"- `chats.jsonl (file-1)`: sha256 `{found.SHA}`, weight 3",
            f"- `library text of Python 3.11.9`: sha256 `{found.OTHER_SHA}`, weight 1",
            f"calibration `{found.JOB}`",
        ):
            assert said in text

    def test_without_texts(self) -> None:
        result = found.quantized().result.model_copy(update={"facts": None})
        assert "No texts were needed." in card(result=result, data=[])[1]

    def test_what_it_cost(self) -> None:
        _, text = card()
        assert "| Perplexity | 50.00 | 51.00 | +2.00% |" in text
        assert "The gate (perplexity rises by at most 5%) was passed." in text
        assert "1.91 MiB (2,000,000 bytes) instead of 3.81 MiB (4,000,000 bytes)." in text
        assert "was not passed" in card(verdict=Verdict(passed=False))[1]

    def test_it_says_nothing_of_engines(self) -> None:
        assert "engine |" not in card()[1]
        assert "not measured" not in card()[1]

    def test_unjudged(self) -> None:
        _, text = card(figures=None, gate=None, verdict=None)
        assert "Perplexity" not in text
        assert "1.43 MiB (1,500,000 bytes)." in text

    def test_a_very_long_list_of_layers_is_cut(self) -> None:
        result = found.quantized().result.model_copy(update={"kept": [f"layer{number}" for number in range(60)]})
        assert "`layer49` and 10 more" in card(result=result)[1]

    def test_how_to_load_it(self) -> None:
        _, text = card()
        for said in ("AutoModelForCausalLM.from_pretrained", "vllm serve .", 'modelyard chat tiny-w4a16 "Hello"'):
            assert said in text

    def test_names_are_only_names(self) -> None:
        hostile = "a`b <img src=x>\n# Heading"
        origin = Origin(hostile, found.SHA)
        _, text = card(data=[origin], figures=found.figures(device=hostile))
        assert "`a'b <img src=x> # Heading`" in text
        assert "a\\`b \\<img src=x\\> # Heading" in text
        assert "\n# Heading" not in text
