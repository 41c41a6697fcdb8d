"""The command line as a process of its own against a whole yard: what it prints, and what it ends with."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.cli.output import ExitCode
from tests.support.yards import RunningYard, run_cli, yards

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

NOBODY = "019b2f6e-8a51-7c3e-9d44-0f6f1f6b2a10"


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningYard]:
    with yards(tmp_path_factory.mktemp("cli")) as start:
        yield start(reaper_tick_s=1)


def answer(yard: RunningYard, *arguments: str, code: ExitCode = ExitCode.OK) -> Any:
    """What a command prints with --json: one object on stdout."""
    done = yard.cli(*arguments, "--json", check=False)
    assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout)


def probe(yard: RunningYard, *arguments: str, steps: int = 0, code: ExitCode = ExitCode.OK) -> dict[str, Any]:
    """Submit a job that waits `steps` times half a second."""
    spec = ("--set", f"steps={steps}", "--set", "step_seconds=0.5")
    found: dict[str, Any] = answer(yard, "jobs", "submit", "--kind", "probe", *spec, *arguments, code=code)
    return found


@pytest.fixture(scope="module")
def finished(yard: RunningYard) -> dict[str, Any]:
    """An inference job that has run."""
    prompts = ("--prompt", "What does os.walk do?", "--prompt", "Explain json.dumps.")
    limits = ("--max-tokens", "16", "--metadata", "project=cli", "--wait")
    job: dict[str, Any] = answer(yard, "jobs", "submit", "--model", "yard-tiny", "--chat", *prompts, *limits)
    return job


class TestSubmit:
    def test_waits_for_the_result(self, finished: dict[str, Any]) -> None:
        assert finished["state"] == "succeeded"
        assert [line["index"] for line in finished["results"]] == [0, 1]
        assert all(line["output"]["text"] for line in finished["results"])
        assert finished["metadata"] == {"project": "cli"}

    def test_shows_results_to_people(self, yard: RunningYard) -> None:
        done = yard.cli("jobs", "submit", "-m", "yard-tiny", "-p", "import os", "--max-tokens", "4", "--wait")
        assert "succeeded" in done.stdout
        assert "finish" in done.stdout
        assert "job " in done.stderr

    def test_one_key_makes_one_job(self, yard: RunningYard) -> None:
        first, second = (probe(yard, "--idempotency-key", "the-same") for _ in range(2))
        assert first["id"] == second["id"]

    def test_takes_a_whole_request(self, yard: RunningYard, tmp_path: Path) -> None:
        file = tmp_path / "job.json"
        file.write_text(json.dumps({"kind": "probe", "spec": {"steps": 0}, "priority": 9}))
        assert answer(yard, "jobs", "submit", "--file", str(file))["priority"] == 9

    def test_a_whole_request_goes_with_no_other_option(self, yard: RunningYard, tmp_path: Path) -> None:
        done = yard.cli("jobs", "submit", "--file", str(tmp_path / "job.json"), "--priority", "3", check=False)
        assert done.returncode == ExitCode.USAGE
        assert "--file" in done.stderr

    def test_only_plans_when_told_so(self, yard: RunningYard) -> None:
        before = answer(yard, "jobs", "list", "--all")["data"]
        plan = answer(yard, "jobs", "submit", "-m", "yard-tiny", "-p", "import os", "--validate-only")
        assert plan["plan"]["queue"] == "cpu.serve"
        assert len(answer(yard, "jobs", "list", "--all")["data"]) == len(before)

    def test_options_become_the_request(self, yard: RunningYard) -> None:
        job = probe(yard, "--tier", "batch", "--priority", "2", "--run-after", "1h", "--deadline", "2h", "--paused")
        assert (job["tier"], job["priority"]) == ("batch", 2)
        assert job["held_at"]
        assert job["run_after"] < job["deadline"]

    def test_a_secret_that_was_made_is_shown(self, yard: RunningYard) -> None:
        job = probe(yard, "--webhook", "http://127.0.0.1:9/hook", "--wait")
        assert job["webhook"]["secret"].startswith("whsec_")


class TestRefusals:
    def test_a_field_is_named(self, yard: RunningYard) -> None:
        problem = probe(yard, "--priority", "-1", code=ExitCode.REFUSED)
        assert problem["status"] == 422
        assert problem["errors"][0]["param"] == "priority"

    def test_people_read_the_field_and_the_fix(self, yard: RunningYard) -> None:
        done = yard.cli("jobs", "submit", "--model", "nope", "--prompt", "x", check=False)
        assert done.returncode == ExitCode.REFUSED
        assert done.stdout == ""
        assert "spec.model" in done.stderr
        assert "modelyard models list" in done.stderr

    def test_a_job_that_is_not_there(self, yard: RunningYard) -> None:
        assert answer(yard, "jobs", "get", NOBODY, code=ExitCode.NOT_FOUND)["code"] == "not_found"

    def test_a_wrong_key(self, yard: RunningYard) -> None:
        problem = answer(yard, "jobs", "list", "--api-key", "modelyard_wrong", code=ExitCode.REFUSED)
        assert problem["code"] == "invalid_api_key"

    def test_an_unknown_option(self, yard: RunningYard) -> None:
        assert yard.cli("jobs", "list", "--colour", check=False).returncode == ExitCode.USAGE

    def test_a_folder_without_a_yard(self, yard: RunningYard, tmp_path: Path) -> None:
        done = run_cli("jobs", "list", "--data", str(tmp_path), env=yard.environment)
        assert done.returncode == ExitCode.UNREACHABLE
        assert "modelyard up" in done.stderr


class TestAddress:
    def test_the_folder_is_enough(self, yard: RunningYard) -> None:
        done = run_cli("jobs", "list", "--json", "--data", str(yard.place.data), env=yard.environment)
        assert done.returncode == ExitCode.OK, done.stderr


class TestWait:
    def test_succeeded(self, yard: RunningYard, finished: dict[str, Any]) -> None:
        assert answer(yard, "jobs", "wait", finished["id"])["state"] == "succeeded"

    def test_cancelled(self, yard: RunningYard) -> None:
        job = probe(yard, steps=600)
        yard.cli("jobs", "cancel", job["id"])
        assert answer(yard, "jobs", "wait", job["id"], code=ExitCode.CANCELLED)["state"] == "cancelled"

    def test_expired(self, yard: RunningYard) -> None:
        job = probe(yard, "--paused", "--deadline", "1s")
        assert answer(yard, "jobs", "wait", job["id"], code=ExitCode.EXPIRED)["state"] == "expired"

    def test_failed(self, yard: RunningYard) -> None:
        with yard.client() as client:
            lines = {"file": ("lines.jsonl", b"not JSON\n")}
            file = client.post("/v1/files", files=lines, data={"purpose": "user_data"}).json()
        arguments = ("--model", "yard-tiny", "--input-file", file["id"], "--wait")
        job = answer(yard, "jobs", "submit", *arguments, code=ExitCode.FAILED)
        assert job["error"]["code"] == "invalid_json"

    def test_not_in_time(self, yard: RunningYard) -> None:
        job = probe(yard, "--paused")
        late = answer(yard, "jobs", "wait", job["id"], "--timeout", "0.5", code=ExitCode.TIMEOUT)
        assert late["error"]["code"] == "timeout"


class TestList:
    def test_goes_on_page_by_page(self, yard: RunningYard) -> None:
        made = [probe(yard)["id"] for _ in range(3)]
        first = answer(yard, "jobs", "list", "--limit", "2")
        rest = answer(yard, "jobs", "list", "--all", "--after", first["data"][-1]["id"])
        ids = [job["id"] for job in first["data"] + rest["data"]]
        assert ids[:3] == made[::-1]
        assert len(ids) == len(set(ids))
        assert (first["has_more"], rest["has_more"]) == (True, False)

    def test_filters(self, yard: RunningYard, finished: dict[str, Any]) -> None:
        found = answer(yard, "jobs", "list", "--kind", "inference", "--state", "succeeded", "--all")["data"]
        assert finished["id"] in [job["id"] for job in found]
        assert {job["kind"] for job in found} == {"inference"}

    def test_people_get_a_table(self, yard: RunningYard, finished: dict[str, Any]) -> None:
        done = yard.cli("jobs", "list", "--kind", "inference")
        assert finished["id"] in done.stdout
        assert "progress" in done.stdout.splitlines()[0]


class TestVerbs:
    def test_pause_and_resume(self, yard: RunningYard) -> None:
        job = probe(yard, "--paused")
        assert "paused" in yard.cli("jobs", "pause", job["id"]).stdout
        assert answer(yard, "jobs", "explain", job["id"])["cause"] == "held"
        assert answer(yard, "jobs", "resume", job["id"])["held_at"] is None
        assert answer(yard, "jobs", "wait", job["id"])["state"] == "succeeded"

    def test_retry_is_a_new_job(self, yard: RunningYard, finished: dict[str, Any]) -> None:
        again = answer(yard, "jobs", "retry", finished["id"])
        assert again["retry_of"] == finished["id"]
        assert answer(yard, "jobs", "wait", again["id"])["results"] == finished["results"]

    def test_explain_speaks(self, yard: RunningYard, finished: dict[str, Any]) -> None:
        assert "The job has ended" in yard.cli("jobs", "explain", finished["id"]).stdout


class TestEvents:
    def test_a_finished_job_has_all(self, yard: RunningYard, finished: dict[str, Any]) -> None:
        events = answer(yard, "jobs", "events", finished["id"])["data"]
        assert [event["id"] for event in events] == list(range(1, len(events) + 1))
        assert (events[0]["type"], events[-1]["type"]) == ("job.queued", "job.succeeded")

    def test_are_followed_to_the_end(self, yard: RunningYard) -> None:
        job = probe(yard, steps=3)
        lines = yard.cli("jobs", "events", job["id"], "--follow", "--json").stdout.splitlines()
        assert [json.loads(line)["id"] for line in lines] == list(range(1, len(lines) + 1))
        assert json.loads(lines[-1])["type"] == "job.succeeded"

    def test_go_on_after_a_number(self, yard: RunningYard, finished: dict[str, Any]) -> None:
        events = answer(yard, "jobs", "events", finished["id"], "--after", "1")["data"]
        assert events[0]["id"] == 2

    def test_people_get_lines(self, yard: RunningYard, finished: dict[str, Any]) -> None:
        assert "job.succeeded" in yard.cli("jobs", "events", finished["id"]).stdout


class TestLogs:
    def test_are_a_list(self, yard: RunningYard, finished: dict[str, Any]) -> None:
        assert answer(yard, "jobs", "logs", finished["id"])["object"] == "list"

    def test_are_followed_to_the_end(self, yard: RunningYard) -> None:
        job = probe(yard, steps=1)
        yard.cli("jobs", "logs", job["id"], "--follow")
        assert answer(yard, "jobs", "get", job["id"])["state"] == "succeeded"


class TestArtifacts:
    def test_are_listed(self, yard: RunningYard, finished: dict[str, Any]) -> None:
        (found,) = answer(yard, "artifacts", "list", finished["id"])["data"]
        assert found["name"] == "results.jsonl"
        assert found["sha256"] in yard.cli("artifacts", "list", finished["id"]).stdout

    def test_are_brought_and_checked(self, yard: RunningYard, finished: dict[str, Any], tmp_path: Path) -> None:
        found = answer(yard, "artifacts", "download", "--job", finished["id"], "--output", str(tmp_path))
        content = (tmp_path / "results.jsonl").read_bytes()
        assert hashlib.sha256(content).hexdigest() == found["sha256"]
        assert [json.loads(line)["index"] for line in content.splitlines()] == [0, 1]

    def test_go_on_from_a_part(self, yard: RunningYard, finished: dict[str, Any], tmp_path: Path) -> None:
        artifact = finished["artifacts"][0]
        with yard.client() as client:
            content = client.get(artifact["content"]).content
        (tmp_path / "out.part").write_bytes(content[:100])
        answer(yard, "artifacts", "download", artifact["id"], "--output", str(tmp_path / "out"))
        assert (tmp_path / "out").read_bytes() == content
        assert not (tmp_path / "out.part").exists()

    def test_do_not_replace_what_is_there(self, yard: RunningYard, finished: dict[str, Any], tmp_path: Path) -> None:
        (tmp_path / "out").write_text("mine")
        arguments = ("artifacts", "download", "--job", finished["id"], "--output", str(tmp_path / "out"))
        assert answer(yard, *arguments, code=ExitCode.REFUSED)["error"]["code"] == "already_there"
        assert answer(yard, *arguments, "--force")["downloaded"]
        assert not answer(yard, *arguments)["downloaded"]

    def test_a_job_without_any(self, yard: RunningYard) -> None:
        job = probe(yard, "--wait")
        missing = answer(yard, "artifacts", "download", "--job", job["id"], code=ExitCode.NOT_FOUND)
        assert missing["error"]["code"] == "no_artifact"

    def test_one_way_of_naming_it(self, yard: RunningYard) -> None:
        assert yard.cli("artifacts", "download", check=False).returncode == ExitCode.USAGE
