"""What a process that gave up the file system can still do."""

import subprocess
import sys

import pytest

from workers.documents.reader import ROOT

SCRIPT = """
import os, signal, socket, sys
from workers.documents.landlock import read_only
from workers.documents.limits import isolate

def tried(act):
    try:
        act()
    except PermissionError:
        return "denied"
    except OSError:
        return "failed"
    return "done"

document, secret, folder = sys.argv[1:]
kept = open(secret)
isolate()
if not read_only(folders=[sys.base_prefix], files=[document]):
    raise SystemExit("no Landlock here")
print(
    tried(lambda: open(document).read()), tried(lambda: open(document, "a")), tried(lambda: open(secret)),
    tried(lambda: os.listdir(folder)), tried(lambda: open(os.path.join(folder, "new"), "w")),
    tried(lambda: os.kill(os.getppid(), 0)), tried(lambda: os.listdir(os.path.dirname(os.__file__))),
    tried(kept.read), tried(lambda: socket.create_connection(("127.0.0.1", 9))) != "done",
)
"""


class TestLandlock:
    def test_only_the_document_and_libraries_can_be_read(self, tmp_path):
        for name in ("document", "secret"):
            (tmp_path / name).write_text(name)
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT, tmp_path / "document", tmp_path / "secret", tmp_path],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if "no Landlock here" in run.stderr:
            pytest.skip("this kernel has no Landlock")
        assert run.stdout.split() == [
            "done", "denied", "denied", "denied", "denied", "denied", "done", "done", "True",
        ], run.stderr  # fmt: skip
