"""Two models beside each other: which figures are shown, and that they are told from a to b."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.orm import Session

from services.catalog import aliases
from services.compression.compare import Comparison, Lineage, compare
from shared.contracts.evaluation import EvaluationFigures, TaskResult
from shared.db.models import Model
from shared.db.session import Database
from shared.errors import UnknownModel
from tests.services.compression import found, kept
from tests.services.inference import build
from tests.services.jobs import build as jobs
from tests.support.stores import RunningStores, cloned_database


@pytest.fixture(scope="module")
def database(stores: RunningStores, migrated: str) -> Iterator[Database]:
    """One for all tests here: each has a tenant of its own."""
    with cloned_database(stores, migrated) as url:
        opened = Database(url)
        yield opened
        opened.close()


@pytest.fixture
def tenant(session: Session) -> UUID:
    return jobs.tenant(session)


@pytest.fixture
def original(session: Session, tenant: UUID) -> Model:
    return build.model(session, tenant, name="tiny", bytes=4_000_000)


@pytest.fixture
def small(session: Session, tenant: UUID, original: Model) -> Model:
    source = {"type": "quantization", "job_id": found.JOB, "base": {"id": str(original.id), "name": "tiny"}}
    return build.model(
        session, tenant, name="tiny-int8", bytes=2_000_000, dtype="int8", digest="ef" * 32, source=source
    )


def alone(before: float, **fields: Any) -> EvaluationFigures:
    return found.figures(found.text(None, before, **fields), baseline=None)


def of(session: Session, tenant: UUID, a: str = "tiny", b: str = "tiny-int8") -> Comparison:
    return compare(session, tenant, a, b)


@pytest.mark.usefixtures("small")
class TestFigures:
    def test_ratios_are_b_over_a(self, session: Session, tenant: UUID) -> None:
        told = of(session, tenant)
        assert (told.a.name, told.b.name) == ("tiny@1", "tiny-int8@1")
        assert {
            name: told.ratios[name] for name in ("bytes", "parameters", "context_length", "kv_bytes_per_token")
        } == {
            "bytes": 0.5,
            "parameters": 1.0,
            "context_length": 1.0,
            "kv_bytes_per_token": 1.0,
        }
        assert of(session, tenant, "tiny-int8", "tiny").ratios["bytes"] == 2.0
        assert told.ratios["tokens_per_second"] is None
        assert (told.evaluation, list(told.tasks)) == (None, [])

    @pytest.mark.parametrize(("a", "b", "wrong"), [("none", "tiny", "a"), ("tiny", "none", "b"), ("x", "y", "a")])
    def test_whichever_is_missing_is_named(self, session: Session, tenant: UUID, *, a: str, b: str, wrong: str) -> None:
        with pytest.raises(UnknownModel) as refused:
            of(session, tenant, a, b)
        assert refused.value.param == wrong

    def test_every_name_will_do(self, session: Session, tenant: UUID, original: Model) -> None:
        aliases.point(session, tenant, "prod", original)
        for name in ("tiny@1", "prod", str(original.id)):
            assert of(session, tenant, name).a.name == "tiny@1"

    def test_a_model_is_like_itself(self, session: Session, tenant: UUID, original: Model) -> None:
        kept.evaluation(session, original, None, alone(50.0))
        told = of(session, tenant, "tiny", "tiny@1")
        assert told.ratios["bytes"] == 1.0
        assert (told.evaluation, told.lineage) == (None, None)
        assert told.tasks[0].between == {"ppl_increase": 0.0}


class TestDirect:
    @staticmethod
    def figures() -> EvaluationFigures:
        return found.figures(
            found.text(50.0, 51.0),
            candidate=found.model("tiny-int8", 2, served=found.SERVED.model_copy(update={"tokens_per_second": 180.0})),
            baseline=found.model("tiny@1", 4, served=found.SERVED),
        )

    def test_as_it_was_made(self, session: Session, tenant: UUID, original: Model, small: Model) -> None:
        row = kept.evaluation(session, small, original, self.figures())
        told = of(session, tenant)
        assert told.evaluation is not None
        assert told.evaluation.id == row.id
        (task,) = told.tasks
        assert (task.a, task.b) == ({"perplexity": 50.0}, {"perplexity": 51.0})
        assert task.between == {"ppl_increase": pytest.approx(0.02), "kl_divergence": 0.01, "agreement": 0.96}
        assert task.evaluations == (row.id, row.id)
        assert told.ratios["tokens_per_second"] == 1.5
        assert told.b.measured is not None
        assert (told.b.measured.name, told.b.device) == ("tiny-int8", "cpu")

    def test_the_other_way_round(self, session: Session, tenant: UUID, original: Model, small: Model) -> None:
        kept.evaluation(session, small, original, self.figures())
        told = of(session, tenant, "tiny-int8", "tiny")
        (task,) = told.tasks
        assert (task.a, task.b) == ({"perplexity": 51.0}, {"perplexity": 50.0})
        assert task.between == {"ppl_increase": pytest.approx(50 / 51 - 1), "agreement": 0.96}  # KL has a direction
        assert told.ratios["tokens_per_second"] == pytest.approx(2 / 3, abs=1e-6)
        assert told.a.measured is not None
        assert told.a.measured.name == "tiny-int8"

    def test_the_newest_counts(self, session: Session, tenant: UUID, original: Model, small: Model) -> None:
        kept.evaluation(session, small, original, self.figures())
        newer = kept.evaluation(session, original, small, found.figures(found.text(60.0, 50.0)))
        told = of(session, tenant)
        assert told.evaluation is not None
        assert told.evaluation.id == newer.id
        assert told.tasks[0].a == {"perplexity": 50.0}

    def test_engines_that_differ_have_no_ratio(
        self, session: Session, tenant: UUID, original: Model, small: Model
    ) -> None:
        other = found.SERVED.model_copy(update={"gpu_class": "h100"})
        figures = found.figures(
            candidate=found.model("x", 2, served=other), baseline=found.model("y", 4, served=found.SERVED)
        )
        kept.evaluation(session, small, original, figures)
        told = of(session, tenant)
        assert told.ratios["tokens_per_second"] is None
        assert told.ratios["load_s"] == 1.0


class TestEach:
    """No evaluation of one beside the other."""

    def test_the_newest_of_each_on_the_same_data(
        self, session: Session, tenant: UUID, original: Model, small: Model
    ) -> None:
        kept.evaluation(session, original, None, alone(49.0))
        first = kept.evaluation(session, original, None, alone(50.0))
        second = kept.evaluation(session, small, None, alone(55.0))
        told = of(session, tenant)
        assert told.evaluation is None
        (task,) = told.tasks
        assert (task.a, task.b) == ({"perplexity": 50.0}, {"perplexity": 55.0})
        assert task.between == {"ppl_increase": pytest.approx(0.1)}
        assert task.evaluations == (first.id, second.id)

    @pytest.mark.parametrize("changed", [{"sha256": found.OTHER_SHA}, {"tokens": 999}, {"samples": 63}])
    def test_other_data_is_not_compared(
        self, session: Session, tenant: UUID, original: Model, small: Model, *, changed: dict[str, Any]
    ) -> None:
        kept.evaluation(session, original, None, alone(50.0))
        kept.evaluation(session, small, None, alone(55.0, **changed))
        assert of(session, tenant).tasks == []

    def test_a_choice_does_not_depend_on_how_text_was_cut(
        self, session: Session, tenant: UUID, original: Model, small: Model
    ) -> None:
        for model, tokens in ((original, 90), (small, 95)):
            task = TaskResult(
                name="quiz", type="choice", samples=9, tokens=tokens, sha256=found.SHA, candidate={"accuracy": 0.5}
            )
            kept.evaluation(session, model, None, found.figures(task, baseline=None))
        assert [task.result.name for task in of(session, tenant).tasks] == ["quiz"]

    def test_a_baseline_was_judged_too(self, session: Session, tenant: UUID, original: Model, small: Model) -> None:
        third = build.model(session, tenant, name="third", digest="01" * 32)
        kept.evaluation(session, third, original, found.figures(found.text(50.0, 70.0)))
        kept.evaluation(session, small, None, alone(55.0))
        (task,) = of(session, tenant).tasks
        assert (task.a, task.b) == ({"perplexity": 50.0}, {"perplexity": 55.0})

    def test_seconds_of_other_devices_have_no_ratio(
        self, session: Session, tenant: UUID, original: Model, small: Model
    ) -> None:
        kept.evaluation(session, original, None, alone(50.0))
        kept.evaluation(session, small, None, alone(50.0).model_copy(update={"device": "NVIDIA H200"}))
        ratios = of(session, tenant).ratios
        assert (ratios["load_s"], ratios["peak_memory_bytes"], ratios["flops_per_token"]) == (None, None, 1.0)

    def test_another_tenants_are_not_seen(self, session: Session, tenant: UUID, small: Model) -> None:
        stranger = build.model(session, jobs.tenant(session), name="tiny")
        kept.evaluation(session, stranger, None, alone(50.0))
        kept.evaluation(session, small, None, alone(55.0))
        told = of(session, tenant, "tiny-int8", "tiny-int8@1")
        assert {each for task in told.tasks for each in task.a.values()} == {55.0}


class TestLineage:
    def test_in_either_order(self, session: Session, tenant: UUID, small: Model) -> None:
        expected = Lineage("tiny@1", "tiny-int8@1", [small.source])
        assert of(session, tenant).lineage == expected
        assert of(session, tenant, "tiny-int8", "tiny").lineage == expected

    def test_over_several_steps(self, session: Session, tenant: UUID, small: Model) -> None:
        source = {"type": "quantization", "base": {"id": str(small.id)}}
        last = build.model(session, tenant, name="last", digest="02" * 32, source=source)
        assert of(session, tenant, "tiny", "last").lineage == Lineage("tiny@1", "last@1", [last.source, small.source])

    def test_of_an_adapter(self, session: Session, tenant: UUID, original: Model) -> None:
        adapter = build.model(
            session,
            tenant,
            name="lora",
            kind="adapter",
            base_id=original.id,
            digest="03" * 32,
            source={"type": "files"},
        )
        assert of(session, tenant, "tiny", "lora").lineage == Lineage("tiny@1", "lora@1", [adapter.source])

    @pytest.mark.parametrize(
        "source", [{"type": "folder"}, {"base": {"id": "x"}}, {"base": 3}, {"base": {"id": found.JOB}}]
    )
    def test_of_strangers(self, session: Session, tenant: UUID, original: Model, *, source: dict[str, Any]) -> None:
        build.model(session, tenant, name="other", digest="04" * 32, source=source)
        assert of(session, tenant, original.name, "other").lineage is None

    def test_in_a_circle(self, session: Session, tenant: UUID, original: Model, small: Model) -> None:
        original.source = {"base": {"id": str(small.id)}}
        build.model(session, tenant, name="other", digest="05" * 32)
        session.flush()
        assert of(session, tenant, "tiny", "other").lineage is None
