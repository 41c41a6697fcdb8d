"""Files, batches, documents and a quantization through the command line, against a whole yard and a real engine."""

import csv
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from infra.documents.samples import generate
from services.cli.files_upload import WHOLE_BYTES
from services.cli.output import ExitCode
from tests.support.yards import RunningYard, yards

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ENDPOINT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningYard]:
    with yards(tmp_path_factory.mktemp("cli")) as start:
        yield start()


def answer(yard: RunningYard, *arguments: str, code: ExitCode = ExitCode.OK) -> Any:
    """What a command prints with --json: one object on stdout."""
    done = yard.cli(*arguments, "--json", check=False, timeout=240)
    assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}\n{yard.logs()}"
    return json.loads(done.stdout)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class TestFiles:
    def test_a_large_one_goes_in_parts_and_comes_back(self, yard: RunningYard, tmp_path: Path) -> None:
        large, back = tmp_path / "large.bin", tmp_path / "back.bin"
        with large.open("wb") as file:
            file.write(b"beginning")
            file.truncate(WHOLE_BYTES + 7)
        made = answer(yard, "files", "upload", str(large), "--expires", "2h")
        assert made["bytes"] == WHOLE_BYTES + 7
        assert made["expires_at"] == made["created_at"] + 7200
        yard.cli("files", "content", made["id"], "--output", str(back))
        with back.open("rb") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() == made["sha256"]
        assert made["id"] in yard.cli("files", "list").stdout
        assert answer(yard, "files", "delete", made["id"])["deleted"]
        assert answer(yard, "files", "get", made["id"], code=ExitCode.NOT_FOUND)["code"] == "not_found"


class TestBatches:
    @pytest.fixture
    def lines(self, tmp_path: Path) -> Path:
        def line(name: str, *, text: str = "What does os.walk do?", tokens: int = 8) -> str:
            body = {"model": "yard-tiny", "messages": [{"role": "user", "content": text}], "max_tokens": tokens}
            return json.dumps({"custom_id": name, "method": "POST", "url": ENDPOINT, "body": body}) + "\n"

        path = tmp_path / "lines.jsonl"
        path.write_text(line("b") + line("bad", tokens=-1) + line("a", text="import os") + line("again"))
        return path

    def test_a_file_comes_back_in_order_with_its_failures_apart(
        self, yard: RunningYard, lines: Path, tmp_path: Path
    ) -> None:
        out, errors = tmp_path / "out.jsonl", tmp_path / "errors.jsonl"
        files = ("--out", str(out), "--errors", str(errors))
        batch = answer(yard, "batches", "create", str(lines), *files, code=ExitCode.INCOMPLETE)
        assert (batch["status"], batch["endpoint"]) == ("completed", ENDPOINT)
        assert batch["request_counts"] == {"total": 4, "completed": 3, "failed": 1}
        answers = read(out)
        assert [each["custom_id"] for each in answers] == ["b", "a", "again"]
        texts = [each["response"]["body"]["choices"][0]["message"]["content"] for each in answers]
        assert texts[0] == texts[2]
        (failed,) = read(errors)
        assert failed["custom_id"] == "bad"
        assert failed["response"]["body"]["error"]["param"] == "max_tokens"

        piped = yard.cli("batches", "results", batch["id"])
        assert piped.stdout == out.read_text()
        again = answer(yard, "batches", "retry", batch["id"], "--wait", "--allow-failures")
        assert again["request_counts"] == {"total": 1, "completed": 0, "failed": 1}
        assert [each["id"] for each in answer(yard, "batches", "list")["data"]][:2] == [again["id"], batch["id"]]
        assert answer(yard, "batches", "wait", batch["id"], "--allow-failures")["id"] == batch["id"]

    def test_a_file_that_cannot_be_used_names_its_line(self, yard: RunningYard, lines: Path) -> None:
        with lines.open("a") as file:
            file.write("not JSON\n")
        done = yard.cli("batches", "create", str(lines), "--wait", check=False)
        assert done.returncode == ExitCode.FAILED, done.stderr
        assert "line 5" in done.stderr


class TestDocuments:
    @pytest.fixture(scope="class")
    @staticmethod
    def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
        root = tmp_path_factory.mktemp("documents")
        pdf, docx, *others = generate(root, companies=2)
        for path in others:
            path.unlink()
        assert (pdf.suffix, docx.suffix) == (".pdf", ".docx")
        (root / "cut.docx").write_bytes(docx.read_bytes()[:2000])
        (root / "note.md").write_text("# Note\n\nThe company had 12 employees.\n")
        (root / "photo.png").write_bytes(b"\x89PNG\r\n")
        return root

    @pytest.fixture(scope="class")
    @staticmethod
    def ran(yard: RunningYard, folder: Path) -> dict[str, Any]:
        """A set of real documents that a toy has read; one of them is damaged."""
        schema = folder.parent / "schema.json"
        schema.write_text('{"type": "object", "properties": {"employees": {"type": "integer"}}}')
        arguments = (
            "documents", "run", str(folder), "-m", "yard-tiny", "--schema", str(schema), "--pack", "annual-report",
            "--max-tokens", "48", "--out", str(folder.parent / "results.csv"), "--report",
            str(folder.parent / "report.html"), "--force",
        )  # fmt: skip
        made: dict[str, Any] = answer(yard, *arguments, code=ExitCode.INCOMPLETE)
        return made

    def test_a_folder_becomes_a_table(self, ran: dict[str, Any], folder: Path) -> None:
        assert ran["status"] == "completed"
        counts = ran["counts"]
        assert (counts["total"], counts["completed"], counts["failed"]) == (4, 3, 1)
        with Path(ran["out"]).open(newline="") as file:
            rows = {row["filename"]: row for row in csv.DictReader(file)}
        assert set(rows) == {path.name for path in folder.iterdir() if path.suffix in (".pdf", ".docx", ".md")}
        assert rows["cut.docx"]["status"] == "error"
        assert rows["note.md"]["pages"] == "1"
        assert int(next(row["pages"] for name, row in rows.items() if name.endswith(".pdf"))) > 1
        assert "cut.docx" in Path(ran["report"]).read_text()

    def test_its_results_come_in_other_forms_too(self, yard: RunningYard, ran: dict[str, Any], tmp_path: Path) -> None:
        for name in ("results.parquet", "results.jsonl"):
            answer(yard, "documents", "results", ran["id"], "--out", str(tmp_path / name))
        table = pq.read_table(tmp_path / "results.parquet")
        assert table.num_rows == 4
        assert str(table.schema.field("employees").type) == "int64"
        written = read(tmp_path / "results.jsonl")
        records = answer(yard, "documents", "results", ran["id"], "--all")["data"]
        assert [each["file_id"] for each in records] == [each["file_id"] for each in written]
        assert [each.get("result") for each in records] == [each.get("result") for each in written]

    def test_people_see_a_table(self, yard: RunningYard, ran: dict[str, Any]) -> None:
        shown = yard.cli("documents", "results", ran["id"]).stdout
        assert "cut.docx" in shown
        assert ran["id"] in yard.cli("documents", "list").stdout
        assert "annual-report" in yard.cli("documents", "packs").stdout
        assert answer(yard, "documents", "packs", "annual-report")["rules"]

    def test_a_detached_one_is_stopped(self, yard: RunningYard, folder: Path) -> None:
        command = ("documents", "run", str(folder), "-m", "yard-tiny", "--summarize", "--max-tokens", "64", "--detach")
        with yard.frozen("worker"):  # or four short documents are read before the second command has begun
            made = answer(yard, *command)
            yard.cli("documents", "cancel", made["id"])
        ended = answer(yard, "documents", "wait", made["id"], code=ExitCode.CANCELLED)
        assert ended["status"] == "cancelled"
        assert ended["counts"]["completed"] + ended["counts"]["failed"] == ended["counts"]["total"]

    def test_what_does_not_fit_leaves_no_files(self, yard: RunningYard, folder: Path) -> None:
        before = answer(yard, "files", "list", "--all")["data"]
        command = ("documents", "run", str(folder), "-m", "yard-tiny", "--summarize", "--max-tokens", "2000")
        refused = answer(yard, *command, code=ExitCode.REFUSED)
        assert refused["param"] == "max_tokens"
        assert answer(yard, "files", "list", "--all")["data"] == before


class TestQuantize:
    def test_a_smaller_model_is_made_compared_and_asked(self, yard: RunningYard, tmp_path: Path) -> None:
        # Given
        texts = tmp_path / "texts.jsonl"
        lines = (f"The {number}th line says what follows from {number}, and why." for number in range(400))
        texts.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
        asked = ("quantize", "yard-tiny", "--scheme", "fp8-dynamic", "--text", str(texts), "--no-speed")

        # When
        made = answer(yard, *asked, "--gate", "max_ppl_increase=0.5", "--alias", "small")

        # Then
        assert list(made) == ["job", "model", "artifact", "evaluation"]
        assert all(isinstance(each, str) for each in made.values())
        found = answer(yard, "models", "compare", "yard-tiny", "small")
        assert found["b"]["version_id"] == made["model"]
        assert found["evaluation"] == made["evaluation"]
        assert found["b"]["measured"]["weight_bytes"] < 0.75 * found["a"]["measured"]["weight_bytes"]
        assert found["lineage"]["derived"] == "yard-tiny-fp8-dynamic@1"
        shown = yard.cli("models", "show", "small")
        assert "quantized from yard-tiny@1: fp8-dynamic" in shown.stdout
        brought = answer(yard, "artifacts", "download", made["artifact"], "-o", str(tmp_path))
        names = {path.name for path in Path(brought["path"]).iterdir()}
        assert names >= {"README.md", "config.json", "model.safetensors", "recipe.yaml", "tokenizer.json"}
        assert not answer(yard, "artifacts", "download", made["artifact"], "-o", str(tmp_path))["downloaded"]
        assert yard.cli("chat", "yard-tiny-fp8-dynamic", "What does os.walk do?", "--max-tokens", "8").stdout.strip()
