"""Examples of document sets and domain packs for the OpenAPI document."""

from typing import Any

DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
JOB_ID = "019b2f6e-8a51-7c3e-9d44-0f6f1f6b2a20"
SET_ID = "docset_019b2f6e8a517c3e9d440f6f1f6b2a20"
ARTIFACT_ID = "019b2f6e-9b12-7e01-8a33-51c2a7d9e4f1"
FILES = ["file-019b2f6e8a517c3e9d440f6f1f6b2a10", "file-019b2f6e8a517c3e9d440f6f1f6b2a11"]

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"company": {"type": "string"}, "total_assets": {"type": "number"}},
    "required": ["company"],
}
EXTRACT: dict[str, Any] = {"type": "extract", "schema": SCHEMA, "instructions": None}
DOCUMENT_REQUESTS: dict[str, Any] = {
    "extract": {
        "summary": "Fields of a schema, checked by a domain pack",
        "value": {
            "model": "llama-8b",
            "files": FILES,
            "operation": {"type": "extract", "schema": SCHEMA},
            "pack": "annual-report",
            "chunking": {"tokens": 4000, "overlap": 100},
            "metadata": {"project": "reports"},
        },
    },
    "classify": {
        "summary": "One label a document",
        "value": {
            "model": "llama-8b",
            "files": FILES,
            "operation": {
                "type": "classify",
                "labels": ["invoice", {"name": "contract", "description": "an agreement that both sides sign"}],
            },
        },
    },
    "summarize": {
        "summary": "A summary whose sentences name their pages",
        "value": {"model": "llama-8b", "files": FILES, "operation": {"type": "summarize", "words": 150}},
    },
    "custom": {
        "summary": "A prompt of your own",
        "value": {
            "model": "llama-8b",
            "files": FILES,
            "operation": {"type": "custom", "template": "Which risks does {filename} name?\n\n{text}"},
        },
    },
}
READ_DOCUMENTS_BODY = {"content": {"application/json": {"examples": DOCUMENT_REQUESTS}}}

DOCUMENT_SET: dict[str, Any] = {
    "id": SET_ID,
    "object": "document_set",
    "job_id": JOB_ID,
    "status": "completed",
    "model": "llama-8b",
    "operation": EXTRACT,
    "pack": "annual-report",
    "counts": {"total": 2, "completed": 2, "flagged": 1, "failed": 0},
    "pages": 41,
    "created_at": 1769860800,
    "in_progress_at": 1769860800,
    "finished_at": 1769860842,
    "expires_at": None,
    "artifacts": [
        {
            "id": ARTIFACT_ID,
            "name": "results.csv",
            "media_type": "text/csv",
            "bytes": 1893,
            "sha256": DIGEST,
            "url": f"/v1/artifacts/{ARTIFACT_ID}/content",
        }
    ],
    "usage": {"prompt_tokens": 61204, "completion_tokens": 812, "total_tokens": 62016, "gpu_seconds": 21.4},
    "cost": 0.0208,
    "error": None,
    "metadata": {"project": "reports"},
    "webhook": None,
}
RECORD: dict[str, Any] = {
    "id": "0",
    "object": "document_set.record",
    "index": 0,
    "status": "ok",
    "file_id": FILES[0],
    "filename": "annual-report.pdf",
    "format": "pdf",
    "pages": 24,
    "chunks": 6,
    "result": {"company": "Northwind Traders", "total_assets": 1250.5},
    "values": [
        {
            "path": "company",
            "value": "Northwind Traders",
            "page": 1,
            "quote": "Northwind Traders, Annual Report 2025",
            "check": "unchecked",
            "flags": [],
            "original": None,
        },
        {
            "path": "total_assets",
            "value": 1250.5,
            "page": 17,
            "quote": "Total assets 1,250.5",
            "check": "verified",
            "flags": [],
            "original": None,
        },
    ],
    "flags": [],
    "repaired": 0,
    "ocr_pages": 0,
    "usage": {"prompt_tokens": 30602, "completion_tokens": 406},
    "error": None,
}
PACK: dict[str, Any] = {
    "id": "annual-report",
    "object": "domain_pack",
    "description": "Balance sheet, income statement and cash flow of annual reports",
    "terms": 31,
    "rules": 9,
}
PACK_DETAIL: dict[str, Any] = {
    **PACK,
    "terms": [
        {
            "name": "total_assets",
            "aliases": ["Total assets", "Bilanzsumme"],
            "definition": "Everything that the company owns, at the balance sheet date.",
            "values": {},
        }
    ],
    "rules": [
        {
            "name": "balance",
            "check": "equation",
            "fields": [],
            "expression": "total_assets = total_liabilities + equity",
            "tolerance": 0.005,
            "unit": None,
            "earliest": None,
            "latest": None,
            "minimum": None,
            "maximum": None,
            "pattern": None,
            "message": "assets are liabilities plus equity",
        }
    ],
}


#: by the name of a listed resource's schema
ROWS: dict[str, dict[str, Any]] = {
    "DocumentSetOut": DOCUMENT_SET,
    "DocumentRecordOut": RECORD,
    "DomainPackOut": PACK,
}
ANSWERS: dict[str, Any] = {"DomainPackDetail": PACK_DETAIL}
