"""Document sets over HTTP: what a request becomes, how a set is shown while it runs and when it has ended."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import httpx
import pytest

from services.jobs import lifecycle
from services.jobs.types import Ending, Outcome
from shared.contracts.documents import Flag, Value, violates
from tests.gateway.conftest import Gateway
from tests.gateway.reading import SCHEMA, Reader, read
from tests.gateway.served import LATER, MODEL, refused, register, rows
from tests.services.jobs import build


@pytest.fixture
def reader(gateway: Gateway) -> Iterator[Reader]:
    tenant = gateway.tenant()
    register(gateway, tenant)
    with gateway.caller(tenant=tenant) as client:
        yield Reader(gateway, client)


class TestCreate:
    def test_a_set_is_a_job_of_its_own_shape(self, reader: Reader) -> None:
        body = reader.body(documents=2, metadata={"a": "b"}, priority=7, deadline=LATER, max_tokens=64)
        answer = reader.client.post("/v1/document_sets", json=body)
        made = answer.json()
        assert answer.status_code == 202
        assert answer.headers["location"] == f"/v1/document_sets/{made['id']}"
        assert (made["object"], made["status"], made["model"]) == ("document_set", "queued", MODEL)
        assert made["id"] == f"docset_{made['job_id'].replace('-', '')}"
        assert made["counts"] == {"total": 2, "completed": 0, "flagged": 0, "failed": 0}
        assert (made["metadata"], made["artifacts"], made["finished_at"]) == ({"a": "b"}, [], None)
        assert made["operation"]["schema"]["properties"] == SCHEMA["properties"]
        assert isinstance(made["created_at"], int)
        assert made["expires_at"] > made["created_at"]
        job = reader.client.get(f"/v1/jobs/{made['job_id']}").json()
        assert (job["kind"], job["priority"], job["progress"]["total"]) == ("document_set", 7, 2)
        assert (job["spec"]["max_tokens"], job["spec"]["files"]) == (64, body["files"])

    def test_a_repetition_with_its_key_is_the_same_set(self, reader: Reader) -> None:
        body = reader.body(webhook={"url": "https://example.com/hook"})
        first, again = (
            reader.client.post("/v1/document_sets", json=body, headers={"idempotency-key": "one"}) for _ in range(2)
        )
        assert again.json() == first.json()
        assert again.headers["idempotent-replayed"] == "true"
        assert first.json()["webhook"]["secret"].startswith("whsec_")
        assert reader.get(first.json())["webhook"]["secret"] is None

    def test_validate_only_writes_nothing(self, reader: Reader) -> None:
        body = reader.body(documents=3)
        before = rows(reader.gateway)
        answer = reader.client.post("/v1/document_sets?validate_only=true", json=body)
        assert (answer.status_code, answer.json()["object"], answer.json()["total"]) == (200, "job.plan", 3)
        assert rows(reader.gateway) == before

    def test_waiting_gives_up_in_time(self, reader: Reader) -> None:
        answer = reader.client.post("/v1/document_sets?wait=0.2", json=reader.body())
        assert (answer.status_code, answer.json()["status"]) == (202, "queued")

    @pytest.mark.parametrize(
        ("fields", "status", "code", "param"),
        [
            ({"model": "nobody"}, 404, "model_not_found", "model"),
            ({"model": 7}, 422, "validation_failed", "model"),
            ({"files": []}, 422, "validation_failed", "files"),
            ({"files": ["file-nothing"]}, 422, "validation_failed", "files.0"),
            ({"operation": {"type": "dance"}}, 422, "validation_failed", "operation"),
            ({"operation": {"type": "summarize", "words": 1}}, 422, "validation_failed", "operation.summarize.words"),
            ({"operation": {"type": "classify", "labels": ["a", "a"]}}, 422, "validation_failed", "operation.classify"),
            ({"operation": {"type": "custom", "template": "x"}}, 422, "validation_failed", "operation.custom"),
            ({"chunking": {"tokens": 3}}, 422, "validation_failed", "chunking.tokens"),
            ({"max_tokens": 1}, 422, "validation_failed", "max_tokens"),
            ({"temperature": -1}, 422, "validation_failed", "temperature"),
            ({"seed": "x"}, 422, "validation_failed", "seed"),
            ({"colour": "red"}, 400, "unknown_parameter", "colour"),
            ({"gpu_class": "abacus"}, 422, "unknown_gpu_class", "gpu_class"),
            ({"priority": 10}, 422, "validation_failed", "priority"),
            ({"deadline": "2001-01-01T00:00:00Z"}, 422, "unprocessable", "deadline"),
            ({"webhook": {"url": "ftp://example.com"}}, 422, "validation_failed", "webhook.url"),
            ({"metadata": {"a": 1}}, 422, "validation_failed", "metadata.a"),
            (
                {"operation": {"type": "classify", "labels": ["a", {"name": 7}]}},
                422,
                "validation_failed",
                "operation.classify.labels.1.object.name",
            ),
            ({"pack": 7}, 422, "validation_failed", "pack.object"),
            ({"pack": {"name": "Not A Name"}}, 422, "validation_failed", "pack.object.name"),
        ],
    )
    def test_a_wrong_field_is_named_as_it_was_sent(
        self, reader: Reader, *, fields: dict[str, Any], status: int, code: str, param: str
    ) -> None:
        body = reader.body(**fields)
        before = rows(reader.gateway)
        refused(reader.client.post("/v1/document_sets", json=body), status, code, param=param)
        assert rows(reader.gateway) == before

    def test_nobody_reads_anothers_document(self, reader: Reader, client: httpx.Client) -> None:
        theirs = client.post("/v1/files", data={"purpose": "document"}, files={"file": ("a.txt", b"a")}).json()["id"]
        answer = reader.client.post("/v1/document_sets", json=reader.body(files=[theirs]))
        refused(answer, 422, "validation_failed", param="files.0")


class TestShown:
    def test_counts_move_while_it_runs(self, reader: Reader) -> None:
        made = reader.create(documents=4)
        (child,) = reader.children(made)
        assert reader.get(made)["status"] == "in_progress"
        reader.record(child, 0, read())
        reader.record(child, 1, None)
        shown = reader.get(made)
        assert shown["counts"] == {"total": 4, "completed": 1, "flagged": 0, "failed": 1}
        assert (shown["status"], shown["pages"]) == ("in_progress", 3)
        reader.record(child, 2, read(pages=5, flags=(Flag.CUT_OFF,)))
        reader.record(child, 3, read(values=(Value(path="a", check=violates("sum")),)))
        shown = reader.get(made)
        assert shown["counts"] == {"total": 4, "completed": 3, "flagged": 2, "failed": 1}
        assert (shown["status"], shown["pages"]) == ("finalizing", 11)

    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"flags": (Flag.NOT_JSON,)},
            {"values": (Value(path="a", flags=(Flag.NO_QUOTE,)),)},
            {"values": (Value(path="a"), Value(path="b", check="verified"))},
            {"values": (Value(path="a"), Value(path="b", check=violates("sum")))},
            {"result": {"flags": ["not ours"], "values": [{"flags": ["neither"]}]}},
        ],
    )
    def test_what_is_counted_as_flagged_is_what_the_contract_says(self, reader: Reader, fields: dict[str, Any]) -> None:
        made, result = reader.create(), read(**fields)
        (child,) = reader.children(made)
        reader.record(child, 0, result)
        assert reader.get(made)["counts"]["flagged"] == int(result.flagged)
        (record,) = reader.results(made)["data"]
        assert record["status"] == ("flagged" if result.flagged else "ok")

    def test_a_set_that_has_ended_has_tables_and_adds_up(self, reader: Reader) -> None:
        made = reader.create(documents=9)
        first, second = reader.children(made)
        for line in range(8):
            reader.record(first, line, read())
        with reader.gateway.database.transaction() as session:
            lifecycle.end(session, [build.ending(first, Outcome.SUCCEEDED), build.ending(second, Outcome.SUCCEEDED)])
        assert reader.get(made)["status"] == "finalizing"
        reader.finish(made, artifact=b"company\n")
        shown = reader.get(made)
        assert shown["status"] == "completed"
        assert shown["counts"] == {"total": 9, "completed": 8, "flagged": 0, "failed": 1}
        assert shown["usage"]["prompt_tokens"] == 8 * 7
        assert shown["usage"]["total_tokens"] == 8 * 9
        assert shown["finished_at"] >= shown["in_progress_at"] >= shown["created_at"]
        (table,) = shown["artifacts"]
        assert (table["name"], table["bytes"]) == ("results.csv", 8)
        assert reader.client.get(table["url"]).content == b"company\n"

    def test_cancelling_keeps_what_was_read(self, reader: Reader) -> None:
        made = reader.create(documents=2)
        (child,) = reader.children(made)
        reader.record(child, 0, read())
        answer = reader.client.post(f"/v1/document_sets/{made['id']}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (200, "cancelling")
        with reader.gateway.database.transaction() as session:
            lifecycle.end(session, [build.ending(child, Outcome.CANCELLED)])
            lifecycle.end(session, [Ending(UUID(made["job_id"]), 1, Outcome.CANCELLED)])
        shown = reader.get(made)
        assert shown["status"] == "cancelled"
        assert shown["counts"] == {"total": 2, "completed": 1, "flagged": 0, "failed": 1}
        assert [record["index"] for record in reader.results(made)["data"]] == [0]
        assert reader.client.post(f"/v1/document_sets/{made['id']}/cancel").json() == shown

    def test_what_is_no_set_is_not_found(self, reader: Reader) -> None:
        made = reader.create()
        (child,) = reader.children(made)
        probe = reader.client.post("/v1/jobs", json={"kind": "probe", "spec": {"steps": 0}}).json()["id"]
        for named in ("docset_7", made["job_id"], f"docset_{UUID(probe).hex}", f"docset_{child.job_id.hex}"):
            for path in (f"/v1/document_sets/{named}", f"/v1/document_sets/{named}/results"):
                refused(reader.client.get(path), 404, "not_found", param="document_set_id")


class TestResults:
    def test_come_in_the_order_of_the_request_page_by_page(self, reader: Reader) -> None:
        made = reader.create(documents=10)
        first, second = reader.children(made)
        for line in (9, 8):
            reader.record(second, line, read(filename=f"{line}.txt"))
        for line in (5, 0, 3):
            reader.record(first, line, None if line == 3 else read(filename=f"{line}.txt"))
        page = reader.results(made, limit=2)
        assert ([each["index"] for each in page["data"]], page["has_more"], page["last_id"]) == ([0, 3], True, "3")
        rest = reader.results(made, limit=5, after=3)
        assert ([each["index"] for each in rest["data"]], rest["has_more"]) == ([5, 8, 9], False)

    def test_hold_the_record_or_why_there_is_none(self, reader: Reader) -> None:
        made = reader.create(documents=2)
        (child,) = reader.children(made)
        value = Value(path="company", value="Northwind", page=2, quote="Northwind Ltd", check="verified")
        reader.record(child, 0, read(values=(value,)))
        reader.record(child, 1, None)
        good, bad = reader.results(made)["data"]
        assert (good["status"], good["result"], good["pages"]) == ("ok", {"company": "Northwind"}, 3)
        assert good["values"] == [value.model_dump(mode="json")]
        assert good["usage"] == {"prompt_tokens": 7, "completion_tokens": 2}
        assert (bad["status"], bad["filename"], bad["result"], bad["pages"]) == ("error", "1.txt", None, None)
        assert bad["error"]["code"] == "encrypted"


class TestList:
    def test_goes_on_page_by_page_newest_first(self, reader: Reader) -> None:
        made = [reader.create()["id"] for _ in range(3)]
        reader.client.post("/v1/jobs", json={"kind": "probe", "spec": {"steps": 0}})
        page = reader.client.get("/v1/document_sets", params={"limit": 2}).json()
        rest = reader.client.get("/v1/document_sets", params={"after": page["last_id"]}).json()
        assert [each["id"] for each in page["data"] + rest["data"]] == made[::-1]
        assert (page["has_more"], rest["has_more"]) == (True, False)
        assert page["data"][0] == reader.get(page["data"][0])

    @pytest.mark.parametrize("cursor", ["docset_7", f"docset_{'0' * 32}", "yesterday"])
    def test_a_cursor_that_names_none_is_refused(self, reader: Reader, cursor: str) -> None:
        refused(reader.client.get("/v1/document_sets", params={"after": cursor}), 400, "invalid_cursor", param="after")


class TestDomainPacks:
    def test_what_is_installed_is_listed(self, reader: Reader) -> None:
        (pack,) = (
            each for each in reader.client.get("/v1/domain_packs").json()["data"] if each["id"] == "annual-report"
        )
        whole = reader.client.get("/v1/domain_packs/annual-report").json()
        assert (len(whole["terms"]), len(whole["rules"])) == (pack["terms"], pack["rules"])
        assert pack["description"] == whole["description"]
        assert pack["rules"] > 0

    def test_a_set_names_one(self, reader: Reader) -> None:
        assert reader.create(pack="annual-report", max_tokens=64)["pack"] == "annual-report"
        refused(
            reader.client.post("/v1/document_sets", json=reader.body(pack="no-such-pack")),
            422,
            "unprocessable",
            param="pack",
        )

    def test_or_brings_its_own(self, reader: Reader) -> None:
        made = reader.create(pack={"name": "mine", "terms": [{"name": "company"}]}, max_tokens=64)
        assert made["pack"] == "mine"
