"""`modelyard batches`: what is sent, what is brought back, and how it ends."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from services.cli import following_sets
from services.cli.batches import app
from services.cli.output import ExitCode
from tests.services.cli.scripted import Answer, Gateway, gateway, reply

LINE = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"model": "tiny", "prompt": "x"}}
OUTPUT, ERRORS = b'{"custom_id":"a"}\n', b'{"custom_id":"b"}\n'


def batch(status: str = "completed", *, failed: int = 0, **fields: Any) -> dict[str, Any]:
    ended = status == "completed"
    return {
        "id": "batch_1",
        "object": "batch",
        "endpoint": "/v1/completions",
        "model": "tiny",
        "errors": None,
        "input_file_id": "file-in",
        "completion_window": "24h",
        "status": status,
        "output_file_id": "file-out" if ended else None,
        "error_file_id": "file-err" if failed else None,
        "created_at": 1769860800,
        "expires_at": 1769947200,
        "request_counts": {"total": 2, "completed": 2 - failed, "failed": failed},
        "usage": None,
        "metadata": None,
        **fields,
    }


def file(id_: str, content: bytes) -> Answer:
    return reply(200, {"id": id_, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()})


def modelyard(running: Gateway, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--url", running.url, "--api-key", "modelyard_test"])


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following_sets, "FIRST_LOOK_S", 0.01)


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "lines.jsonl"
    path.write_text(f"\n{json.dumps(LINE)}\n")
    return path


class TestCreate:
    def test_a_file_becomes_a_batch(self, lines: Path) -> None:
        script = (reply(200, {"id": "file-in"}), reply(200, batch("validating")))
        with gateway(*script) as running:
            done = modelyard(
                running, "create", str(lines), "--window", "4h", "--priority", "7", "--metadata", "a=b", "--json"
            )
        assert done.exit_code == ExitCode.OK, done.output
        assert json.loads(done.stdout)["id"] == "batch_1"
        upload, create = running.asked
        assert b'name="purpose"\r\n\r\nbatch\r\n' in upload.body
        assert json.loads(create.body) == {
            "input_file_id": "file-in",
            "endpoint": "/v1/completions",  # of the first line
            "completion_window": "4h",
            "priority": 7,
            "metadata": {"a": "b"},
        }

    def test_waiting_brings_both_files(self, lines: Path, tmp_path: Path) -> None:
        out, errors = tmp_path / "out.jsonl", tmp_path / "err.jsonl"
        script = (
            reply(200, {"id": "file-in"}),
            reply(200, batch("validating", request_counts={"total": 0, "completed": 0, "failed": 0})),
            reply(200, batch("in_progress")),
            reply(200, batch(failed=1)),
            file("file-out", OUTPUT),
            reply(200, OUTPUT),
            file("file-err", ERRORS),
            reply(200, ERRORS),
        )
        with gateway(*script) as running:
            done = modelyard(running, "create", str(lines), "--out", str(out), "--errors", str(errors), "--json")
        assert done.exit_code == ExitCode.INCOMPLETE, done.output
        assert json.loads(done.stdout) == {**batch(failed=1), "out": str(out), "errors_out": str(errors)}
        assert (out.read_bytes(), errors.read_bytes()) == (OUTPUT, ERRORS)
        assert "validating" in done.stderr
        assert [asked.path for asked in running.asked][4:] == [
            "/v1/files/file-out",
            "/v1/files/file-out/content",
            "/v1/files/file-err",
            "/v1/files/file-err/content",
        ]

    def test_a_batch_without_failures_has_no_error_file(self, lines: Path, tmp_path: Path) -> None:
        script = (reply(200, {"id": "file-in"}), reply(200, batch()))
        with gateway(*script) as running:
            done = modelyard(running, "create", str(lines), "--wait", "--errors", str(tmp_path / "err.jsonl"))
        assert done.exit_code == ExitCode.OK, done.output
        assert "no line failed" in done.stderr
        assert not (tmp_path / "err.jsonl").exists()

    def test_an_uploaded_file_is_named(self) -> None:
        with gateway(reply(200, batch("validating"))) as running:
            modelyard(running, "create", "file-in", "--endpoint", "/v1/embeddings")
        (create,) = running.asked
        assert json.loads(create.body)["input_file_id"] == "file-in"
        assert json.loads(create.body)["endpoint"] == "/v1/embeddings"

    def test_a_bad_file_fails_and_says_where(self, lines: Path) -> None:
        problems = [{"code": "invalid_json", "message": "not JSON", "line": 2, "param": None}]
        bad = batch("failed", errors={"object": "list", "data": problems})
        with gateway(reply(200, {"id": "file-in"}), reply(200, batch("validating")), reply(200, bad)) as running:
            done = modelyard(running, "create", str(lines), "--wait")
        assert done.exit_code == ExitCode.FAILED
        assert "line 2: not JSON (invalid_json)" in done.stderr

    @pytest.mark.parametrize("content", [b"", b"not JSON\n", b"\xff\xfe\n", b"[1]\n", b"x" * 2**21])
    def test_what_is_wrong_with_lines_is_for_the_platform_to_say(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "bad.jsonl").write_bytes(content)
        with gateway(reply(200, {"id": "file-in"}), reply(200, batch("validating"))) as running:
            done = modelyard(running, "create", str(tmp_path / "bad.jsonl"))
        assert done.exit_code == ExitCode.OK, done.output
        assert json.loads(running.asked[1].body)["endpoint"] == "/v1/chat/completions"

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with gateway(reply(500)) as running:
            done = modelyard(running, "create", str(tmp_path / "nothing.jsonl"))
        assert done.exit_code == ExitCode.USAGE
        assert "nothing.jsonl" in done.stderr


class TestResults:
    def test_go_to_a_pipe(self) -> None:
        with gateway(reply(200, batch()), reply(200, OUTPUT)) as running:
            done = modelyard(running, "results", "batch_1")
        assert (done.exit_code, done.stdout) == (ExitCode.OK, OUTPUT.decode())

    def test_wait_for_the_end(self) -> None:
        with gateway(reply(200, batch("in_progress"))) as running:
            done = modelyard(running, "results", "batch_1")
        assert done.exit_code == ExitCode.REFUSED
        assert "modelyard batches wait batch_1" in done.stderr


class TestRetry:
    def test_is_a_new_batch(self) -> None:
        with gateway(reply(200, batch("validating", id="batch_2")), reply(200, batch(id="batch_2"))) as running:
            done = modelyard(running, "retry", "batch_1", "--wait", "--json")
        assert json.loads(done.stdout)["id"] == "batch_2"
        assert [asked.path for asked in running.asked] == ["/v1/batches/batch_1/retry", "/v1/batches/batch_2"]


class TestList:
    def test_goes_on_page_by_page(self) -> None:
        first = {"data": [batch(id=f"batch_{n}") for n in range(2)], "has_more": True, "last_id": "batch_1"}
        rest = {"data": [batch(id="batch_2")], "has_more": False, "last_id": "batch_2"}
        with gateway(reply(200, first), reply(200, rest)) as running:
            done = modelyard(running, "list", "--all", "--json")
        assert [each["id"] for each in json.loads(done.stdout)["data"]] == ["batch_0", "batch_1", "batch_2"]
        assert running.asked[1].path == "/v1/batches?after=batch_1&limit=100"
