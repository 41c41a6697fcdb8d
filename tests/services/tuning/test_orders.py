"""What forges of tuning and merging are told of a job that was claimed."""

from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy.orm import Session

from services.compression import library
from services.files import service as files
from services.tuning import finish_repository, orders
from shared.contracts.tuning import Method, Relief
from shared.db.models import Model
from shared.storage import Blob
from tests.services.compression.build import claimed, source, upload
from tests.services.jobs import build
from tests.services.tuning.made import adapter, base

MODEL, ADAPTER, DATA = Path("/m/1"), Path("/m/2"), Path("/inputs/data")


@pytest.fixture
def session(uncommitted: Session) -> Session:
    return uncommitted


@pytest.fixture
def tenant(session: Session) -> UUID:
    return build.tenant(session)


@pytest.fixture
def tiny(session: Session, tenant: UUID) -> Model:
    return base(session, tenant)


class TestMaterial:
    def test_holds_files_that_are_deleted_since(self, session: Session, tenant: UUID, tiny: Model) -> None:
        file = upload(session, tenant, sha256="ef" * 32, filename="chats.jsonl", purpose="fine-tune")
        claim = claimed(session, tenant, "tuning", data=[source(file)], name="mine")
        files.delete(session, tenant, file)
        material = orders.read(session, claim)
        assert orders.wanted(material) == {f"{file}.jsonl": Blob("ef" * 32, 400)}
        assert [(each.name, each.sha256) for each in orders.origins(material)] == [(f"chats.jsonl ({file})", "ef" * 32)]
        assert (material.name, material.row.id, material.base.digest) == ("mine", tiny.id, tiny.digest)
        assert (material.adapter, material.base.adapter) == (None, None)

    @pytest.mark.usefixtures("tiny")
    @pytest.mark.parametrize(("method", "adapts"), [("lora", True), ("rslora", True), ("dora", False), ("full", False)])
    def test_knows_what_comes_of_it(self, session: Session, tenant: UUID, method: str, *, adapts: bool) -> None:
        claim = claimed(session, tenant, "tuning", data=[{"type": "library"}], method=method)
        assert orders.read(session, claim).adapts is adapts

    @pytest.mark.usefixtures("tiny")
    def test_remembers_what_helped_an_earlier_attempt(self, session: Session, tenant: UUID) -> None:
        claim = claimed(session, tenant, "tuning", data=[{"type": "library"}])
        relief = Relief(halvings=2, gradient_checkpointing=True)
        finish_repository.relieve(session, claim.job_id, relief.model_dump(mode="json"))
        material = orders.read(session, claim)
        assert material.relief == relief
        assert orders.tune_order(material, model=MODEL, data=DATA).relief == relief

    def test_of_a_merge_holds_both(self, session: Session, tenant: UUID, tiny: Model) -> None:
        own = adapter(session, tenant, tiny, name="mine")
        material = orders.read(session, claimed(session, tenant, "merge", model="mine"))
        assert material.adapter is not None
        assert (material.row.id, material.adapter.id, material.name) == (tiny.id, own.id, "mine-merged")
        assert material.base.adapter is not None
        assert (material.base.digest, material.base.adapter.digest) == (tiny.digest, own.digest)
        assert (material.adapts, orders.origins(material), orders.wanted(material)) == (False, [], {})


@pytest.mark.usefixtures("tiny")
class TestTuneOrder:
    def test_says_what_is_trained_on_what(self, session: Session, tenant: UUID) -> None:
        mine, looked_at, like = (upload(session, tenant, filename=f"{name}.jsonl") for name in ("a", "b", "c"))
        spec = {
            "data": [source(mine, weight=3), {"type": "library", "weight": 2}],
            "validation": [source(looked_at)],
            "preparation": {"reference": [source(like)], "share": 0.5},
            "method": "rslora",
            "name": "mine",
        }
        material = orders.read(session, claimed(session, tenant, "tuning", **spec))
        order = orders.tune_order(material, model=MODEL, data=DATA)
        assert (order.model.folder, order.model.name, order.name) == (MODEL, "tiny@1", "mine")
        assert (order.method, order.context_length) == (Method.RSLORA, material.base.context_length)
        assert order.lora is not None
        assert order.lora.alpha == 32
        assert [(each.path.name, each.weight) for each in order.data] == [(f"{mine}.jsonl", 3), ("library.jsonl", 2)]
        assert [each.path for each in order.validation] == [DATA / f"{looked_at}.jsonl"]
        assert [each.path for each in order.reference] == [DATA / f"{like}.jsonl"]

    def test_holds_library_text_apart_that_is_looked_at(self, session: Session, tenant: UUID, tmp_path: Path) -> None:
        spec = {"data": [{"type": "library"}], "validation": [{"type": "library"}]}
        material = orders.read(session, claimed(session, tenant, "tuning", **spec))
        order = orders.tune_order(material, model=MODEL, data=tmp_path)
        laid = orders.lay_library(material, tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {order.data[0].path.name, order.validation[0].path.name}
        assert [text.sha256 for text in laid.values()] == [
            library.described(held_out=False).sha256,
            library.described(held_out=True).sha256,
        ]
        assert orders.validation_origins(material)[0].name == library.named(held_out=True)

    def test_of_all_weights_has_no_adapters_shape(self, session: Session, tenant: UUID) -> None:
        claim = claimed(session, tenant, "tuning", data=[{"type": "library"}], method="full")
        order = orders.tune_order(orders.read(session, claim), model=MODEL, data=DATA)
        assert (order.lora, order.training.learning_rate) == (None, 2e-5)


class TestMergeOrder:
    def test_names_both(self, session: Session, tenant: UUID, tiny: Model) -> None:
        adapter(session, tenant, tiny, name="mine")
        material = orders.read(session, claimed(session, tenant, "merge", model="mine"))
        order = orders.merge_order(material, model=MODEL, adapter=ADAPTER)
        assert (order.model.folder, order.model.name) == (MODEL, "tiny@1")
        assert (order.adapter.folder, order.adapter.name) == (ADAPTER, "mine@1")
