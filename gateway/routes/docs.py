"""`/openapi.json` and `/docs`: open to everybody, for they say what the source says and nothing of anybody's.

The page is made here, without script and without a third party's server.
"""

from collections.abc import Iterator
from html import escape
from typing import Any

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from gateway import openapi
from shared.errors import ModelyardError

CSP = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code, pre { font-family: ui-monospace, monospace; font-size: 14px; }
pre { overflow: auto; padding: .75rem; background: #8881; border-radius: 6px; }
h2 { margin-top: 2.5rem; }
table { border-collapse: collapse; } td, th { padding: .2rem .8rem .2rem 0; text-align: left; }
td { vertical-align: top; } :target { background: #fe82; } @media (prefers-color-scheme: dark) {
body { background: #111; color: #ddd; } a { color: #8bf; } }
"""

router = APIRouter(include_in_schema=False)


@router.get("/openapi.json")
def openapi_document(request: Request) -> Response:
    """The OpenAPI document."""
    return Response(orjson.dumps(openapi.document(request.app)), media_type="application/json")


@router.get("/docs")
def docs(request: Request) -> Response:
    """The document as a page, and every error code."""
    page = "".join(_page(openapi.document(request.app)))
    return Response(page, media_type="text/html", headers={"content-security-policy": CSP})


def error_codes() -> dict[str, type[ModelyardError]]:
    """Every code that an error of ours can have."""
    found: dict[str, type[ModelyardError]] = {}
    waiting = [ModelyardError]
    while waiting:
        kind = waiting.pop()
        waiting.extend(kind.__subclasses__())
        found.setdefault(kind.code, kind)
    return dict(sorted(found.items()))


def _page(document: dict[str, Any]) -> Iterator[str]:
    yield "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
    yield f"<title>{escape(document['info']['title'])}</title><style>{STYLE}</style>"
    yield f"<h1>{escape(document['info']['title'])} {escape(document['info']['version'])}</h1>"
    yield f"<p>{escape(document['info']['description'])} <a href=/openapi.json>openapi.json</a></p>"
    for tag in document["tags"]:
        yield f"<h2 id={tag['name']}>{tag['name']}</h2><p>{escape(tag['description'])}</p>"
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                if tag["name"] in operation.get("tags", ()):
                    yield from _operation(f"{method.upper()} {path}", operation)
    yield "<h2 id=errors>errors</h2><table><tr><th>code<th>status<th>retryable<th>meaning"
    for code, kind in error_codes().items():
        meaning = escape((kind.__doc__ or "").strip())
        yield f"<tr id={code}><td><code>{code}</code><td>{kind.status}<td>{kind.retryable}<td>{meaning}"
    yield "</table></html>"


def _operation(name: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f"<h3 id={operation['operationId']}><code>{escape(name)}</code></h3>"
    yield f"<p>{escape(operation.get('description', operation.get('summary', '')))}</p><table>"
    for each in operation.get("parameters", ()):
        yield f"<tr><td><code>{escape(each['name'])}</code><td>{each['in']}<td>{escape(each.get('description', ''))}"
    yield "</table>"
    for media in operation.get("requestBody", {}).get("content", {}).values():
        for example in [each["value"] for each in media.get("examples", {}).values()] or [media.get("example")]:
            yield from _shown(example)
    for status, answer in operation["responses"].items():
        for media in answer.get("content", {}).values() if status != "default" else ():
            yield from _shown(media.get("example"))


def _shown(example: Any) -> Iterator[str]:
    if example is not None:
        yield f"<pre>{escape(orjson.dumps(example, option=orjson.OPT_INDENT_2).decode())}</pre>"
