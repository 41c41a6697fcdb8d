"""The frame of a forge: from its spec to its result, or to the reason why there is none."""

import errno
import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel

from shared.contracts.forge import EXIT_STOPPED, DoneMessage, ForgeSpec
from workers.forge.pipe import Pipe, start
from workers.forge.ranks import world_size
from workers.forge.refusing import Refused
from workers.forge.telling import shortened

# What torch says where it has no exception of its own: the CPU's allocator, cuBLAS and NCCL.
_NO_MEMORY = (
    "not enough memory", "can't allocate memory", "CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "std::bad_alloc",
)  # fmt: skip
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def run(work: Callable[[ForgeSpec, Pipe], BaseModel]) -> None:
    """Do the work that argv's spec describes; what it returns becomes the result. Ends the process.

    The environment that torch and the Hugging Face libraries read is written before `work` begins: the module that is
    started imports neither, `work` does. SIGTERM ends the process at once, unless `Pipe.heeding` is set: then the work
    looks at `Pipe.stopping` itself, between its steps.
    """
    spec, pipe = start()
    _end_at_once_on_sigterm(pipe)
    _prepare_environment(spec)
    try:
        _do(work, spec, pipe)
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    sys.stdout.flush()  # what libraries printed; it goes to stderr
    sys.stderr.flush()
    os._exit(status)  # torch's pools need no farewell, and a process group of ranks would wait for one


@contextmanager
def quick_imports(*unused: str) -> Iterator[None]:
    """Import torch and the Hugging Face libraries inside, without what only costs time and memory.

    A quarter of the time goes to collections of garbage, and transformers imports scikit-learn where it finds it, for
    one kind of generation that is not ours: a second and 140 MB. `unused` names more packages that are not to be found
    meanwhile. Whoever needs them can import them afterwards.
    """
    hidden = ("sklearn", *unused)
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        for name in hidden:
            del sys.modules[name]


def _do(work: Callable[[ForgeSpec, Pipe], BaseModel], spec: ForgeSpec, pipe: Pipe) -> None:
    try:
        result = work(spec, pipe)
    except Refused as error:
        pipe.fail(error.code, error.title, detail=shortened(error.detail))
    except Exception as error:  # noqa: BLE001 - whatever it is, the job's error says so
        traceback.print_exc()
        _fail(pipe, error)
    else:
        pipe.send(DoneMessage(result=result.model_dump(mode="json")))


def _fail(pipe: Pipe, error: Exception) -> None:
    detail = shortened(f"{type(error).__name__}: {error}")
    if _lacks_memory(error):
        pipe.fail("out_of_memory", "The forge ran out of memory", detail=detail)
    if lacks_space(error):
        pipe.fail("disk_full", "The disk is full", detail=detail, retryable=True)
    pipe.fail("forge_crashed", "The forge failed", detail=detail, retryable=True)


def _lacks_memory(error: BaseException) -> bool:
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # torch's, not imported here
    return named or any(text in str(error) for text in _NO_MEMORY) or _any_cause(error, _lacks_memory)


def lacks_space(error: BaseException) -> bool:
    """Whether a full disk is behind an error."""
    # safetensors has its own exception: the number is in its text
    numbered = isinstance(error, OSError) and error.errno in _NO_SPACE
    told = any(f"os error {number})" in str(error) for number in _NO_SPACE)
    return numbered or told or _any_cause(error, lacks_space)


def _any_cause(error: BaseException, says: Callable[[BaseException], bool]) -> bool:
    return error.__cause__ is not None and says(error.__cause__)


def _end_at_once_on_sigterm(pipe: Pipe) -> None:
    """Leave on SIGTERM even in the middle of a long call into C, for which Python's handlers would wait."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_leave_when_told, args=(reading, pipe), name="sigterm", daemon=True).start()


def _leave_when_told(reading: int, pipe: Pipe) -> None:
    while signal.SIGTERM not in os.read(reading, 64) or pipe.heeding.is_set():
        pass
    os._exit(EXIT_STOPPED)


def _prepare_environment(spec: ForgeSpec) -> None:
    """What libraries read when they are imported: no network, short logs, every cache in the attempt's own folder."""
    home = Path.cwd() / "home"
    home.mkdir(exist_ok=True)
    os.environ |= {
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home),
        "HF_HOME": str(home / "huggingface"),
        "MPLCONFIGDIR": str(home / "matplotlib"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "DATASETS_VERBOSITY": "error",
        "LLM_COMPRESSOR_LOG_LEVEL": "WARNING",
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
        "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads starve their neighbours where cores are shared
        "OMP_NUM_THREADS": str(max(1, spec.threads // world_size())),
    }
