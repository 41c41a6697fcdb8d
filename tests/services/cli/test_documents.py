"""`modelyard documents`: what is sent, what is skipped, what is brought back, and how it ends."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from services.cli import following_sets
from services.cli.documents import app
from services.cli.documents_request import Found, Wanted, find, pack
from services.cli.documents_view import flags
from services.cli.output import ExitCode
from tests.services.cli.scripted import Answer, Gateway, gateway, reply

CSV = b"file_id,filename\n"
RECORD: dict[str, Any] = {
    "id": "0", "index": 0, "filename": "a.txt", "pages": 1, "status": "flagged", "error": None,
    "result": {"company": "Northwind"}, "flags": [],
    "values": [{"check": "violates:sum", "flags": ["no_quote"]}, {"check": "verified", "flags": ["no_quote"]}],
}  # fmt: skip
Run = Callable[..., Result]


def document_set(status: str = "completed", *, failed: int = 0, **fields: Any) -> dict[str, Any]:
    table = {"id": "artifact-1", "name": "results.csv", "bytes": len(CSV), "sha256": hashlib.sha256(CSV).hexdigest()}
    return {
        "id": "docset_1",
        "object": "document_set",
        "job_id": "j",
        "status": status,
        "model": "tiny",
        "operation": {"type": "summarize", "words": 200},
        "pack": None,
        "counts": {"total": 2, "completed": 2 - failed, "flagged": 0, "failed": failed},
        "pages": 2,
        "created_at": 1769860800,
        "finished_at": None,
        "expires_at": None,
        "artifacts": [{**table, "url": "/v1/artifacts/artifact-1/content"}] if status == "completed" else [],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "gpu_seconds": 0.1},
        "cost": 0.0,
        "error": None,
        "metadata": {},
        **fields,
    }


def script(*, ends: dict[str, Any] | None = None, uploads: int = 2) -> list[Answer]:
    """A gateway that takes the documents and reads them."""
    sent = [reply(200, {"id": f"file-{number}"}) for number in range(uploads)]
    return [*sent, reply(202, document_set("queued")), reply(200, ends or document_set()), reply(200, CSV)]


def modelyard(running: Gateway, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--url", running.url, "--api-key", "modelyard_test"])


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following_sets, "FIRST_LOOK_S", 0.01)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "reports"
    (root / "2024").mkdir(parents=True)
    for name in ("b.txt", "a.md", "photo.png", ".DS_Store", "~$open.docx", "2024/c.PDF"):
        (root / name).write_bytes(b"content")
    return root


class TestRun:
    def test_a_folder_becomes_a_table(self, folder: Path, tmp_path: Path) -> None:
        out = tmp_path / "results.csv"
        with gateway(*script()) as running:
            done = modelyard(running, "run", str(folder), "-m", "tiny", "--summarize", "--out", str(out), "--json")
        assert done.exit_code == ExitCode.OK, done.output
        assert json.loads(done.stdout) == {**document_set(), "out": str(out)}
        assert out.read_bytes() == CSV
        assert "skipped" in done.stderr
        assert "photo.png" in done.stderr
        assert ".DS_Store" not in done.stderr
        *uploads, create, _, content = running.asked
        assert {asked.path for asked in uploads} == {"/v1/files"}
        assert json.loads(create.body) == {
            "model": "tiny",
            "operation": {"type": "summarize"},
            "files": ["file-0", "file-1"],
        } or json.loads(create.body)["files"] == ["file-1", "file-0"]  # they are sent side by side
        assert content.path == "/v1/artifacts/artifact-1/content"

    def test_options_become_the_request(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "S.json").write_text('{"type": "object", "properties": {"a": {"type": "string"}}}')
        options = (
            "--schema", str(tmp_path / "S.json"), "--pack", "annual-report", "--chunk-tokens", "300", "--overlap", "30",
            "--max-tokens", "64", "--seed", "7", "--metadata", "a=b",
        )  # fmt: skip
        with gateway(*script(uploads=1)) as running:
            done = modelyard(running, "run", str(folder / "b.txt"), "-m", "tiny", *options)
        assert done.exit_code == ExitCode.OK, done.output
        assert json.loads(running.asked[1].body) == {
            "model": "tiny",
            "operation": {
                "type": "extract",
                "schema": {"type": "object", "properties": {"a": {"type": "string"}}},
            },
            "pack": "annual-report",
            "chunking": {"tokens": 300, "overlap": 30},
            "max_tokens": 64,
            "seed": 7,
            "metadata": {"a": "b"},
            "files": ["file-0"],
        }

    @pytest.mark.parametrize(
        ("more", "code"), [((), ExitCode.INCOMPLETE), (("--allow-failures",), ExitCode.OK)], ids=["strict", "allowed"]
    )
    def test_documents_that_failed_are_an_exit_code(self, folder: Path, more: tuple[str, ...], code: ExitCode) -> None:
        with gateway(*script(ends=document_set(failed=1))) as running:
            done = modelyard(running, "run", str(folder), "-m", "tiny", "--summarize", *more)
        assert done.exit_code == code
        assert "1 failed" in done.stderr

    def test_a_set_that_is_refused_leaves_no_files(self, folder: Path) -> None:
        refused = reply(404, {"code": "model_not_found", "detail": "There is no model of that name.", "param": "model"})
        answers = (*script()[:2], refused, reply(200, {"deleted": True}))
        with gateway(*answers) as running:
            done = modelyard(running, "run", str(folder), "-m", "nobody", "--summarize")
        assert done.exit_code == ExitCode.REFUSED
        assert "modelyard models list" in done.stderr
        deleted = {asked.path for asked in running.asked if asked.method == "DELETE"}
        assert deleted == {"/v1/files/file-0", "/v1/files/file-1"}

    def test_detached_it_says_the_id(self, folder: Path) -> None:
        with gateway(*script()) as running:
            done = modelyard(running, "run", str(folder), "-m", "tiny", "--summarize", "--detach")
        assert (done.exit_code, done.stdout) == (ExitCode.OK, "docset_1\n")
        assert len(running.asked) == 3

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (("--summarize", "--out", "results.xls"), ".parquet"),
            (("--summarize", "--report", "report.pdf"), ".html"),
            (("--summarize", "--out", "nowhere/results.csv"), "not a folder"),
            ((), "--schema"),
            (("--summarize", "--labels", "a,b"), "one of"),
            (("--summarize", "--multi"), "--labels"),
            (("--labels", "a,b", "--words", "9"), "--summarize"),
            (("--schema", "nothing.json"), "cannot read"),
        ],
    )
    def test_a_wrong_option_costs_no_upload(self, folder: Path, arguments: tuple[str, ...], told: str) -> None:
        with gateway(reply(500)) as running:
            done = modelyard(running, "run", str(folder), "-m", "tiny", *arguments)
        assert done.exit_code == ExitCode.USAGE
        assert told in " ".join(done.stderr.replace("│", " ").split())
        assert running.asked == []

    def test_a_table_that_is_there_costs_none_either(self, folder: Path, tmp_path: Path) -> None:
        out = tmp_path / "results.csv"
        out.write_text("mine")
        with gateway(*script()) as running:
            done = modelyard(running, "run", str(folder), "-m", "tiny", "--summarize", "--out", str(out))
            assert done.exit_code == ExitCode.REFUSED
            assert running.asked == []
            again = modelyard(running, "run", str(folder), "-m", "tiny", "--summarize", "--out", str(out), "--force")
        assert again.exit_code == ExitCode.OK, again.output
        assert out.read_bytes() == CSV


class TestWait:
    def test_goes_on_where_it_was_left(self, tmp_path: Path) -> None:
        answers = (reply(200, document_set("in_progress")), reply(200, document_set()), reply(200, CSV))
        with gateway(*answers) as running:
            done = modelyard(running, "wait", "docset_1", "--out", str(tmp_path / "t.csv"))
        assert done.exit_code == ExitCode.OK, done.output
        assert (tmp_path / "t.csv").read_bytes() == CSV

    def test_a_cancelled_set_has_no_table_and_its_own_code(self, tmp_path: Path) -> None:
        with gateway(reply(200, document_set("cancelled"))) as running:
            done = modelyard(running, "wait", "docset_1", "--out", str(tmp_path / "t.csv"))
        assert done.exit_code == ExitCode.CANCELLED
        assert not (tmp_path / "t.csv").exists()


class TestResults:
    def test_are_shown_page_by_page(self) -> None:
        page = {"data": [RECORD], "has_more": True, "last_id": "0"}
        rest = {"data": [{**RECORD, "id": "1", "index": 1}], "has_more": False, "last_id": "1"}
        with gateway(reply(200, page), reply(200, rest)) as running:
            done = modelyard(running, "results", "docset_1", "--all", "--json")
        assert [record["index"] for record in json.loads(done.stdout)["data"]] == [0, 1]
        assert [asked.path for asked in running.asked] == [
            "/v1/document_sets/docset_1/results?limit=100",
            "/v1/document_sets/docset_1/results?after=0&limit=100",
        ]

    def test_flags_are_counted(self) -> None:
        assert flags(RECORD) == "no_quote ×2, violates:sum"


class TestFind:
    def test_a_folder_is_looked_through(self, folder: Path) -> None:
        found = find([folder], recursive=False)
        assert [name for _, name in found.documents] == ["a.md", "b.txt"]
        assert sorted(path.name for path in found.skipped) == ["photo.png", "~$open.docx"]

    def test_and_those_below_it(self, folder: Path) -> None:
        found = find([folder], recursive=True)
        assert [name for _, name in found.documents] == ["2024/c.PDF", "a.md", "b.txt"]

    def test_files_may_be_named_themselves(self, folder: Path) -> None:
        document = folder / "2024/c.PDF"
        assert find([document], recursive=False) == Found(((document, "c.PDF"),), ())

    def test_what_cannot_be_read_is_refused_then(self, folder: Path) -> None:
        with pytest.raises(typer.BadParameter, match="PDF, DOCX"):
            find([folder / "photo.png"], recursive=False)

    def test_a_folder_without_documents(self, tmp_path: Path) -> None:
        with pytest.raises(typer.BadParameter, match=r"no documents in .*--recursive"):
            find([tmp_path], recursive=False)

    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(typer.BadParameter, match="there is no"):
            find([tmp_path / "nothing"], recursive=False)


class TestWanted:
    def test_labels(self) -> None:
        operation = Wanted(labels=" invoice, contract ,", multi=True).operation()
        assert operation == {"type": "classify", "labels": ["invoice", "contract"], "multi_label": True}

    def test_a_template(self, tmp_path: Path) -> None:
        (tmp_path / "prompt.txt").write_text("Read {text}")
        assert Wanted(template=tmp_path / "prompt.txt").operation() == {"type": "custom", "template": "Read {text}"}

    def test_a_summary_of_a_length(self) -> None:
        assert Wanted(summarize=True, words=50).operation() == {"type": "summarize", "words": 50}


class TestPack:
    def test_a_name_is_a_name(self) -> None:
        assert pack("annual-report") == "annual-report"

    def test_a_folder_is_sent_inline(self, tmp_path: Path) -> None:
        (tmp_path / "pack.toml").write_text('name = "mine"\n')
        (tmp_path / "terms.csv").write_text("name,aliases\nassets,Total assets|Aktiva\n")
        sent = pack(str(tmp_path))
        assert isinstance(sent, dict)
        assert sent["name"] == "mine"
        assert sent["terms"][0]["aliases"] == ["Total assets", "Aktiva"]

    def test_a_folder_with_a_mistake_names_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "pack.toml").write_text("name = \n")
        with pytest.raises(typer.BadParameter, match=r"pack\.toml"):
            pack(str(tmp_path))
