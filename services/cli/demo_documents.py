"""The demo's document set: annual reports of invented companies, made here as real files, read into a table."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from services.cli.client import Client
from services.cli.demo_steps import MODEL, Demo, DemoFailed
from services.cli.documents_view import flags, show_records
from services.cli.files_upload import Outgoing, send_all
from services.cli.following_sets import DOCUMENT_SET, summary, until_end
from services.cli.output import say
from services.files.service import Purpose
from shared.embedded.roles import ROOT

FORMATS = (".pdf", ".docx", ".xlsx")  # one document of each
PACK = "annual-report"
FIELD = "employees"  # of the pack's schema: an answer of a toy has no room for more
MAX_TOKENS = 64
WRITE_S = 60.0
SET_S = 120.0


def run_documents(client: Client, told: Demo) -> None:
    """Write documents, read them, show the table. Raises DemoFailed."""
    with tempfile.TemporaryDirectory() as folder:
        paths = _write(Path(folder))
        uploaded = send_all(client, [Outgoing(path, path.name, Purpose.DOCUMENT) for path in paths])
    wanted = {
        "model": MODEL,
        "files": [each["id"] for each in uploaded],
        "operation": {"type": "extract", "schema": _schema()},
        "pack": PACK,
        "max_tokens": MAX_TOKENS,
    }
    made = client.post(DOCUMENT_SET.path, wanted)
    say(f"    POST {client.url}/v1/document_sets → {made['id']}, extract {FIELD}, pack {PACK}")
    found = until_end(client, DOCUMENT_SET, made, timeout_s=SET_S)
    say(f"    {summary(DOCUMENT_SET, found)}, {found['pages']} pages")
    if found["status"] != "completed" or found["counts"]["failed"]:
        raise DemoFailed(f"The document set is {summary(DOCUMENT_SET, found)}.")
    records = client.get(f"{DOCUMENT_SET.where(found['id'])}/results")["data"]
    show_records(records)
    say(f"    {', '.join(each['name'] for each in found['artifacts'])} lie in the store")
    _explain()
    told.report["document_set"] = _evidence(found, records)


def _write(folder: Path) -> list[Path]:
    """One document of each format."""
    argv = [sys.executable, "-m", "infra.documents", str(folder), "--companies", "2"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=WRITE_S, check=False)
    if done.returncode:
        raise DemoFailed(f"The documents could not be written: {done.stderr.strip()[-300:]}")
    paths = [min(folder.glob(f"*{suffix}"), key=lambda path: path.stat().st_size) for suffix in FORMATS]
    for path in paths:
        say(f"    {path.name}, {path.stat().st_size} bytes")
    return paths


def _schema() -> dict[str, Any]:
    path = ROOT / "services/documents/installed" / PACK / "schema.json"
    whole = json.loads(path.read_text())
    return {**whole, "properties": {FIELD: whole["properties"][FIELD]}}


def _explain() -> None:
    say(
        f"    {MODEL} is a toy that cannot read a report. Whatever it says is checked all the same, and flagged when\n"
        "    no quote that occurs in the document shows it, or it breaks a rule. A model that can read fills the\n"
        "    table; infra/docs/documents.md tells what each flag means."
    )


def _evidence(found: dict[str, Any], records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    kept = {name: found[name] for name in ("id", "status", "counts", "pages", "usage", "artifacts")}
    documents = [
        {"filename": each["filename"], "pages": each["pages"], "status": each["status"], "flags": flags(each)}
        for each in records
    ]
    return {**kept, "documents": documents}
