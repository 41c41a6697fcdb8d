"""What a quantization may be called, ask for and go by."""

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.orm import Session

from services.catalog import aliases
from services.jobs.kinds import kind
from shared.contracts.compression import Scheme
from shared.db.models import CompressionJob, Model
from shared.errors import ValidationFailed
from shared.ids import new_id
from tests.services.compression.build import calibration, model, prepare, refused, result, submit
from tests.services.jobs import build

OVERRIDE = "spec.overrides.0"
W8A16 = {"layers": ["q_proj"], "scheme": "w8a16"}
LIBRARY = {"type": "library"}
CHOICE = {"type": "choice", "file_id": "file-0"}


@pytest.fixture
def session(uncommitted: Session) -> Session:
    return uncommitted


@pytest.fixture
def tenant(session: Session) -> UUID:
    return build.tenant(session)


@pytest.fixture
def tiny(session: Session, tenant: UUID) -> Model:
    return model(session, tenant)


@pytest.mark.usefixtures("tiny")
class TestNames:
    def test_the_results_may_not_be_an_aliass(self, session: Session, tenant: UUID, tiny: Model) -> None:
        aliases.point(session, tenant, "prod", tiny)
        for spec in ({"name": "prod"}, {"name": "prod", "alias": "other"}):
            error = refused(session, tenant, "quantization", **spec)
            assert (error.code, error.param) == ("name_taken", "spec.name")

    def test_the_alias_may_not_be_a_models(self, session: Session, tenant: UUID) -> None:
        error = refused(session, tenant, "quantization", alias="tiny")
        assert (error.code, error.param) == ("name_taken", "spec.alias")

    @pytest.mark.parametrize(
        ("spec", "param"),
        [
            ({"name": "no name"}, "spec.name"),
            ({"name": str(new_id())}, "spec.name"),
            ({"alias": "-"}, "spec.alias"),
            ({"name": "a", "alias": "a"}, "spec.alias"),
        ],
    )
    def test_are_names(self, session: Session, tenant: UUID, spec: dict[str, Any], param: str) -> None:
        assert refused(session, tenant, "quantization", **spec).param == param

    def test_an_existing_model_gets_another_version(self, session: Session, tenant: UUID) -> None:
        assert prepare(session, tenant, "quantization", name="tiny").spec["name"] == "tiny"


@pytest.mark.usefixtures("tiny")
class TestOptions:
    @pytest.mark.parametrize(
        ("spec", "param"),
        [
            ({"scheme": "fp8-dynamic", "data": [{"type": "library"}]}, "spec.data"),
            ({"scheme": "w8a16", "sampling": {"samples": 4}}, "spec.sampling"),
            ({"scheme": "w4a16", "method": "rtn", "sampling": {"samples": 4}}, "spec.sampling"),
            ({"scheme": "bf16", "data": [{"type": "library"}]}, "spec.data"),
            ({"scheme": "fp8-dynamic", "devices": 2}, "spec.devices"),
            ({"serving": {"engine": "other"}}, "spec.serving.engine"),
            ({"serving": {"context_length": 4096}}, "spec.serving.context_length"),
            ({"serving": {"tensor_parallel": 8}}, "spec.serving.tensor_parallel"),
            ({"serving": {"quantization": "fp8"}}, "spec.serving.quantization"),
        ],
    )
    def test_what_cannot_be_is_refused(self, session: Session, tenant: UUID, spec: dict[str, Any], param: str) -> None:
        assert refused(session, tenant, "quantization", **spec).param == param

    @pytest.mark.parametrize(
        ("kind", "spec", "param"),
        [
            ("quantization", {"scheme": "int8", "group_size": 64}, "spec.group_size"),
            ("quantization", {"scheme": "w8a16", "method": "awq"}, "spec.method"),
            ("quantization", {"scheme": "w4a16", "smoothing_strength": 0.5}, "spec.smoothing_strength"),
            ("quantization", {"scheme": "fp16", "overrides": [W8A16]}, "spec.overrides"),
            ("quantization", {"scheme": "w4a16", "overrides": [W8A16 | {"group_size": 32}]}, f"{OVERRIDE}.group_size"),
            ("quantization", {"scheme": "w4a16", "evaluation": None, "gate": {"min_agreement": 1}}, "spec.gate"),
            ("quantization", {"scheme": "w4a16", "data": [LIBRARY, LIBRARY]}, "spec.data"),
            ("quantization", {"scheme": "w4a16", "devices": 3}, "spec.devices"),
            ("calibration", {"schemes": ["int8", "bf16"]}, "spec.schemes"),
            ("calibration", {"data": [LIBRARY, LIBRARY]}, "spec.data"),
            ("evaluation", {"gate": {"min_agreement": 1}}, "spec.gate"),
            (
                "evaluation",
                {"baseline": "tiny", "tasks": [CHOICE], "gate": {"min_agreement": 1}},
                "spec.gate",
            ),
        ],
    )
    def test_what_does_not_go_together_names_its_field(
        self, session: Session, tenant: UUID, *, kind: str, spec: dict[str, Any], param: str
    ) -> None:
        with pytest.raises(ValidationFailed) as error:
            submit(session, tenant, kind, **spec)
        assert [each.param for each in error.value.errors] == [param]

    def test_a_16_bit_result_may_be_quantized_while_it_is_loaded(self, session: Session, tenant: UUID) -> None:
        found = prepare(session, tenant, "quantization", scheme="fp16", serving={"quantization": "fp8"})
        assert found.spec["serving"] == {"quantization": "fp8"}


@pytest.mark.usefixtures("tiny")
class TestCalibration:
    def test_is_named_by_its_id_or_its_artifacts(self, session: Session, tenant: UUID) -> None:
        made = calibration(session, tenant)
        for each in (made.id, made.artifact_id):
            found = prepare(session, tenant, "quantization", calibration=str(each)).spec
            assert (found["calibration"], found["sampling"], found["data"]) == (str(made.id), None, [])

    def test_the_job_keeps_it(self, session: Session, tenant: UUID) -> None:
        made = calibration(session, tenant)
        job = submit(session, tenant, "quantization", scheme="fp8", calibration=str(made.id))
        assert session.get_one(CompressionJob, job.id).calibration_id == made.id

    def test_is_known(self, session: Session, tenant: UUID) -> None:
        other = build.tenant(session)
        model(session, other)
        for each in ("none", str(new_id()), str(calibration(session, other).id)):
            error = refused(session, tenant, "quantization", calibration=each)
            assert (error.status, error.param) == (422, "spec.calibration")

    def test_is_of_the_same_weights(self, session: Session, tenant: UUID) -> None:
        made = calibration(session, tenant)
        model(session, tenant, version=2)
        error = refused(session, tenant, "quantization", calibration=str(made.id))
        assert (error.status, error.param) == (422, "spec.calibration")
        found = prepare(session, tenant, "quantization", model="tiny@1", calibration=str(made.id))
        assert found.spec["calibration"] == str(made.id)

    def test_its_recommendation_is_followed(self, session: Session, tenant: UUID) -> None:
        ignore = ["lm_head", "model.layers.0.mlp.down_proj"]
        made = calibration(session, tenant, result(Scheme.INT8, ignore=ignore, smoothing_strength=0.8))
        first = prepare(session, tenant, "quantization", scheme="recommended", calibration=str(made.id))
        assert first.spec["scheme"] == "int8"
        assert (first.spec["ignore"], first.spec["smoothing_strength"]) == (ignore, 0.8)
        assert first.spec["name"] == "tiny-int8"
        row = kind("quantization")
        assert row.prepare(session, tenant, row.spec.model_validate(first.spec)).spec == first.spec

    def test_its_recommendation_comes_with_the_groups_that_were_measured(self, session: Session, tenant: UUID) -> None:
        made = calibration(session, tenant, result(Scheme.W4A16), group_size=32)
        given = {"scheme": "recommended", "calibration": str(made.id)}
        assert prepare(session, tenant, "quantization", **given).spec["group_size"] == 32
        assert prepare(session, tenant, "quantization", **given, group_size=64).spec["group_size"] == 64

    def test_but_what_is_given_counts_more(self, session: Session, tenant: UUID) -> None:
        made = calibration(session, tenant, result(Scheme.INT8, smoothing_strength=0.8))
        given = {"scheme": "recommended", "calibration": str(made.id)}
        found = prepare(session, tenant, "quantization", **given, ignore=[], smoothing_strength=0.2)
        assert (found.spec["ignore"], found.spec["smoothing_strength"]) == ([], 0.2)

    def test_a_recommendation_that_an_option_does_not_suit(self, session: Session, tenant: UUID) -> None:
        made = calibration(session, tenant, result(Scheme.INT8))
        given = {"scheme": "recommended", "calibration": str(made.id), "group_size": 32}
        assert refused(session, tenant, "quantization", **given).param == "spec.scheme"
