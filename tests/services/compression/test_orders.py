"""What forges are told of a job that was claimed, and the key by which a calibration is found again."""

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.orm import Session

from services.compression import library, orders
from services.files import service as files
from services.jobs.types import Claim
from shared.contracts.compression import Method, Scheme
from shared.contracts.jobs import State
from shared.db.models import Job
from shared.storage import Blob
from tests.services.compression.build import calibration, claimed, model, source, upload
from tests.services.jobs import build

MODEL, DATA, OUT = Path("/m/1"), Path("/inputs/data"), Path("/out")
TEXT = {"type": "text"}


@pytest.fixture
def session(uncommitted: Session) -> Session:
    return uncommitted


@pytest.fixture
def tenant(session: Session) -> UUID:
    tenant = build.tenant(session)
    model(session, tenant, digest="cd" * 32)
    return tenant


class TestMaterial:
    def test_holds_files_that_are_deleted_since(self, session: Session, tenant: UUID) -> None:
        file = upload(session, tenant, sha256="ef" * 32, filename="chats.jsonl")
        claim = claimed(session, tenant, "calibration", data=[source(file)])
        files.delete(session, tenant, file)
        material = orders.read(session, claim)
        assert orders.wanted(material) == {f"{file}.jsonl": Blob("ef" * 32, 400)}
        assert [(each.name, each.sha256) for each in orders.origins(material)] == [(f"chats.jsonl ({file})", "ef" * 32)]

    def test_holds_the_models(self, session: Session, tenant: UUID) -> None:
        base = model(session, tenant, name="base")
        material = orders.read(session, claimed(session, tenant, "evaluation", baseline="base"))
        assert material.model.digest == "cd" * 32
        assert material.baseline is not None
        assert material.baseline.id == base.id

    def test_holds_the_calibration(self, session: Session, tenant: UUID) -> None:
        made = calibration(session, tenant)
        claim = claimed(session, tenant, "quantization", scheme="int8", calibration=str(made.id))
        used = orders.read(session, claim).calibration
        assert used is not None
        assert (used.id, used.artifact_id) == (made.id, made.artifact_id)
        assert [entry.path for entry in used.manifest] == ["calibration.json"]


class TestCalibrateOrder:
    def test_takes_library_text_where_nothing_is_given(self, session: Session, tenant: UUID, tmp_path: Path) -> None:
        material = orders.read(session, claimed(session, tenant, "calibration", schemes=["int8"]))
        order = orders.calibrate_order(material, model=MODEL, data=tmp_path)
        assert (order.model.folder, order.model.name, order.schemes) == (MODEL, "tiny@1", [Scheme.INT8])
        assert order.samples.sampling.sequence_length == 2048
        (data,) = order.samples.data
        assert list(orders.lay_library(material, tmp_path).values()) == [library.described(held_out=False)]
        assert list(tmp_path.iterdir()) == [data.path]
        assert data.path.stat().st_size == library.described(held_out=False).bytes

    def test_takes_files_with_their_weights(self, session: Session, tenant: UUID) -> None:
        mine, like = upload(session, tenant, filename="mine.jsonl"), upload(session, tenant)
        data = [source(mine, weight=3), {"type": "library", "weight": 2}]
        sampling = {"strategy": "domain", "reference": [source(like)]}
        material = orders.read(session, claimed(session, tenant, "calibration", data=data, sampling=sampling))
        samples = orders.calibrate_order(material, model=MODEL, data=DATA).samples
        assert [(each.path.name, each.weight) for each in samples.data] == [(f"{mine}.jsonl", 3), ("library.jsonl", 2)]
        assert samples.data[0].name == "mine.jsonl"
        assert [each.path for each in samples.reference] == [DATA / f"{like}.jsonl"]


class TestQuantizeOrder:
    def test_makes_and_judges(self, session: Session, tenant: UUID, tmp_path: Path) -> None:
        choice = upload(session, tenant, purpose="evals")
        tasks = [TEXT, {"type": "choice", "file_id": choice}]
        spec: dict[str, Any] = {"scheme": "w4a16", "name": "small", "evaluation": {"tasks": tasks}}
        material = orders.read(session, claimed(session, tenant, "quantization", **spec))
        order = orders.quantize_order(material, model=MODEL, data=DATA, out=OUT)
        assert (order.scheme, order.method, order.group_size) == (Scheme.W4A16, Method.GPTQ, 128)
        assert order.samples is not None
        assert [each.path.name for each in order.samples.data] == ["library.jsonl"]
        judged = order.evaluate
        assert judged is not None
        assert judged.baseline == order.model
        assert (judged.candidate.folder, judged.candidate.name) == (OUT / "checkpoint", "small")
        assert [task.data[0].path.name for task in judged.tasks] == ["library-held-out.jsonl", f"{choice}.jsonl"]
        assert set(orders.lay_library(material, tmp_path)) == {"library.jsonl", "library-held-out.jsonl"}

    @pytest.mark.parametrize(
        ("spec", "method", "group_size"),
        [
            ({"scheme": "bf16"}, Method.RTN, None),
            ({"scheme": "fp8-dynamic"}, Method.RTN, None),
            ({"scheme": "w4a16", "method": "rtn"}, Method.RTN, 128),
        ],
    )
    def test_needs_no_data(
        self, session: Session, tenant: UUID, *, spec: dict[str, Any], method: Method, group_size: int | None
    ) -> None:
        material = orders.read(session, claimed(session, tenant, "quantization", evaluation=None, **spec))
        order = orders.quantize_order(material, model=MODEL, data=DATA, out=OUT)
        assert (order.method, order.group_size) == (method, group_size)
        assert (order.samples, order.calibration, order.evaluate) == (None, None, None)
        assert (orders.wanted(material), orders.origins(material)) == ({}, [])

    def test_goes_by_a_calibration_where_it_looks_at_data(self, session: Session, tenant: UUID) -> None:
        made, folder = calibration(session, tenant), Path("/inputs/calibration")
        for scheme, used in (("fp8", folder), ("fp8-dynamic", None)):
            claim = claimed(session, tenant, "quantization", scheme=scheme, calibration=str(made.id))
            material = orders.read(session, claim)
            order = orders.quantize_order(material, model=MODEL, data=DATA, out=OUT, calibration=folder)
            assert (order.calibration, order.samples) == (used, None)


class TestEvaluateOrder:
    def test_names_the_models(self, session: Session, tenant: UUID) -> None:
        model(session, tenant, name="base")
        material = orders.read(session, claimed(session, tenant, "evaluation", baseline="base"))
        order = orders.evaluate_order(material, model=MODEL, baseline=Path("/m/2"), data=DATA)
        assert order.baseline is not None
        assert (order.candidate.name, order.baseline.name) == ("tiny@1", "base@1")
        assert order.tasks[0].data[0].path == DATA / "library-held-out.jsonl"

    def test_or_the_one_alone(self, session: Session, tenant: UUID) -> None:
        file = upload(session, tenant)
        tasks = [TEXT | {"data": [source(file)]}]
        material = orders.read(session, claimed(session, tenant, "evaluation", tasks=tasks))
        order = orders.evaluate_order(material, model=MODEL, baseline=None, data=DATA)
        assert order.baseline is None
        assert order.tasks[0].data[0].path == DATA / f"{file}.jsonl"


class TestKey:
    @pytest.fixture
    def key(self, session: Session, tenant: UUID):
        def of(**spec: Any) -> str:
            claim: Claim = claimed(session, tenant, "calibration", **spec)
            session.get_one(Job, claim.job_id, populate_existing=True)
            return orders.calibration_key(orders.read(session, claim))

        return of

    def test_is_that_of_the_content(self, session: Session, tenant: UUID, key) -> None:
        one, same = (upload(session, tenant, sha256="ef" * 32, filename=name) for name in ("a.jsonl", "b.jsonl"))
        assert key(data=[source(one)]) == key(data=[source(same, weight=7)])
        assert key() == key(data=[{"type": "library"}], sampling={"sequence_length": 2048})
        assert key(schemes=["int8", "w4a16"]) == key(schemes=["w4a16", "int8", "int8"])

    def test_reference_texts_have_no_weight(self, session: Session, tenant: UUID, key) -> None:
        files = [upload(session, tenant), upload(session, tenant)]
        one, other = (
            {"strategy": "domain", "reference": [source(files[0], weight=weight), source(files[1])]}
            for weight in (1, 7)
        )
        assert key(sampling=one) == key(sampling=other)

    def test_is_another_for_anything_else(self, session: Session, tenant: UUID, key) -> None:
        one, two = upload(session, tenant), upload(session, tenant)
        model(session, tenant, name="other")
        found = [
            key(),
            key(model="other"),
            key(group_size=64),
            key(schemes=["int8"]),
            key(sampling={"seed": 1}),
            key(sampling={"samples": 4}),
            key(data=[source(one)]),
            key(data=[source(two)]),
            key(data=[source(one), source(two)]),
            key(data=[source(one, weight=2), source(two)]),
            key(sampling={"strategy": "domain", "reference": [source(one)]}),
            key(sampling={"strategy": "domain", "reference": [source(two)]}),
        ]
        assert len(set(found)) == len(found)

    def test_a_job_reads_what_was_stored(self, session: Session, tenant: UUID) -> None:
        claim = claimed(session, tenant, "calibration")
        assert build.state(session, claim.job_id) == State.RUNNING
        assert orders.read(session, claim).spec.model_dump(mode="json") == claim.spec
