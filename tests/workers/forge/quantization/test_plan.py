"""Patterns, overrides and groups: which layer gets what, in the plan and in config.json."""

import re
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from shared.contracts.compression import Scheme
from tests.workers.forge.quantization.models import make, order
from workers.forge.quantization.layers import Plan, Setting, matches, plan
from workers.forge.refusing import Refused

W4 = Setting(Scheme.W4A16, 32)
W8 = Setting(Scheme.W8A16, None)


def planned(model: Any, **options: Any) -> Plan:
    return plan(order(Path("/nowhere"), "w4a16", **options), model)


def override(*layers: str, scheme: str = "w8a16", **more: Any) -> dict[str, Any]:
    return {"layers": list(layers), "scheme": scheme, **more}


class TestMatches:
    @pytest.mark.parametrize(
        ("pattern", "name", "expected"),
        [
            ("lm_head", "lm_head", True),
            ("lm_head", "model.lm_head", True),
            ("head", "lm_head", False),
            ("mlp.down_proj", "model.layers.0.mlp.down_proj", True),
            ("re:.*layers.0.*", "model.layers.0.mlp.down_proj", True),
            ("re:layers", "model.layers.0.mlp.down_proj", False),  # from the beginning, as compressed-tensors does
        ],
    )
    def test_it_is_a_name_its_end_or_an_expression(self, pattern: str, name: str, expected: bool) -> None:
        assert matches(pattern, name) is expected


class TestPlan:
    def test_the_output_layer_has_one_name_for_all(self, original: Any) -> None:
        class Other(nn.Module):  # type: ignore[misc]  # torch has no types here
            def __init__(self) -> None:
                super().__init__()
                self.dense, self.embed_out = nn.Linear(64, 64), nn.Linear(64, 128)

            def get_output_embeddings(self) -> nn.Linear:
                return self.embed_out

        assert planned(original).kept == ("lm_head",)
        assert planned(Other()).kept == ("embed_out",)

    def test_ignore_goes_before_overrides_and_the_first_override_before_the_others(self, original: Any) -> None:
        found = planned(
            original,
            ignore=["lm_head", "model.layers.1.mlp.down_proj"],
            overrides=[override("o_proj"), override("re:.*(o|down)_proj", scheme="fp8-dynamic")],
        )
        assert found.quantized["model.layers.0.self_attn.o_proj"] == W8
        assert found.quantized["model.layers.0.mlp.down_proj"] == Setting(Scheme.FP8_DYNAMIC, None)
        assert found.kept == ("model.layers.1.mlp.down_proj", "lm_head")

    def test_layers_that_engines_fuse_stay_alike(self, original: Any) -> None:
        found = planned(original, ignore=["lm_head", "layers.0.self_attn.k_proj"], overrides=[override("up_proj")])
        attention = [f"model.layers.0.self_attn.{part}_proj" for part in "qkv"]
        assert [name for name in found.kept if name != "lm_head"] == attention
        assert found.quantized["model.layers.1.mlp.gate_proj"] == W8
        assert found.quantized["model.layers.1.self_attn.q_proj"] == W4
        assert set(found.widened) == {attention[0], attention[2], *(f"model.layers.{n}.mlp.gate_proj" for n in (0, 1))}

    def test_routers_stay_as_they_are(self) -> None:
        class Mixture(nn.Module):  # type: ignore[misc]  # torch has no types here
            def __init__(self) -> None:
                super().__init__()
                self.mlp = nn.ModuleDict({"gate": nn.Linear(64, 4), "gate_proj": nn.Linear(64, 64)})

            def get_output_embeddings(self) -> None:
                return None

        assert planned(Mixture()).kept == ("mlp.gate",)

    @pytest.mark.parametrize(
        ("options", "code", "named"),
        [
            ({"ignore": ["lm_head", "c_proj"]}, "pattern_matches_nothing", "c_proj"),
            ({"ignore": ["re:model.("]}, "pattern_matches_nothing", "re:model.("),
            ({"overrides": [override("attention")]}, "pattern_matches_nothing", "attention"),
            (
                {"group_size": 128},
                "group_size_does_not_divide",
                "model.layers.1.mlp.gate_proj (64 columns, groups of 128)",
            ),
            ({"ignore": ["re:.*"]}, "unsupported_model", "of 15"),
        ],
        ids=["ignore", "expression", "override", "columns", "nothing left"],
    )
    def test_it_refuses(self, options: dict[str, Any], code: str, named: str, original: Any) -> None:
        with pytest.raises(Refused, match=re.escape(named)) as refused:
            planned(original, **options)
        assert refused.value.code == code


class TestConfig:
    def test_groups_land_in_config_json(self, tiny: Path, tmp_path: Path) -> None:
        made = make(
            order(
                tiny,
                "w4a16",
                ignore=["lm_head", "re:.*layers.1.self_attn.*"],
                overrides=[override("down_proj"), override("layers.0.self_attn.o_proj", scheme="w4a16", group_size=16)],
            ),
            tmp_path,
        )
        groups = {tuple(group["targets"]): group["weights"] for group in made.groups.values()}
        down = tuple(f"model.layers.{n}.mlp.down_proj" for n in (0, 1))
        assert (groups["Linear",]["num_bits"], groups["Linear",]["group_size"]) == (4, 32)
        assert (groups[down]["num_bits"], groups[down]["strategy"]) == (8, "channel")
        assert groups["model.layers.0.self_attn.o_proj",]["group_size"] == 16
        kept = [f"model.layers.1.self_attn.{part}_proj" for part in "qkvo"]
        assert sorted(made.config["quantization_config"]["ignore"]) == sorted([*kept, "lm_head"])
        assert made.result.kept == [*kept, "lm_head"]
