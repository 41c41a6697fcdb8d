"""The forge as a process: told by a file, heard on a pipe, ended by SIGTERM."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import pytest

from shared.contracts.forge import (
    EXIT_STOPPED,
    MESSAGE,
    DoneMessage,
    ForgeSpec,
    LogMessage,
    ProgressMessage,
)
from shared.contracts.forge_orders import Data, QuantizationResult, QuantizeOrder
from tests.workers.forge.quantization.models import YARD_TINY, order

LEFT_S = 3.0


@pytest.fixture
def words(tmp_path: Path) -> Data:
    path = tmp_path / "words.jsonl"
    path.write_text(
        "".join(json.dumps({"text": f"def word_{row}(): return {row}\n" * 40}) + "\n" for row in range(2000))
    )
    return Data(path=path, name="words")


class Forge:
    """A started forge."""

    def __init__(self, given: QuantizeOrder, folder: Path) -> None:
        self.out = folder / "out"
        self.out.mkdir()
        spec = ForgeSpec(
            spec=given.model_dump(mode="json"), inputs=folder, out=self.out, fingerprint="", parent_pid=os.getpid()
        )
        path = folder / "spec.json"
        path.write_text(spec.model_dump_json())
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-m", "workers.forge.quantize", path],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env={}, cwd=folder, start_new_session=True,
            )  # fmt: skip

    def messages(self) -> Any:
        assert self.process.stdout is not None
        return map(MESSAGE.validate_json, self.process.stdout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        with self.process:  # waits, and closes its pipes
            pass


class TestForge:
    @pytest.mark.slow
    def test_it_says_how_far_it_is_and_what_it_made(self, tmp_path: Path) -> None:
        with Forge(order(YARD_TINY, "fp8-dynamic"), tmp_path) as forge:
            *told, done = forge.messages()
            assert forge.process.wait(10) == 0
        assert isinstance(done, DoneMessage)
        result = QuantizationResult.model_validate(done.result)
        assert (result.layers, result.kept) == (21, ["lm_head"])
        assert 0 < result.quantize_s < result.seconds
        assert result.peak_memory_bytes > 10**8
        phases = [each.message.split(":")[0] for each in told if isinstance(each, LogMessage)]
        assert phases == [
            "imports", "llm-compressor", "load", "21 layers are quantized, 1 stay as they are",
            "samples", "quantize", "save",
        ]  # fmt: skip
        assert [each.done for each in told if isinstance(each, ProgressMessage)] == [0, 3]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "log", "out", "spec.json"]
        assert not any(path.is_file() for path in (tmp_path / "home").rglob("*"))

    @pytest.mark.slow
    def test_sigterm_ends_it_at_once_and_no_checkpoint_stays(self, words: Data, tmp_path: Path) -> None:
        # Given a forge that would calibrate for minutes
        given = order(YARD_TINY, "w4a16", "awq", data=words, sampling={"samples": 512, "sequence_length": 512})
        with Forge(given, tmp_path) as forge:
            next(each for each in forge.messages() if isinstance(each, ProgressMessage))
            # When it is told to end
            forge.process.send_signal(signal.SIGTERM)
            # Then it does
            assert forge.process.wait(LEFT_S) == EXIT_STOPPED
        assert not (forge.out / "checkpoint").exists()
