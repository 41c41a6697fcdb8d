"""Scanned documents where the operator named a command that reads pictures."""

import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.polling import wait_until
from tests.workers.documents.made import scanned_pdf
from tests.workers.documents.reading import read
from workers.documents.types import Page, Parsed, Refused

#: a command that says how large the picture is, as a text recogniser would say what is on it
SIZE = """
import sys
from PIL import Image
print("Picture of", *Image.open(sys.argv[1]).size, file=sys.stdout)
"""


@pytest.fixture
def command(tmp_path):
    def written(script: str) -> list[str]:
        path = Path(tmp_path, "recognise.py")
        path.write_text(script)
        return [sys.executable, str(path), "{image}"]

    return written


def one(path: Path, **settings: Any) -> Parsed | Refused:
    [found] = read(path, **settings)
    return found


class TestRecognition:
    def test_pages_without_text_are_shown_to_it_and_no_others(self, tmp_path, command):
        found = one(scanned_pdf(tmp_path / "a.pdf", 3, with_text=[2]), ocr_command=command(SIZE))
        assert isinstance(found, Parsed)
        scan = "Picture of 1654 2339"  # A4 at 200 dots an inch
        assert found.pages == (Page(1, scan), Page(2, "Page 2 has text"), Page(3, scan))
        assert (found.ocr_pages, found.unread) == (2, ())

    def test_one_that_prints_without_end_is_ended(self, tmp_path, command):
        script = "while True: print('x' * 1000)"
        found = one(scanned_pdf(tmp_path / "a.pdf", 1), ocr_command=command(script), document_text_bytes=10_000)
        assert isinstance(found, Refused)
        assert found.error.code == "ocr_failed"
        assert "10,000 bytes" in found.error.title

    @pytest.mark.parametrize("script", ["raise SystemExit(3)", "import os; os.abort()", "bytearray(2**40)"])
    def test_its_failure_is_told(self, tmp_path, command, script: str):
        found = one(scanned_pdf(tmp_path / "a.pdf", 1), ocr_command=command(script))
        assert isinstance(found, Refused)
        assert found.error.code == "ocr_failed"
        assert "page 1" in found.error.title

    def test_a_command_that_is_not_there(self, tmp_path):
        found = one(scanned_pdf(tmp_path / "a.pdf", 1), ocr_command=["/no/such/command", "{image}"])
        assert isinstance(found, Refused)
        assert found.error.code == "ocr_failed"

    def test_one_that_hangs_is_ended_with_all_it_started(self, tmp_path, command):
        told = Path(tmp_path, "pid")
        script = f"""
import os, signal
if os.fork() == 0:
    open({str(told)!r}, "w").write(str(os.getpid()))
signal.pause()
"""
        found = one(scanned_pdf(tmp_path / "a.pdf", 1), ocr_command=command(script), document_cpu_s=1)
        assert isinstance(found, Refused)
        assert found.error.code == "ocr_failed"
        wait_until(lambda: not psutil.pid_exists(int(told.read_text())))
