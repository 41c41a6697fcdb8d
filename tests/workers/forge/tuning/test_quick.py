"""What is computed in fewer passes is what PEFT and torch compute."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from workers.forge.tuning import quick_head, quick_lora

CONFIG = LlamaConfig(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=40,
    tie_word_embeddings=False,
)
LINEARS = 7 * 2
IDS_BT = torch.arange(3 * 11).reshape(3, 11) % 40


def adapted(**options: Any) -> Any:
    torch.manual_seed(0)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", **options)
    model = get_peft_model(LlamaForCausalLM(CONFIG), lora)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zeros at first: nothing would come of A
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: each.grad for name, each in model.named_parameters() if each.grad is not None}


def labels() -> torch.Tensor:
    return torch.where(IDS_BT % 5 == 0, quick_head.IGNORED, IDS_BT)


class TestQuickLora:
    def test_loss_and_gradients_are_pefts(self) -> None:
        found = []
        for quick in (False, True):
            model = adapted()
            assert not quick or quick_lora.quicken(model) == LINEARS
            loss = model(input_ids=IDS_BT, labels=labels()).loss
            loss.backward()
            found.append((loss, gradients(model)))
        (loss, wanted), (quick_loss, given) = found
        torch.testing.assert_close(quick_loss, loss)
        assert given.keys() == wanted.keys()
        assert len(given) == 2 * LINEARS
        for name, gradient in wanted.items():
            torch.testing.assert_close(given[name], gradient, rtol=1e-4, atol=1e-6)

    def test_input_that_wants_a_gradient_gets_pefts(self) -> None:
        x = torch.randn(5, 32, requires_grad=True)
        found = []
        for quick in (False, True):
            model = adapted()
            assert not quick or quick_lora.quicken(model) == LINEARS
            layer = model.get_base_model().model.layers[0].mlp.gate_proj
            found.append(torch.autograd.grad(layer(x).square().sum(), x)[0])
        torch.testing.assert_close(found[1], found[0])

    def test_adapter_in_fp32_is_used_beside_a_base_in_bf16(self) -> None:
        model = adapted().bfloat16()
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        quick_lora.quicken(model)
        model(input_ids=IDS_BT, labels=labels()).loss.backward()
        assert {each.dtype for each in gradients(model).values()} == {torch.float32}

    def test_names_and_merging_stay(self) -> None:
        model = adapted()
        names = list(model.state_dict())
        logits = model(input_ids=IDS_BT).logits
        quick_lora.quicken(model)
        assert list(model.state_dict()) == names
        with model.disable_adapter():
            assert not torch.allclose(model(input_ids=IDS_BT).logits, logits, atol=1e-3)
        merged = model.merge_and_unload()
        torch.testing.assert_close(merged(input_ids=IDS_BT).logits, logits, rtol=1e-4, atol=1e-5)

    def test_dropout_is_pefts(self) -> None:
        found = []
        for quick in (False, True):
            model = adapted(lora_dropout=0.3).train()
            assert not quick or quick_lora.quicken(model) == LINEARS
            torch.manual_seed(1)
            model(input_ids=IDS_BT, labels=labels()).loss.backward()
            found.append(gradients(model))
        for name, gradient in found[0].items():
            torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-6)

    def test_other_adapters_are_left_alone(self) -> None:
        assert quick_lora.quicken(adapted(use_dora=True)) == 0


class TestQuickHead:
    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    def test_loss_and_gradients_are_torchs(self, smoothing: float, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(quick_head, "TILE", 8)  # 33 tokens: the last tile has one
        model = adapted()
        logits = model(input_ids=IDS_BT).logits[:, :-1].flatten(0, 1)
        wanted_labels = labels()[:, 1:].flatten()
        loss = functional.cross_entropy(logits, wanted_labels, reduction="sum", label_smoothing=smoothing)
        (loss / 7).backward()
        wanted = gradients(model)
        model.zero_grad()

        assert quick_head.attach(model.get_base_model())
        found = model(input_ids=IDS_BT, labels=labels(), quick_head=True, smoothing=smoothing)
        (found.nll / 7).backward()

        torch.testing.assert_close(found.nll, loss)
        assert int(found.correct) == int((logits.argmax(-1) == wanted_labels).sum())
        for name, gradient in wanted.items():
            torch.testing.assert_close(gradients(model)[name], gradient, rtol=1e-4, atol=1e-6)

    def test_without_gradients_it_judges(self) -> None:
        model = adapted()
        loss = model(input_ids=IDS_BT, labels=labels()).loss
        assert quick_head.attach(model.get_base_model())
        with torch.no_grad():
            found = model(input_ids=IDS_BT, labels=labels(), quick_head=True)
        counted = int((labels()[:, 1:] != quick_head.IGNORED).sum())
        torch.testing.assert_close(found.nll / counted, loss)
        assert model(input_ids=IDS_BT).logits.shape == (3, 11, 40)  # it still answers with logits

    def test_head_that_is_trained_or_scaled_keeps_its_own(self) -> None:
        assert not quick_head.attach(LlamaForCausalLM(CONFIG))
        model = adapted().get_base_model()
        model.config.logit_scale = 0.5
        assert not quick_head.attach(model)
        del model.config.logit_scale
