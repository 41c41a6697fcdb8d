from pathlib import Path

import pytest
from transformers import LlamaConfig, MixtralConfig, T5Config

from tests.workers.forge.evaluation.models import YARD_TINY
from workers.forge.evaluation.architecture import architecture
from workers.forge.refusing import Refused


class TestArchitecture:
    def test_yard_tiny_by_hand(self) -> None:
        attention = 256 * 256 + 2 * 256 * 128 + 256 * 256
        layer = attention + 3 * 256 * 640
        head = 4096 * 256  # is the embedding again
        norms = 3 * 2 * 256 + 256
        assert architecture(YARD_TINY) == (3 * layer + head + norms, 2 * (3 * layer + head))

    def test_a_compressed_checkpoint_is_counted_unpacked(self, folders: dict[str, Path]) -> None:
        assert architecture(folders["w8a8"]) == architecture(folders["base"])

    def test_an_embedding_of_its_own_costs_parameters_alone(self, tmp_path: Path) -> None:
        shape = {"vocab_size": 100, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1}
        shape |= {"num_attention_heads": 2, "num_key_value_heads": 2}
        counts = []
        for tied in (True, False):
            LlamaConfig(**shape, tie_word_embeddings=tied).save_pretrained(tmp_path)
            counts.append(architecture(tmp_path))
        assert counts[1].parameters - counts[0].parameters == 100 * 8
        assert counts[1].flops_per_token == counts[0].flops_per_token

    @pytest.mark.parametrize(("active", "experts"), [(2, 8), (1, 4)])
    def test_a_token_goes_through_its_experts_alone(self, tmp_path: Path, active: int, experts: int) -> None:
        MixtralConfig(
            vocab_size=100,
            hidden_size=8,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            num_local_experts=experts,
            num_experts_per_tok=active,
        ).save_pretrained(tmp_path)
        expert = 3 * 8 * 16
        attention = 8 * 8 + 2 * 8 * 4 + 8 * 8
        router = experts * 8
        found = architecture(tmp_path)
        assert found.flops_per_token == 2 * (attention + router + active * expert + 100 * 8)
        assert found.parameters == attention + router + experts * expert + 2 * 100 * 8 + 3 * 8

    def test_what_does_not_speak_is_refused(self, tmp_path: Path) -> None:
        T5Config().save_pretrained(tmp_path)
        with pytest.raises(Refused) as refused:
            architecture(tmp_path)
        assert refused.value.code == "unsupported_model"
