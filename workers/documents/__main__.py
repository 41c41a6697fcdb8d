"""`python -m workers.documents`: reads documents, each in a process of its own that is born with everything imported.

Requests come as lines on stdin, answers go to stdout (`workers.documents.protocol`); end of file: it leaves. The
parent process never looks into a document. It forks for each: 5 ms where a fresh interpreter takes 300, and a crash,
a full memory or a spent CPU limit ends with the document that caused it.
"""

import gc
import os
import signal
import sys
from contextlib import suppress
from typing import Any

import orjson

sys.modules["numpy"] = None  # type: ignore[assignment]  # openpyxl imports it where it is: 20 MB and threads, for nothing
import openpyxl  # noqa: E402, F401
import PIL.PngImagePlugin  # noqa: E402, F401

from workers.documents import extraction  # noqa: E402
from workers.documents.landlock import read_only  # noqa: E402
from workers.documents.limits import confine, die_with_parent, isolate  # noqa: E402
from workers.documents.protocol import Request  # noqa: E402


def main() -> None:
    """Serve until stdin ends."""
    die_with_parent(int(sys.argv[1]))
    isolate()
    answers = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)  # a library that prints must not break into the answers
    gc.freeze()
    while line := sys.stdin.buffer.readline():
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            _read(orjson.loads(line), answers, null, parent)
        _, status, used = os.wait4(child, 0)
        told = {"exit": status, "peak_bytes": used.ru_maxrss * 1024, "cpu_s": used.ru_utime + used.ru_stime}
        _tell(answers, b"\n", told)


def _read(asked: dict[str, Any], answers: int, null: int, parent: int) -> None:
    """The life of a forked process."""
    status = 1
    with suppress(BaseException):
        die_with_parent(parent)
        for used in (0, 2):
            os.dup2(null, used)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        request = Request(**asked)
        read_only(folders=_libraries(), files=[request.path])
        confine(cpu_s=request.cpu_s, memory_bytes=request.memory_bytes, file_bytes=0)
        for answer in extraction.answers(request):
            _tell(answers, b"", answer)
        status = 0
    os._exit(status)


def _libraries() -> set[str]:
    """What may still be imported or loaded: Python, its packages, fonts; never the folder we were started in."""
    return {sys.prefix, sys.base_prefix, "/usr", "/lib", "/lib64", *sys.path} - {os.getcwd(), ""}  # noqa: PTH109


def _tell(answers: int, before: bytes, told: dict[str, Any]) -> None:
    line = memoryview(before + orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE))
    while line:
        line = line[os.write(answers, line) :]


if __name__ == "__main__":
    main()
