"""Uploads: several at once, large ones in parts, nothing left behind when one fails."""

import json
import re
from pathlib import Path

import pytest

from services.cli import files_upload
from services.cli.client import Refused
from services.cli.files_upload import NoFile, Outgoing, Told, send, send_all
from tests.services.cli.scripted import Asked, gateway, reply

REFUSED = reply(422, {"code": "validation_failed", "detail": "no"})


def uploaded(number: int = 1) -> dict[str, str]:
    return {"id": f"file-{number}", "object": "file"}


def content(asked: Asked) -> bytes:
    """What a form's one file holds."""
    boundary = asked.headers["content-type"].partition("boundary=")[2].encode()
    part = next(part for part in asked.body.split(b"--" + boundary) if b"filename=" in part)
    return part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "a.txt"
    path.write_bytes(bytes(range(100)))
    return path


class TestWhole:
    def test_a_file_is_sent_with_its_purpose_and_expiry(self, document: Path) -> None:
        with gateway(reply(200, uploaded())) as running, running.client() as client:
            assert send(client, Outgoing(document, "b/a.txt", "document", 3600)) == uploaded()
        (asked,) = running.asked
        assert (asked.method, asked.path, content(asked)) == ("POST", "/v1/files", document.read_bytes())
        fields = dict(re.findall(rb'name="([^"]+)"\r\n\r\n([^\r]*)', asked.body))
        assert fields == {
            b"purpose": b"document",
            b"expires_after[anchor]": b"created_at",
            b"expires_after[seconds]": b"3600",
        }
        assert b'filename="b/a.txt"' in asked.body

    def test_a_second_try_sends_it_whole_again(self, document: Path) -> None:
        busy = reply(503, {}, retry_after="0")
        with gateway(busy, reply(200, uploaded())) as running, running.client() as client:
            send(client, Outgoing(document, "a.txt", "batch"))
        assert [content(asked) for asked in running.asked] == [document.read_bytes()] * 2

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with gateway(reply(200, uploaded())) as running, running.client() as client, pytest.raises(NoFile):
            send(client, Outgoing(tmp_path / "nothing", "nothing", "batch"))
        assert running.asked == []


class TestParts:
    @pytest.fixture(autouse=True)
    def _small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(files_upload, "WHOLE_BYTES", 99)
        monkeypatch.setattr(files_upload, "PART_BYTES", 40)

    def test_a_large_file_goes_in_parts(self, document: Path) -> None:
        script = [
            reply(200, {"id": "upload_1"}),
            *(reply(200, {"id": f"part_{n}"}) for n in range(3)),
            reply(200, {"file": uploaded()}),
        ]
        with gateway(*script) as running, running.client() as client:
            assert send(client, Outgoing(document, "a.txt", "batch", 7200)) == uploaded()
        begin, *parts, complete = running.asked
        assert json.loads(begin.body) == {
            "filename": "a.txt",
            "purpose": "batch",
            "bytes": 100,
            "mime_type": "application/octet-stream",
            "expires_after": {"anchor": "created_at", "seconds": 7200},
        }
        assert {asked.path for asked in parts} == {"/v1/uploads/upload_1/parts"}
        assert b"".join(content(asked) for asked in parts) == document.read_bytes()
        assert [len(content(asked)) for asked in parts] == [40, 40, 20]
        assert complete.path == "/v1/uploads/upload_1/complete"
        assert json.loads(complete.body) == {"part_ids": ["part_0", "part_1", "part_2"]}

    def test_one_that_fails_is_cancelled(self, document: Path) -> None:
        script = (reply(200, {"id": "upload_1"}), reply(200, {"id": "part_0"}), REFUSED, reply(200, {}))
        with gateway(*script) as running, running.client() as client, pytest.raises(Refused):
            send(client, Outgoing(document, "a.txt", "batch"))
        assert running.asked[-1].path == "/v1/uploads/upload_1/cancel"


class TestMany:
    def test_answers_come_in_the_order_of_the_files(self, tmp_path: Path) -> None:
        outgoing = []
        for number in range(12):
            (tmp_path / f"{number}").write_text(str(number))
            outgoing.append(Outgoing(tmp_path / f"{number}", f"{number}", "document"))

        def echo(handler: object) -> None:
            asked = running.asked[-1]
            reply(200, {"id": f"file-{content(asked).decode()}"})(handler)  # type: ignore[arg-type]

        with gateway(echo) as running, running.client() as client:
            sent = send_all(client, outgoing, at_once=1)
        assert [each["id"] for each in sent] == [f"file-{number}" for number in range(12)]

    def test_what_was_sent_is_forgotten_when_one_fails(self, tmp_path: Path) -> None:
        for name in ("a", "b", "c"):
            (tmp_path / name).write_text(name)
        outgoing = [Outgoing(tmp_path / name, name, "document") for name in ("a", "b", "c")]
        script = (reply(200, uploaded(1)), REFUSED, reply(200, {"deleted": True}))
        with gateway(*script) as running, running.client() as client, pytest.raises(Refused):
            send_all(client, outgoing, at_once=1)
        deleted = [asked.path for asked in running.asked if asked.method == "DELETE"]
        assert "/v1/files/file-1" in deleted


class TestTold:
    def test_a_stretch_is_read_and_told(self, document: Path) -> None:
        told = list[int]()
        with document.open("rb") as file:
            stretch = Told(file, told.append, start=10, length=30)
            assert stretch.seek(0, 2) == 30
            stretch.seek(0)
            assert stretch.read(20) + stretch.read() == document.read_bytes()[10:40]
            assert (stretch.read(), sum(told)) == (b"", 30)
            stretch.seek(0)
            assert sum(told) == 0
