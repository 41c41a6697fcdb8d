"""What submit is measured against: a bare FastAPI route that inserts one row with psycopg, and commits."""

import os
import queue
from typing import Any

import psycopg
from fastapi import FastAPI
from pydantic import BaseModel

URL = os.environ["BARE_URL"]  # this process is nothing but the baseline; its parent passes the address
app = FastAPI()
_idle: "queue.SimpleQueue[psycopg.Connection[Any]]" = queue.SimpleQueue()
for _ in range(10):
    _idle.put(psycopg.connect(URL))


class Body(BaseModel):
    """One text."""

    text: str


@app.post("/rows", status_code=202)
def insert(body: Body) -> dict[str, int]:
    """Insert a row, commit, answer its id."""
    connection = _idle.get()
    try:
        row = connection.execute("INSERT INTO bare (text) VALUES (%s) RETURNING id", (body.text,)).fetchone()
        connection.commit()
    finally:
        _idle.put(connection)
    assert row is not None
    return {"id": row[0]}
