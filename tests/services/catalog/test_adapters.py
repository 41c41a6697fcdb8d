"""LoRA adapters: which are served, and whether they fit their base."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.orm import Session

from services.catalog import service
from services.catalog.adapters import InvalidAdapter
from services.catalog.register import Wish, register, register_folder
from services.catalog.rules import ModelInUse
from services.catalog.tensors import UnsafeModel
from services.catalog.tree import FolderTree
from services.inference import service as inference
from shared.contracts.serving import Serving
from shared.contracts.tuning import LARGEST_RANK
from shared.db.models import Model, Tenant
from shared.db.session import Database
from shared.errors import Unprocessable
from shared.ids import new_id
from shared.storage import Store
from tests.services.imports import build


@pytest.fixture
def tenant(database: Database) -> UUID:
    with database.transaction() as session:
        row = Tenant(id=new_id(), name="adapters")
        session.add(row)
    return row.id


@pytest.fixture
def base(database: Database, store: Store, tenant: UUID) -> Model:
    return register_folder(database, store, tenant, name="tiny", folder=build.TINY)


class Registering:
    """Adapters of one base."""

    @pytest.fixture(autouse=True)
    def _given(self, database: Database, store: Store, base: Model) -> None:
        self.database, self.store, self.base = database, store, base

    def register(self, folder: Path, *, name: str = "bot", **wish: Any) -> Model:
        given = Wish(name, **{"base": self.base, **wish})
        tree = FolderTree(folder, self.store, self.base.tenant_id)
        return register(self.database, self.store, self.base.tenant_id, tree, wish=given)


class TestServed(Registering):
    def test_is_a_model_beside_its_base(self, session: Session, tmp_path: Path) -> None:
        made = self.register(build.adapter(tmp_path / "lora", rank=8))
        assert (made.kind, made.base_id, made.context_length) == ("adapter", self.base.id, self.base.context_length)
        served = inference.served(session, made.tenant_id, made.id)
        assert (served.id, served.digest, served.name) == (self.base.id, self.base.digest, "tiny")
        assert served.adapter is not None
        assert (served.adapter.digest, served.adapter.name, served.adapter.rank) == (made.digest, "bot", 8)
        assert served.adapter.manifest.digest == made.digest

    def test_requests_call_it_by_its_own_digest(self, session: Session, tmp_path: Path) -> None:
        made = self.register(build.adapter(tmp_path / "lora"))
        facts = inference.model_facts(session, made.tenant_id, "bot")
        assert (facts.kind, facts.base_id, facts.digest) == ("adapter", self.base.id, self.base.digest)
        assert (facts.served_as, facts.adapter_digest) == (made.digest, made.digest)
        assert facts.needs(100) == inference.model_facts(session, made.tenant_id, "tiny").needs(100)

    def test_the_same_files_for_another_base_are_another_version(self, tmp_path: Path) -> None:
        folder = build.adapter(tmp_path / "lora")
        first, again = self.register(folder), self.register(folder)
        twin = build.tiny(tmp_path / "twin")
        (twin / "README.md").write_text("# twin")
        self.base = register_folder(self.database, self.store, self.base.tenant_id, name="twin", folder=twin)
        other = self.register(folder)
        assert (first.id, other.version) == (again.id, 2)

    def test_its_base_cannot_be_deleted(self, session: Session, tmp_path: Path) -> None:
        self.register(build.adapter(tmp_path / "lora"))
        with pytest.raises(ModelInUse, match="by adapters"):
            service.delete(session, self.base.tenant_id, "tiny")


class TestRefused(Registering):
    @pytest.mark.parametrize(
        ("config", "reason"),
        [
            ({"peft_type": "IA3"}, "LORA"),
            ({"r": 0}, "r is not"),
            ({"r": LARGEST_RANK + 1}, "r is not"),
            ({"r": "8"}, "r is not"),
            ({"lora_alpha": None}, "lora_alpha"),
            ({"use_dora": True}, "use_dora"),
            ({"bias": "all"}, "bias"),
            ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
            ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
            ({"target_parameters": ["experts.w1"]}, "target_parameters"),
            ({"init_lora_weights": "pissa_niter_16"}, "changes the base"),
        ],
    )
    def test_features_that_engines_lack(self, tmp_path: Path, config: dict[str, Any], reason: str) -> None:
        with pytest.raises(InvalidAdapter, match=reason) as refused:
            self.register(build.adapter(tmp_path / "lora", **config))
        assert (refused.value.status, refused.value.param) == (422, "adapter_config.json")

    def test_a_size_that_misfits_names_its_tensor(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidAdapter, match=r"layers\.0\.self_attn\.q_proj\.lora_B\.weight has shape") as refused:
            self.register(build.adapter(tmp_path / "lora", out=2))
        assert refused.value.param == "adapter_model.safetensors"

    def test_a_module_that_the_base_lacks(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidAdapter, match=r"no matrix model\.layers\.0\.self_attn\.qkv_proj\.weight"):
            self.register(build.adapter(tmp_path / "lora", modules=("qkv_proj",)))

    def test_half_a_pair(self, tmp_path: Path) -> None:
        folder = build.adapter(tmp_path / "lora")
        hidden = json.loads((build.TINY / "config.json").read_text())["hidden_size"]
        name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
        (folder / "adapter_model.safetensors").write_bytes(build.safetensors({name: (4, hidden)}))
        with pytest.raises(InvalidAdapter, match="alone"):
            self.register(folder)

    def test_other_tensors(self, tmp_path: Path) -> None:
        folder = build.adapter(tmp_path / "lora")
        (folder / "adapter_model.safetensors").write_bytes(build.safetensors({"lm_head.weight": (4, 4)}))
        with pytest.raises(InvalidAdapter, match=r"lm_head\.weight is no"):
            self.register(folder)

    def test_pickled_weights(self, tmp_path: Path) -> None:
        folder = build.adapter(tmp_path / "lora")
        (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
        with pytest.raises(UnsafeModel, match=r"adapter_model\.bin"):
            self.register(folder)

    def test_without_a_base_and_a_base_without_an_adapter(self, tmp_path: Path) -> None:
        with pytest.raises(Unprocessable, match="needs base_model"):
            self.register(build.adapter(tmp_path / "lora"), base=None)
        with pytest.raises(Unprocessable, match="no adapter"):
            self.register(build.tiny(tmp_path / "model"))

    def test_options_of_its_own(self, tmp_path: Path) -> None:
        with pytest.raises(Unprocessable, match="base's engine"):
            self.register(build.adapter(tmp_path / "lora"), serving=Serving(max_in_flight=2))
