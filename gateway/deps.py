"""What routes are given: the process's connections, the caller, one transaction, and how long to wait."""

import re
from collections.abc import Iterator
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Header, Path, Query, Request
from pydantic import BeforeValidator
from sqlalchemy.orm import Session

from gateway.edge import Edge, edge_of
from gateway.routing import caller_of
from services.accounts.service import Caller

LONGEST_WAIT_S = 60.0  #: of `?wait=`; more is cut down to it
PAGE = 100  #: longest page; more is cut down to it

_PREFER = re.compile(r"(?:^|[,;\s])wait=(\d{1,6})(?=$|[,;\s])")


async def _edge(request: Request) -> Edge:  # async: a plain function would be sent through the thread pool
    return edge_of(request)


async def _caller(request: Request) -> Caller:
    """Whoever `routing.Route` found."""
    return caller_of(request)


def _session(request: Request) -> Iterator[Session]:
    with edge_of(request).database.transaction() as session:
        yield session


def _seconds(text: object) -> object:
    """`30s`, as AIP-151 writes it, is `30`."""
    return text.removesuffix("s") if isinstance(text, str) else text


Seconds = Annotated[float, BeforeValidator(_seconds)]
WaitQuery = Annotated[
    Seconds | None,
    Query(ge=0, allow_inf_nan=False, description="seconds to wait for the end of the job; at most 60"),
]
PreferHeader = Annotated[str | None, Header(description="`wait=30`: RFC 7240's spelling of `?wait=30`")]


def wait_of(wait: float | None, prefer: str | None) -> float:
    """Seconds to wait, by the query parameter, else by the header."""
    if wait is None:
        preferred = _PREFER.search(prefer or "")
        wait = float(preferred[1]) if preferred else 0.0
    return min(wait, LONGEST_WAIT_S)


EdgeDep = Annotated[Edge, Depends(_edge)]
CallerDep = Annotated[Caller, Depends(_caller)]
#: committed before the answer is sent; a commit that fails is a 503
SessionDep = Annotated[Session, Depends(_session, scope="function")]
JobId = Annotated[UUID, Path(description="id of a job")]
Limit = Annotated[int, Query(ge=1, description="rows of a page; at most 100")]
