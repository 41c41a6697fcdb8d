"""A look at a model's layers: patterns that mean nothing and groups that do not divide are refused by name."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from services.catalog import service as catalog
from services.compression.examining import concerns, examine
from shared.contracts.jobs import JobRequest
from shared.db.models import Tenant
from shared.db.session import Database
from shared.errors import UnknownModel, Unprocessable, ValidationFailed
from shared.ids import new_id
from shared.storage import Store
from tests.services.imports.build import TINY, safetensors

HIDDEN, NARROW, VOCABULARY = 64, 96, 32
CONFIG = {"max_position_embeddings": 128, "hidden_size": HIDDEN, "vocab_size": VOCABULARY}

Look = Callable[..., None]


def layers(count: int = 2, *, columns: int = NARROW) -> dict[str, tuple[int, ...]]:
    """A model whose `down_proj` has other columns than its `q_proj`."""
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    for layer in range(count):
        found[f"model.layers.{layer}.self_attn.q_proj.weight"] = (HIDDEN, HIDDEN)
        found[f"model.layers.{layer}.mlp.down_proj.weight"] = (HIDDEN, columns)
        found[f"model.layers.{layer}.input_layernorm.weight"] = (HIDDEN,)
    return found


@pytest.fixture(scope="module")
def tenant(modules_database: Database) -> UUID:
    with modules_database.transaction() as session:
        row = Tenant(id=new_id(), name="examining")
        session.add(row)
    return row.id


@pytest.fixture
def register(modules_database: Database, store: Store, tenant: UUID, tmp_path: Path) -> Callable[..., str]:
    def made(tensors: Mapping[str, tuple[int, ...]], **config: Any) -> str:
        (tmp_path / "config.json").write_text(json.dumps(CONFIG | config))
        (tmp_path / "tokenizer.json").write_text("{}")
        (tmp_path / "model.safetensors").write_bytes(safetensors(tensors))
        name = f"made-{new_id().hex}"
        catalog.register_folder(modules_database, store, tenant, name=name, folder=tmp_path)
        return name

    return made


@pytest.fixture
def look(modules_database: Database, store: Store, tenant: UUID) -> Look:
    def at(model: str, **spec: Any) -> None:
        request = JobRequest(kind="quantization", spec={"model": model, "scheme": "w8a16", **spec})
        examine(request, database=modules_database, store=store, tenant_id=tenant)

    return at


@pytest.fixture
def wrong(look: Look) -> Callable[..., list[tuple[str, str, str]]]:
    def fields(model: str, **spec: Any) -> list[tuple[str, str, str]]:
        with pytest.raises(ValidationFailed) as error:
            look(model, **spec)
        return [(field.param, field.code, field.message) for field in error.value.errors]

    return fields


class TestPatterns:
    def test_those_that_mean_a_layer_are_fine(self, look: Look, register) -> None:
        written = [
            "lm_head",
            "q_proj",
            "model.layers.1.mlp.down_proj",
            r"re:model\.layers\.[01]\.mlp",
            "re:.*down_proj$",
        ]
        override = {"layers": ["layers.0.mlp.down_proj"], "scheme": "int8-dynamic"}
        look(register(layers()), ignore=written, overrides=[override])

    def test_those_that_mean_none_are_named(self, wrong, register) -> None:
        override = {"layers": ["down_proj", "re:layers"], "scheme": "int8-dynamic"}
        found = wrong(register(layers()), ignore=["q_proj", "proj", "embed_tokens", "norm"], overrides=[override])
        assert [field[:2] for field in found] == [
            ("spec.ignore.1", "pattern_matches_nothing"),
            ("spec.ignore.2", "pattern_matches_nothing"),
            ("spec.ignore.3", "pattern_matches_nothing"),
            ("spec.overrides.0.layers.1", "pattern_matches_nothing"),
        ]
        assert "'proj' means none of model.layers.0.self_attn.q_proj, model.layers.0.mlp.down_proj" in found[0][2]

    @pytest.mark.parametrize("pattern", ["re:(", "re:a)|(b", "re:(?=x)", r"re:(a)\1"])
    def test_those_that_cannot_be_used_are_named(self, wrong, register, pattern: str) -> None:
        ((param, code, _),) = wrong(register(layers()), ignore=[pattern])
        assert (param, code) == ("spec.ignore.0", "bad_pattern")

    def test_one_that_would_take_years_takes_no_time(self, wrong, register) -> None:
        ((param, _, _),) = wrong(register(layers()), ignore=["re:(.*.*.*)*(.*)*x"])
        assert param == "spec.ignore.0"

    def test_a_head_that_shares_its_weights_is_a_layer(self, look: Look, wrong, register) -> None:
        look(register(layers(), tie_word_embeddings=True), ignore=["re:lm_head"])
        assert wrong(register(layers(), tie_word_embeddings=False), ignore=["re:lm_head"])

    def test_the_usual_one_need_not_mean_a_layer(self, look: Look, register) -> None:
        look(register(layers(), tie_word_embeddings=False))
        look(register(layers(), tie_word_embeddings=False), ignore=["lm_head"])


class TestGroups:
    def test_that_do_not_divide_are_refused_with_the_layers(self, wrong, register) -> None:
        ((param, code, message),) = wrong(register(layers(12)), scheme="w4a16", group_size=64)
        assert (param, code) == ("spec.group_size", "group_size_does_not_divide")
        assert "model.layers.7.mlp.down_proj (96)" in message
        assert "model.layers.8.mlp" not in message
        assert message.endswith("and 4 more; 16, 32 would divide all")

    def test_the_usual_size_is_refused_too(self, wrong, register) -> None:
        ((_, _, message),) = wrong(register(layers(1)), scheme="w4a16")
        assert message.startswith("groups of 128 do not divide")

    def test_where_no_size_divides(self, wrong, register) -> None:
        ((param, _, message),) = wrong(register(layers(1, columns=7)), scheme="nvfp4")
        assert param == "spec.scheme"
        assert message.endswith("no size that is in use would divide all")

    def test_that_divide_are_fine(self, look: Look, register) -> None:
        name = register(layers())
        look(name, scheme="w4a16", group_size=32)
        look(name, scheme="nvfp4")
        look(name, scheme="w8a16")

    def test_layers_that_are_left_alone_are_not_counted(self, look: Look, register) -> None:
        name = register(layers())
        look(name, scheme="w4a16", group_size=64, ignore=["lm_head", "down_proj"])
        override = {"layers": ["down_proj"], "scheme": "int8-dynamic"}
        look(name, scheme="w4a16", group_size=64, overrides=[override])

    def test_those_of_overrides_are_counted(self, wrong, register) -> None:
        override = {"layers": ["down_proj"], "scheme": "w4a16", "group_size": 64}
        ((param, _, message),) = wrong(register(layers(1)), overrides=[override])
        assert param == "spec.overrides.0.group_size"
        assert "down_proj (96)" in message

    def test_a_shared_head_has_columns(self, wrong, register) -> None:
        name = register(
            layers(1, columns=128) | {"model.embed_tokens.weight": (VOCABULARY, 65)}, tie_word_embeddings=True
        )
        ((_, _, message),) = wrong(name, scheme="w4a16", group_size=64, ignore=[])
        assert "lm_head (65)" in message


class TestOthers:
    def test_names_that_do_not_tell_the_modules_are_left_to_the_forge(self, look: Look, register) -> None:
        for name in ("transformer.h.0.mlp.c_fc", "model.layers.0.block_sparse_moe.experts.0.w1"):
            look(register({f"{name}.weight": (HIDDEN, 7)}), scheme="w4a16", ignore=["nothing"])

    def test_what_quantizes_nothing_is_not_looked_at(self, look: Look, register) -> None:
        look(register(layers()), scheme="fp16", ignore=["nothing"])

    def test_a_wrong_spec_is_for_the_submit(self, look: Look) -> None:
        look("none", scheme="int5")

    def test_an_unknown_model(self, look: Look) -> None:
        with pytest.raises(UnknownModel) as error:
            look("none")
        assert error.value.param == "spec.model"

    def test_a_quantized_one(self, look: Look, register) -> None:
        with pytest.raises(Unprocessable) as error:
            look(register(layers(), quantization_config={"quant_method": "fp8"}))
        assert error.value.param == "spec.model"

    def test_jobs_behind_it_are_looked_at(self, modules_database: Database, store: Store, tenant: UUID) -> None:
        later = JobRequest(kind="quantization", spec={"model": "none", "scheme": "int8"})
        first = JobRequest(kind="calibration", spec={"model": "none"}, on_success=[later])
        assert concerns(first)
        assert not concerns(JobRequest(kind="calibration", spec={}))
        with pytest.raises(UnknownModel) as error:
            examine(first, database=modules_database, store=store, tenant_id=tenant)
        assert error.value.param == "on_success.0.spec.model"

    def test_the_packaged_model(
        self, modules_database: Database, store: Store, *, tenant: UUID, look: Look, wrong
    ) -> None:
        catalog.register_folder(modules_database, store, tenant, name="yard-tiny", folder=TINY)
        for scheme in ("int8", "w4a16", "nvfp4", "fp8-kv"):
            look("yard-tiny", scheme=scheme, ignore=["lm_head", "re:model[.]layers[.]2[.]"])
        ((_, _, message),) = wrong("yard-tiny", scheme="w4a16", group_size=256)
        assert message == (
            "groups of 256 do not divide the columns of model.layers.0.mlp.down_proj (640),"
            " model.layers.1.mlp.down_proj (640), model.layers.2.mlp.down_proj (640); 16, 32, 64, 128 would divide all"
        )
