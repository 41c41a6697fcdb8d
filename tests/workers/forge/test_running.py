"""The frame of a forge: one result or one error, whatever its work does."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any, Self

import pytest

from shared.contracts.forge import EXIT_FAILED, EXIT_STOPPED, MESSAGE, DoneMessage, ErrorMessage, ForgeSpec

LEFT_S = 3.0
#: A forge whose work is the text in the middle.
FRAME = """
import os, sys
from pydantic import BaseModel
from workers.forge.refusing import Refused
from workers.forge.running import run
from workers.forge.telling import Tell

class Result(BaseModel):
    found: str

def work(spec, pipe):
    tell = Tell(pipe.send)
{work}
    return Result(found="it")

run(work)
"""


class Forge:
    """A process with some work in the frame."""

    def __init__(self, folder: Path, work: str, **environment: str) -> None:
        spec = ForgeSpec(spec={}, inputs=folder, out=folder, fingerprint="", threads=4, parent_pid=os.getpid())
        (folder / "spec.json").write_text(spec.model_dump_json())
        script = folder / "forge.py"
        script.write_text(FRAME.format(work="\n".join(f"    {line}" for line in dedent(work).splitlines())))
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-I", script, folder / "spec.json"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment, cwd=folder,
                start_new_session=True,
            )  # fmt: skip

    def said(self) -> Iterator[Any]:
        assert self.process.stdout is not None
        return map(MESSAGE.validate_json, self.process.stdout)

    def end(self) -> tuple[int, list[Any]]:
        """Its exit status, and what it said."""
        with self:
            said = list(self.said())
            return self.process.wait(10), said

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        with self.process:  # waits, and closes its pipes
            pass


class TestRun:
    def test_it_tells_the_result_and_nothing_that_libraries_print(self, tmp_path: Path) -> None:
        work = """
            print("printed"); os.system("echo from a child"); os.write(1, b"written")
            tell.log(os.environ["HOME"]); tell.log(os.environ["OMP_NUM_THREADS"]); tell.log("a\\0b")
        """
        forge = Forge(tmp_path, work)
        status, said = forge.end()
        assert status == 0
        assert [each.message for each in said[:-1]] == [str(tmp_path / "home"), "4", "a\N{REPLACEMENT CHARACTER}b"]
        assert said[-1] == DoneMessage(result={"found": "it"})
        assert all(text in forge.log.read_text() for text in ("printed", "from a child", "written"))

    @pytest.mark.parametrize(
        ("work", "code", "retryable"),
        [
            ("raise Refused('invalid_data', 'A title', 'line 3')", "invalid_data", False),
            ("raise ValueError('x' * 100_000)", "forge_crashed", True),
            ("import torch; torch.empty(2**48)", "out_of_memory", False),
            ("bytearray(2**60)", "out_of_memory", False),
            # safetensors has an exception of its own, with the number in its text
            ("raise RuntimeError('I/O error: No space left on device (os error 28)')", "disk_full", True),
            ("print('x', file=open('/dev/full', 'w'), flush=True)", "disk_full", True),
            (
                "import errno; raise RuntimeError('saving') from OSError(errno.ENOSPC, 'No space left')",
                "disk_full",
                True,
            ),
        ],
        ids=["refused", "any other", "torch's memory", "Python's memory", "safetensors' disk", "disk", "disk below"],
    )
    def test_it_tells_why_there_is_no_result(self, work: str, code: str, retryable: bool, tmp_path: Path) -> None:
        status, (error,) = Forge(tmp_path, work).end()
        assert status == EXIT_FAILED
        assert isinstance(error, ErrorMessage)
        assert (error.error.code, error.error.retryable) == (code, retryable)

    def test_sigterm_does_not_wait_for_a_call_into_c(self, tmp_path: Path) -> None:
        work = "import hashlib; tell.log('begins'); hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"
        with Forge(tmp_path, work) as forge:
            next(forge.said())
            forge.process.send_signal(signal.SIGTERM)
            assert forge.process.wait(LEFT_S) == EXIT_STOPPED

    def test_the_end_of_the_worker_is_its_end(self, tmp_path: Path) -> None:
        with Forge(tmp_path, "import threading; tell.log('begins'); threading.Event().wait()") as forge:
            next(forge.said())
            assert forge.process.stdin is not None
            forge.process.stdin.close()
            assert forge.process.wait(LEFT_S) == -signal.SIGKILL


class TestRanks:
    RANK = {"RANK": "1", "WORLD_SIZE": "2"}  # noqa: RUF012 - a constant

    def test_rank_0_alone_speaks(self, tmp_path: Path) -> None:
        assert Forge(tmp_path, "tell.log('I'); tell.progress(1)", **self.RANK).end() == (0, [])

    def test_any_rank_says_what_went_wrong(self, tmp_path: Path) -> None:
        status, (error,) = Forge(tmp_path, "raise Refused('unsafe_model', 'A title')", **self.RANK).end()
        assert (status, error.error.code) == (EXIT_FAILED, "unsafe_model")
