"""A folder of real documents, and what is true of them."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import orjson

from infra.documents.reports import Report, reports
from infra.documents.writers import WRITERS

TRUTH: Final = "truth.json"
#: of the reports in turn: four companies have all five
FORMATS: Final = ("pdf", "docx", "pdf", "xlsx", "docx", "html", "pdf", "md")


def generate(folder: Path, *, companies: int = 4) -> list[Path]:
    """Write two annual reports of each company and `truth.json`; returns the documents' paths.

    `truth.json` holds {"documents": {file name: {"company", "year", "format", "pages", "violations": [...],
    "values": {name: {"value", "page", "quote"}}}}}. Quotes occur in the document's text, white space aside. HTML and
    Markdown have one page, a spreadsheet has one a sheet.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths, truth = list[Path](), dict[str, Any]()
    for number, report in enumerate(reports(companies)):
        ending = FORMATS[number % len(FORMATS)]
        path = folder / f"{re.sub(r'[^a-z0-9]+', '-', report.company.lower()).strip('-')}-{report.year}.{ending}"
        WRITERS[ending](report, path)
        paths.append(path)
        truth[path.name] = _truth(report, ending)
    (folder / TRUTH).write_bytes(orjson.dumps({"documents": truth}, option=orjson.OPT_INDENT_2) + b"\n")
    return paths


def _truth(report: Report, format: str) -> dict[str, Any]:
    paged = format not in {"html", "md"}
    values = {name: asdict(fact) for name, fact in report.facts.items()}
    for value in values.values():
        value["page"] = value["page"] if paged else 1
        value["quote"] = value["quote"].replace("\t", " | " if format == "md" else " ")
        if format == "xlsx":  # its numbers are cells, without thousands separators
            value["quote"] = re.sub(r"(?<=\d),(?=\d{3}$)", "", value["quote"])
    return {
        "company": report.company,
        "year": report.year,
        "format": format,
        "pages": len(report.sections) if paged else 1,
        "violations": list(report.violations),
        "values": values,
    }
