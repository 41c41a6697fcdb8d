"""What a tuning and a merge are made of before they are written, and what is refused by its field."""

import re
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.orm import Session

from services.catalog import aliases
from services.jobs.kinds import kind
from services.tuning import repository, results
from shared.contracts.tuning import TuningSpec
from shared.db.models import Model, TuningJob
from shared.errors import FieldError, ModelyardError, ValidationFailed
from shared.ids import new_id
from tests.services.jobs import build
from tests.services.tuning.made import adapter, base, prepare, refused, upload

LIBRARY = {"type": "library"}


@pytest.fixture
def session(uncommitted: Session) -> Session:
    return uncommitted


@pytest.fixture
def tenant(session: Session) -> UUID:
    return build.tenant(session)


@pytest.fixture
def tiny(session: Session, tenant: UUID) -> Model:
    return base(session, tenant)


def only(session: Session, tenant: UUID, **spec: Any) -> FieldError:
    """The one field that is wrong."""
    error = refused(session, tenant, **spec)
    assert isinstance(error, ValidationFailed)
    (field,) = error.errors
    return field


@pytest.mark.usefixtures("tiny")
class TestStored:
    def test_nothing_is_left_open(self, session: Session, tenant: UUID) -> None:
        spec = prepare(session, tenant).spec
        assert (spec["model"], spec["method"], spec["suffix"], spec["serving"]) == ("tiny@1", "lora", None, {})
        assert spec["lora"] == {"rank": 16, "alpha": 32.0, "dropout": 0.0, "target_modules": "all-linear"}
        assert spec["training"]["learning_rate"] == 2e-4

    def test_all_weights_learn_more_slowly(self, session: Session, tenant: UUID) -> None:
        spec = prepare(session, tenant, method="full", serving={"max_in_flight": 4}).spec
        assert (spec["lora"], spec["training"]["learning_rate"]) == (None, 2e-5)
        assert spec["serving"] == {"max_in_flight": 4}

    @pytest.mark.parametrize(
        "given",
        [
            {},
            {"training": {"steps": 7}, "preparation": {}},
            {"method": "full", "suffix": "mine"},
            {"preparation": {"reference": [LIBRARY], "share": 0.3}, "validation_share": 0.1},
        ],
    )
    def test_what_is_stored_makes_the_same_again(self, session: Session, tenant: UUID, given: dict[str, Any]) -> None:
        stored = prepare(session, tenant, **given).spec
        again = kind("tuning").prepare(session, tenant, TuningSpec.model_validate(stored))
        assert again.spec == stored

    def test_steps_are_known_where_they_are_asked_for(self, session: Session, tenant: UUID) -> None:
        asked, open_ = prepare(session, tenant, training={"steps": 7}), prepare(session, tenant)
        assert ((asked.total, asked.unit), (open_.total, open_.unit)) == ((7, "steps"), (None, "steps"))

    def test_its_columns_and_files(self, session: Session, tenant: UUID, tiny: Model) -> None:
        one, two = upload(session, tenant, purpose="fine-tune"), upload(session, tenant)
        sources = [{"type": "file", "file_id": each} for each in (one, two)]
        reference = {"reference": [{"type": "file", "file_id": one}]}
        prepared = prepare(session, tenant, data=sources[:1], validation=sources[1:], preparation=reference)
        job = build.job(session, tenant, kind="tuning")
        assert prepared.extend is not None
        prepared.extend(session, job.id)
        row = repository.job(session, tenant, job.id)
        assert row is not None
        assert (row.model_id, row.name, row.relief) == (tiny.id, prepared.spec["name"], {})
        assert {f"file-{file.id.hex}" for file in repository.files(session, tenant, job.id)} == {one, two}


@pytest.mark.usefixtures("tiny")
class TestNames:
    def test_are_openais(self, session: Session, tenant: UUID) -> None:
        name = prepare(session, tenant, suffix="mine").spec["name"]
        assert re.fullmatch(r"ft:tiny:tenant-[0-9a-f]{25}:mine:[0-9a-f]{8}", name)  # a tenant's name is cut at 32
        assert re.fullmatch(r"ft:tiny:tenant-[0-9a-f]{25}::[0-9a-f]{8}", prepare(session, tenant).spec["name"])

    def test_of_a_base_with_an_owner(self, session: Session, tenant: UUID) -> None:
        base(session, tenant, name="meta-llama/" + "L" * 96)
        spec = prepare(session, tenant, model="meta-llama/" + "L" * 96, suffix="s" * 64, checkpoint_models=True).spec
        assert spec["name"].startswith("ft:meta-llama/" + "L" * 89 + ":tenant-")

    def test_of_a_base_that_was_tuned(self, session: Session, tenant: UUID) -> None:
        base(session, tenant, name="ft:tiny:me:first:01234567")
        name = prepare(session, tenant, model="ft:tiny:me:first:01234567", suffix="second").spec["name"]
        assert re.fullmatch(r"ft:tiny:tenant-[0-9a-f]{25}:second:[0-9a-f]{8}", name)

    @pytest.mark.parametrize(
        ("spec", "code", "param"),
        [
            ({"name": "prod"}, "name_taken", "spec.name"),
            ({"alias": "tiny"}, "name_taken", "spec.alias"),
            ({"name": "no name"}, "invalid_field", "spec.name"),
            ({"name": "a", "alias": "a"}, "invalid_field", "spec.alias"),
            ({"name": "x" * 90, "checkpoint_models": True}, "invalid_field", "spec.name"),
            ({"name": "ft:" + "x" * 238}, "invalid_field", "spec.name"),
        ],
    )
    def test_that_cannot_be_had(
        self, session: Session, tenant: UUID, tiny: Model, *, spec: dict[str, Any], code: str, param: str
    ) -> None:
        aliases.point(session, tenant, "prod", tiny)
        error = refused(session, tenant, **spec)
        assert (error.code, error.param) == (code, param)


class TestRefusals:
    def test_bases_that_cannot_be_tuned(self, session: Session, tenant: UUID, tiny: Model) -> None:
        adapter(session, tenant, tiny, name="adapter")
        base(session, tenant, name="small", config={"quantization_config": {"bits": 4}})
        assert "merge it into its base first" in refused(session, tenant, model="adapter").message
        assert "start from the original" in refused(session, tenant, model="small").message
        assert refused(session, tenant, model="none").code == "model_not_found"

    def test_lengths_beyond_the_context(self, session: Session, tenant: UUID, tiny: Model) -> None:
        field = only(session, tenant, training={"max_length": 2049})
        assert (field.param, field.code) == ("spec.training.max_length", "context_length_exceeded")

    @pytest.mark.parametrize("training", [{"batch_size": 6}, {"batch_size": 8, "micro_batch_size": 4}])
    def test_batches_that_devices_cannot_share(
        self, session: Session, tenant: UUID, tiny: Model, training: dict[str, Any]
    ) -> None:
        assert only(session, tenant, devices=4, training=training).param == "spec.training.batch_size"

    def test_fp16_is_for_one_device(self) -> None:
        with pytest.raises(ValueError, match="scaled on one device alone"):
            TuningSpec.model_validate(
                {"model": "tiny", "data": [LIBRARY], "devices": 2, "training": {"precision": "fp16"}}
            )

    def test_serving(self, session: Session, tenant: UUID, tiny: Model) -> None:
        assert refused(session, tenant, serving={"pinned": True}).param == "spec.serving"
        field = only(session, tenant, method="dora", serving={"context_length": 4096})
        assert field.param == "spec.serving.context_length"

    @pytest.mark.parametrize(
        ("fields", "code"), [({"purpose": "batch"}, "wrong_purpose"), ({"bytes": 0}, "empty_file"), (None, "not_found")]
    )
    def test_files(
        self, session: Session, tenant: UUID, tiny: Model, *, fields: dict[str, Any] | None, code: str
    ) -> None:
        file_id = f"file-{new_id().hex}" if fields is None else upload(session, tenant, **fields)
        named = [{"type": "file", "file_id": file_id}]
        for spec, param in (
            ({"data": [LIBRARY, *named]}, "spec.data.1.file_id"),
            ({"validation": named}, "spec.validation.0.file_id"),
            ({"preparation": {"reference": named}}, "spec.preparation.reference.0.file_id"),
        ):
            field = only(session, tenant, **spec)
            assert (field.param, field.code) == (param, code)


class TestMerge:
    def test_what_is_stored(self, session: Session, tenant: UUID, tiny: Model) -> None:
        row = adapter(session, tenant, tiny)
        prepared = prepare(session, tenant, "merge", model=row.name)
        assert prepared.spec == {
            "model": f"{row.name}@1",
            "name": f"{row.name}-merged",
            "alias": None,
            "serving": {},
        }
        job = build.job(session, tenant, kind="merge")
        assert prepared.extend is not None
        prepared.extend(session, job.id)
        assert session.get_one(TuningJob, job.id).model_id == row.id
        assert results.made(session, tenant, job.id) is None

    def test_refusals(self, session: Session, tenant: UUID, tiny: Model) -> None:
        assert "is no adapter" in refused(session, tenant, "merge").message
        small = base(session, tenant, name="small", config={"quantization_config": {"bits": 4}})
        row = adapter(session, tenant, small, name="of-small")
        assert "merged into the original" in refused(session, tenant, "merge", model=row.name).message
        other = adapter(session, tenant, tiny, name="other")
        assert refused(session, tenant, "merge", model="other", alias="tiny").param == "spec.alias"
        error = refused(session, tenant, "merge", model=other.name, serving={"context_length": 4096})
        assert error.param == "spec.serving.context_length"


class TestAhead:
    """What is judged of a job whose model another one has yet to make."""

    def test_of_a_tuning(self, session: Session, tenant: UUID) -> None:
        foresee = kind("tuning").foresee
        assert foresee is not None
        given = {"model": "$result", "data": [LIBRARY]}
        foresee(session, tenant, TuningSpec.model_validate(given))
        wrong: list[tuple[dict[str, Any], str]] = [
            ({"name": "no name"}, "spec.name"),
            ({"data": [{"type": "file", "file_id": "file-0"}]}, "spec.data.0.file_id"),
            ({"serving": {"pinned": True}}, "spec.serving"),
            ({"devices": 2, "training": {"batch_size": 3}}, "spec.training.batch_size"),
        ]
        for changes, param in wrong:
            with pytest.raises(ModelyardError) as caught:
                foresee(session, tenant, TuningSpec.model_validate(given | changes))
            assert caught.value.param == param
