"""What the end of a tuning or a merge leaves, and which of its checkpoints stay."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from services.catalog import aliases
from services.catalog import service as catalog
from services.catalog.register import Staged, Wish, stage
from services.catalog.rules import NameTaken
from services.catalog.tree import FolderTree
from services.files import service as files
from services.jobs import lifecycle
from services.jobs.types import Claim, Saved
from services.tuning import finishing, orders, repository, results, retention
from services.tuning.finishing import Tuned
from services.tuning.orders import Material
from shared.db.models import Checkpoint, Job, Model
from shared.ids import new_id
from shared.storage import Blob, Store
from tests.services.compression.build import artifact, claimed, end, source, upload
from tests.services.imports.build import safetensors
from tests.services.jobs import build
from tests.services.tuning.came import SHA, figures
from tests.services.tuning.made import adapter, base

CSV = Blob("cd" * 32, 123)
Whole = Callable[[Wish], Staged]


@pytest.fixture
def session(uncommitted: Session) -> Session:
    return uncommitted


@pytest.fixture
def tenant(session: Session) -> UUID:
    return build.tenant(session)


@pytest.fixture
def tiny(session: Session, tenant: UUID) -> Model:
    return base(session, tenant)


@pytest.fixture
def whole(store: Store, tenant: UUID, tmp_path: Path) -> Whole:
    """A whole model that a forge would have written, kept in the store."""

    def staged(wish: Wish) -> Staged:
        (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 128}))
        (tmp_path / "tokenizer.json").write_text("{}")
        (tmp_path / "README.md").write_text(str(new_id()))
        (tmp_path / "model.safetensors").write_bytes(safetensors({"a.weight": (4, 4)}))
        return stage(store, tenant, FolderTree(tmp_path, store, tenant), wish=wish)

    return staged


def tuned(session: Session, claim: Claim, **fields: Any) -> Tuned:
    return Tuned(figures(**fields), artifact=artifact(session, claim, "model"), metrics=CSV)


@pytest.mark.usefixtures("tiny")
class TestTuning:
    def test_is_a_version_with_its_lineage(self, session: Session, tenant: UUID, tiny: Model, whole: Whole) -> None:
        file = upload(session, tenant, filename="mine.jsonl", sha256="ef" * 32)
        spec = {"data": [source(file)], "method": "full", "name": "mine", "alias": "prod", "serving": {"pinned": True}}
        claim = claimed(session, tenant, "tuning", **spec)
        material = orders.read(session, claim)
        wish = finishing.wish(material, finishing.lineage(material, figures=figures()))
        made = tuned(session, claim)
        staged = whole(wish)
        model = finishing.keep(session, claim, material=material, staged=staged, tuned=made)
        end(session, claim)

        assert (model.name, model.version, model.kind, model.serving) == ("mine", 1, "base", {"pinned": True})
        assert catalog.get(session, tenant, "prod") is model
        told = model.source
        assert told["base"] == {"id": str(tiny.id), "name": "tiny", "version": 1, "digest": tiny.digest}
        assert (told["type"], told["job_id"], told["method"]) == ("tuning", str(claim.job_id), "full")
        assert (told["data_sha256"], told["figures"]["validation_loss"]) == (SHA, 1.5)
        assert told["hyperparameters"]["learning_rate"] == 2e-5
        assert "gradient_checkpointing" not in told["hyperparameters"]
        assert [(each["name"], each["sha256"]) for each in told["data"]] == [(f"mine.jsonl ({file})", "ef" * 32)]

        row = repository.job(session, tenant, claim.job_id)
        assert row is not None
        assert (row.result_model_id, row.artifact_id, row.trained_tokens) == (model.id, made.artifact.id, 120_000)
        assert row.figures == figures().model_dump(mode="json")
        assert results.made(session, tenant, claim.job_id) == model.id
        (listed,) = files.page(session, tenant, purpose="fine-tune-results")
        assert (listed.id, listed.filename, listed.sha256) == (row.result_file_id, "step_metrics.csv", CSV.sha256)

    def test_of_an_adapter_asks_for_its_base(self, session: Session, tenant: UUID, tiny: Model) -> None:
        spec = {"data": [{"type": "library"}], "name": "mine", "serve": False}
        material = orders.read(session, claimed(session, tenant, "tuning", **spec))
        wish = finishing.wish(material, finishing.lineage(material))
        assert wish.base is not None
        assert (wish.name, wish.base.id, wish.source["serve"] if wish.source else None) == ("mine", tiny.id, False)
        assert wish.source is not None
        assert wish.source["hyperparameters"]["lora"]["rank"] == 16

    def test_of_a_checkpoint_has_a_name_of_its_own(self, session: Session, tenant: UUID, tiny: Model) -> None:
        spec = {"data": [{"type": "library"}], "name": "mine", "alias": "prod"}
        material = orders.read(session, claimed(session, tenant, "tuning", **spec))
        wish = finishing.checkpoint_wish(material, step=40)
        assert (wish.name, wish.alias) == ("mine:ckpt-step-40", None)
        assert wish.source is not None
        assert (wish.source["step"], wish.source["job_id"]) == (40, str(material.job_id))

    def test_may_be_written_again_after_a_lost_commit(self, session: Session, tenant: UUID, whole: Whole) -> None:
        claim, material, staged = ready(session, tenant, whole)
        with session.begin_nested() as lost:
            finishing.keep(session, claim, material=material, staged=staged, tuned=tuned(session, claim))
            lost.rollback()
        model = finishing.keep(session, claim, material=material, staged=staged, tuned=tuned(session, claim))
        assert model.version == 1
        assert len(files.page(session, tenant, purpose="fine-tune-results")) == 1

    def test_a_name_that_was_taken_meanwhile(self, session: Session, tenant: UUID, tiny: Model, whole: Whole) -> None:
        claim, material, staged = ready(session, tenant, whole)
        aliases.point(session, tenant, "mine", tiny)
        with pytest.raises(NameTaken):
            finishing.keep(session, claim, material=material, staged=staged, tuned=tuned(session, claim))


def ready(session: Session, tenant: UUID, whole: Whole) -> tuple[Claim, Material, Staged]:
    """A tuning of all weights whose result is stored."""
    claim = claimed(session, tenant, "tuning", data=[{"type": "library"}], method="full", name="mine")
    material = orders.read(session, claim)
    return claim, material, whole(finishing.wish(material, finishing.lineage(material)))


class TestMerge:
    def test_is_a_whole_version_that_names_both(
        self, session: Session, tenant: UUID, tiny: Model, whole: Whole
    ) -> None:
        own = adapter(session, tenant, tiny, name="mine")
        claim = claimed(session, tenant, "merge", model="mine")
        material = orders.read(session, claim)
        staged = whole(finishing.wish(material, finishing.lineage(material)))
        named = artifact(session, claim, "model")
        model = finishing.keep_merged(session, claim, staged=staged, artifact=named)
        end(session, claim)
        assert (model.name, model.kind, model.base_id) == ("mine-merged", "base", None)
        assert model.source["adapter"] == {"id": str(own.id), "name": "mine", "version": 1, "digest": own.digest}
        assert (model.source["type"], model.source["base"]["digest"]) == ("merge", tiny.digest)
        row = repository.job(session, tenant, claim.job_id)
        assert row is not None
        assert (row.result_model_id, row.artifact_id, row.figures) == (model.id, named.id, None)


class TestRetention:
    @pytest.mark.parametrize(
        ("kept", "keep", "stay"),
        [
            ("1 2 3", 3, "1 2 3"),
            ("1 2 3 4", 2, "3 4"),
            ("1 2* 3 4", 2, "2 3 4"),
            ("1* 2* 3 4 5", 2, "2 4 5"),
            ("1 2 3! 4", 2, "2 3 4"),
            ("1! 2 3 4", 2, "3 4"),
            ("1 2!", 1, "1 2"),
        ],
        ids=str,
    )
    def test_the_newest_and_the_best_stay(self, kept: str, keep: int, stay: str) -> None:
        """`*` is better than all before, `!` damaged: it counts for nothing, and goes with those of its age."""
        rows = [
            Checkpoint(id=new_id(), step=int(each[0]), best="*" in each, corrupt="!" in each) for each in kept.split()
        ]
        gone = {row.step for row in retention.superseded(rows[::-1], keep=keep)}
        assert [row.step for row in rows if row.step not in gone] == [int(step) for step in stay.split()]

    def test_what_one_answered_as_goes_with_it_unless_somebody_needs_it(
        self, session: Session, tenant: UUID, tiny: Model
    ) -> None:
        claim = claimed(session, tenant, "tuning", data=[{"type": "library"}], name="mine")
        models = [adapter(session, tenant, tiny, name=f"mine:ckpt-step-{step}") for step in range(1, 5)]
        aliases.point(session, tenant, "prod", models[1])
        for step, model in enumerate(models, 1):
            entry = {"path": "state/a", "sha256": f"{step}" * 64, "bytes": 1}
            lifecycle.checkpoint(session, claim, Saved(step, "f", [entry], model_id=model.id))
            retention.retire(session, claim, keep=2)
        session.expire_all()
        assert [model.deleted_at is None for model in models] == [False, True, True, True]
        named = session.execute(text("SELECT sha256 FROM garbage WHERE tenant_id = :id"), {"id": tenant})
        assert {row.sha256 for row in named} == {"1" * 64, "2" * 64}
        newest = session.scalars(
            text("SELECT id FROM checkpoints WHERE job_id = :id ORDER BY step DESC LIMIT 1"), {"id": claim.job_id}
        ).one()
        assert session.get_one(Job, claim.job_id, populate_existing=True).checkpoint_id == newest
