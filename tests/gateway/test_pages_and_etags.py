"""Pages tell of every row once, whatever happens meanwhile; tags tell one version of a job from another."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from services.jobs import lifecycle
from services.jobs.types import Beat
from tests.gateway import work
from tests.gateway.conftest import Gateway
from tests.gateway.served import PROBE, refused, submit

JOBS = 23


def walk(client: httpx.Client, path: str, **params: Any) -> Iterator[dict[str, Any]]:
    """Every page from the first to the last."""
    after: dict[str, Any] = {}
    while True:
        page = client.get(path, params=params | after).json()
        assert page["object"] == "list"
        ids = [str(row["id"]) for row in page["data"]]
        assert (page["first_id"], page["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))
        yield page
        if not page["has_more"]:
            return
        after = {"after": page["last_id"]}


def ids_of(pages: Iterator[dict[str, Any]]) -> list[str]:
    return [str(row["id"]) for page in pages for row in page["data"]]


@pytest.fixture(scope="class")
def owner(gateway: Gateway) -> Iterator[httpx.Client]:
    with gateway.caller() as opened:
        yield opened


@pytest.fixture(scope="class")
def made(owner: httpx.Client) -> list[str]:
    """Jobs, newest first; many were made within the same moment."""
    with ThreadPoolExecutor(8) as threads:
        return sorted((job["id"] for job in threads.map(lambda _: submit(owner), range(JOBS))), reverse=True)


class TestJobs:
    @pytest.mark.parametrize("limit", [1, 7, JOBS - 1, JOBS, JOBS + 1, 1000])
    def test_each_is_on_one_page(self, owner: httpx.Client, made: list[str], limit: int) -> None:
        pages = list(walk(owner, "/v1/jobs", limit=limit))
        assert ids_of(iter(pages)) == made
        assert all(len(page["data"]) == min(limit, JOBS) for page in pages[:-1])

    @pytest.mark.parametrize("limit", [1, 5, 100])
    def test_backwards_too(self, owner: httpx.Client, made: list[str], limit: int) -> None:
        found, before = [made[-1]], made[-1]
        while True:
            page = owner.get("/v1/jobs", params={"limit": limit, "before": before}).json()
            found = [row["id"] for row in page["data"]] + found
            if not page["has_more"]:
                break
            before = page["first_id"]
        assert found == made

    def test_between_two_cursors(self, owner: httpx.Client, made: list[str]) -> None:
        page = owner.get("/v1/jobs", params={"after": made[3], "before": made[9], "limit": 100}).json()
        assert [row["id"] for row in page["data"]] == made[4:9]

    def test_a_walk_with_filters(self, owner: httpx.Client, made: list[str]) -> None:
        stopped = made[::3]
        for job_id in stopped:
            owner.post(f"/v1/jobs/{job_id}/cancel")
        assert ids_of(walk(owner, "/v1/jobs", limit=2, state="cancelled")) == stopped
        assert ids_of(walk(owner, "/v1/jobs", limit=4, state=["queued", "cancelled"], kind="probe")) == made

    def test_the_cursor_may_be_filtered_out_itself(self, owner: httpx.Client, made: list[str]) -> None:
        page = owner.get("/v1/jobs", params={"after": made[1], "state": "cancelled", "limit": 1}).json()
        assert page["data"][0]["id"] in made[2:]

    def test_what_comes_meanwhile_moves_no_row(self, gateway: Gateway) -> None:
        with gateway.caller() as client:
            made = [submit(client)["id"] for _ in range(6)][::-1]
            found = []
            for page in walk(client, "/v1/jobs", limit=2):
                found += [row["id"] for row in page["data"]]
                submit(client)
                work.finish(gateway.database, made[-1]) if len(found) == 2 else None
            assert found == made


class TestOtherLists:
    """Whatever has pages has them in the one way."""

    @pytest.mark.parametrize("path", ["/v1/files", "/v1/api_keys"])
    def test_files_and_keys(self, owner: httpx.Client, path: str) -> None:
        make: dict[str, Callable[[int], httpx.Response]] = {
            "/v1/files": lambda n: owner.post(path, data={"purpose": "evals"}, files={"file": (f"{n}", b"a")}),
            "/v1/api_keys": lambda n: owner.post(path, json={"name": f"{n}", "scopes": ["jobs:read"]}),
        }
        made = [make[path](number).json()["id"] for number in range(5)][::-1]
        assert ids_of(walk(owner, path, limit=2))[:5] == made
        if path == "/v1/files":
            assert ids_of(walk(owner, path, limit=2, order="asc")) == made[::-1]

    def test_events_and_logs(self, gateway: Gateway, owner: httpx.Client) -> None:
        job = submit(owner)
        for _ in range(4):
            owner.post(f"/v1/jobs/{job['id']}/pause")
            owner.post(f"/v1/jobs/{job['id']}/resume")
        claimed = work.claim(gateway.database, job["id"])
        with gateway.database.transaction() as session:
            lifecycle.add_logs(session, claimed, [("info", f"line {number}") for number in range(7)])
        events = ids_of(walk(owner, f"/v1/jobs/{job['id']}/events", limit=3))
        assert events == [str(number) for number in range(1, len(events) + 1)]
        assert len(events) == 10
        logs = [row["message"] for page in walk(owner, job["links"]["logs"], limit=3) for row in page["data"]]
        assert logs == [f"line {number}" for number in range(7)]

    @pytest.mark.parametrize("path", ["/v1/gpu_classes", "/v1/workers"])
    def test_short_lists_are_one_page(self, owner: httpx.Client, path: str) -> None:
        page = owner.get(path).json()
        assert page["has_more"] is False
        assert page["first_id"] == (page["data"][0]["id"] if page["data"] else None)


class TestTags:
    def test_every_change_has_its_own(self, gateway: Gateway, client: httpx.Client) -> None:
        job = submit(client)
        path = f"/v1/jobs/{job['id']}"
        tags = [client.get(path).headers["etag"]]

        def changed(name: str) -> None:
            answer = client.get(path, headers={"if-none-match": tags[-1]})
            assert answer.status_code == 200, name
            assert answer.headers["etag"] == f'"{answer.json()["version"]}"'
            tags.append(answer.headers["etag"])
            same = client.get(path, headers={"if-none-match": tags[-1]})
            assert (same.status_code, same.content) == (304, b"")

        client.post(f"{path}/pause")
        changed("pause")
        client.post(f"{path}/resume")
        changed("resume")
        claimed = work.claim(gateway.database, job["id"])
        changed("claim")
        with gateway.database.transaction() as session:
            lifecycle.beat(session, [Beat(claimed.job_id, claimed.attempt, done=1, total=2)])
        with gateway.database.transaction() as session:
            lifecycle.progress(session, [Beat(claimed.job_id, claimed.attempt, done=1, total=2)])
        changed("progress")
        client.post(f"{path}/cancel")
        changed("cancel requested")
        work.end(gateway.database, claimed)
        changed("end")
        assert len(set(tags)) == len(tags)

    def test_looking_is_no_change(self, client: httpx.Client) -> None:
        path = f"/v1/jobs/{submit(client)['id']}"
        for part in ("explain", "events", "logs", "attempts"):
            client.get(f"{path}/{part}")
        assert client.get(path, headers={"if-none-match": '"1"'}).status_code == 304

    @pytest.mark.parametrize(
        ("given", "status"),
        [('"1"', 304), ('W/"1"', 304), ("*", 304), ('"7", "1"', 304), ('"7"', 200), ("1", 200), ('""', 200)],
    )
    def test_which_tags_are_this_one(self, client: httpx.Client, given: str, status: int) -> None:
        path = f"/v1/jobs/{submit(client)['id']}"
        assert client.get(path, headers={"if-none-match": given}).status_code == status

    @pytest.mark.parametrize("verb", ["cancel", "pause", "resume"])
    @pytest.mark.parametrize(("given", "status"), [('"1"', 200), ("*", 200), ('W/"1"', 412), ('"2"', 412), ("1", 412)])
    def test_a_verb_acts_on_the_version_seen(self, client: httpx.Client, verb: str, given: str, status: int) -> None:
        path = f"/v1/jobs/{submit(client)['id']}"
        answer = client.post(f"{path}/{verb}", headers={"if-match": given})
        assert answer.status_code == status
        if status == 412:
            refused(answer, 412, "precondition_failed", param="If-Match")
            assert client.get(path).json()["version"] == 1

    def test_of_many_who_saw_it_one_acts(self, client: httpx.Client) -> None:
        path = f"/v1/jobs/{submit(client)['id']}"
        with ThreadPoolExecutor(8) as threads:
            statuses = sorted(
                threads.map(lambda _: client.post(f"{path}/pause", headers={"if-match": '"1"'}).status_code, range(8))
            )
        assert statuses == [200] + [412] * 7

    def test_a_job_that_waits_has_one_too(self, gateway: Gateway, client: httpx.Client) -> None:
        answer = client.post("/v1/jobs", params={"wait": 0.1}, json=PROBE)
        assert answer.headers["etag"] == '"1"'
        ended = submit(client)
        work.finish(gateway.database, ended["id"])
        final = client.get(f"/v1/jobs/{ended['id']}", params={"wait": 20})
        again = client.get(
            f"/v1/jobs/{ended['id']}", params={"wait": 20}, headers={"if-none-match": final.headers["etag"]}
        )
        assert again.status_code == 304
