"""Each method's result is what engines load: an adapter, or a whole model in its base's dtype."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from services.catalog.adapters import check_config, check_fit
from services.catalog.tensors import Tensor
from shared.contracts.forge_orders import Data, Subject
from shared.contracts.tuning_orders import MergeOrder
from tests.workers.forge.quantization.models import saved
from tests.workers.forge.tuning.given import Tuned, order, run, weights
from workers.forge.refusing import Refused
from workers.forge.telling import Tell
from workers.forge.tuning.merging import merge

CHAT = [{"role": "user", "content": "path"}]


def logits(model: Any, folder: Path) -> torch.Tensor:
    ids = AutoTokenizer.from_pretrained(folder).apply_chat_template(CHAT, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        found: torch.Tensor = model(ids["input_ids"]).logits.float()
    return found


def loaded(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto")


@pytest.fixture(scope="module")
def adapted(tiny: Path, examples: Data, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    return run(order(tiny, examples, "rslora"), tmp_path_factory.mktemp("adapted") / "out")


class TestAdapter:
    def test_it_learns(self, adapted: Tuned) -> None:
        losses = list(adapted.losses.values())
        assert losses[-1] < losses[0] - 1
        assert (adapted.result.figures.trainable, adapted.result.figures.steps) == (8192, 6)
        assert (adapted.out / "data-report.json").exists()
        assert all((adapted.out / name).read_bytes()[:4] == b"\x89PNG" for name in adapted.result.charts)

    def test_engines_take_it_as_it_is(self, adapted: Tuned, tiny: Path) -> None:
        folder = adapted.out / "model"
        assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
        config = json.loads((folder / "adapter_config.json").read_bytes())
        assert (check_config(config), config["use_rslora"], config["lora_alpha"]) == (4, True, 8)
        assert config["base_model_name_or_path"] == "tiny@1"
        tensors = [Tensor(name, "F32", tuple(each.shape), 0, 0) for name, each in adapted.weights.items()]
        shapes = {name.removesuffix(".weight"): tuple(each.shape) for name, each in weights(tiny).items()}
        check_fit(tensors, rank=4, base=shapes)

    def test_merged_it_computes_what_base_and_adapter_do(self, adapted: Tuned, tiny: Path, tmp_path: Path) -> None:
        given = MergeOrder(
            model=Subject(folder=tiny, name="tiny@1"), adapter=Subject(folder=adapted.out / "model", name="tuned@1")
        )
        result = merge(given, tmp_path, tell=Tell(lambda message: None))
        made = tmp_path / "model"
        assert (result.layers, result.bytes) == (14, sum(path.stat().st_size for path in made.iterdir()))
        assert {each.dtype for each in weights(made).values()} == {torch.bfloat16}
        assert (made / "chat_template.jinja").exists()
        assert json.loads((made / "config.json").read_bytes()) == json.loads((tiny / "config.json").read_bytes())
        by_peft = PeftModel.from_pretrained(loaded(tiny).float(), adapted.out / "model").merge_and_unload()
        for name, each in by_peft.named_parameters():
            assert torch.equal(weights(made)[name], each.to(torch.bfloat16)), name
        assert not torch.equal(logits(loaded(made), tiny), logits(loaded(tiny), tiny))

    def test_an_adapter_of_another_base_is_refused(self, adapted: Tuned, tmp_path: Path) -> None:
        from transformers import LlamaConfig  # noqa: PLC0415 - seconds, elsewhere

        from tests.workers.forge.quantization.models import SHAPE  # noqa: PLC0415

        other = saved(tmp_path / "other", LlamaConfig(**{**SHAPE, "hidden_size": 32}))
        given = MergeOrder(
            model=Subject(folder=other, name="other"), adapter=Subject(folder=adapted.out / "model", name="tuned@1")
        )
        with pytest.raises(Refused) as refused:
            merge(given, tmp_path, tell=Tell(lambda message: None))
        assert refused.value.code == "invalid_adapter"
        assert not (tmp_path / "model").exists()


class TestWhole:
    @pytest.mark.parametrize("method", ["full", "dora"])
    def test_the_result_is_a_model(self, method: str, tiny: Path, examples: Data, tmp_path: Path) -> None:
        tuned = run(order(tiny, examples, method), tmp_path / "out")
        assert min(tuned.losses.values()) < tuned.losses[1] - 1
        made = tuned.out / "model"
        assert {each.dtype for each in tuned.weights.values()} == {torch.bfloat16}
        assert tuned.weights.keys() == weights(tiny).keys()
        changed = [name for name, each in tuned.weights.items() if not torch.equal(each, weights(tiny)[name])]
        assert len(changed) == (len(tuned.weights) if method == "full" else 14)
        assert logits(loaded(made), made).isfinite().all()


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "code"),
        [
            ({"lora": {"target_modules": ["nowhere"]}}, "pattern_matches_nothing"),
            ({"lora": {"target_modules": ["lm_head"]}}, "unsupported_layers"),
            ({"lora": {"target_modules": ["embed_tokens"]}}, "unsupported_layers"),
            ({"training": {"precision": "bf16"}}, "unsupported_precision"),
            ({"training": {"compile": True}}, "invalid_training"),
            ({"training": {"activation_offloading": True}}, "invalid_training"),
        ],
        ids=["no such layer", "head", "embedding", "bf16 on a CPU", "compile", "offloading"],
    )
    def test_what_cannot_be_trained(  # noqa: PLR0917 - fixtures
        self, options: dict[str, Any], code: str, tiny: Path, examples: Data, tmp_path: Path
    ) -> None:
        with pytest.raises(Refused) as refused:
            run(order(tiny, examples, **options), tmp_path / "out")
        assert refused.value.code == code

    def test_compiled_layers_keep_their_activations(self, tiny: Path, examples: Data) -> None:
        with pytest.raises(ValueError, match="leave one of the two to auto"):
            order(tiny, examples, training={"compile": True, "activation_offloading": True})
