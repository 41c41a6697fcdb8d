"""A batch writes the same bytes whatever is killed while it runs (the issue's own size: `batch_kills.py`)."""

from pathlib import Path

import pytest

from tests.faults.batch_kills import CONSTANTS, Batches, clear, compare, content_of, disturbed, lines_of
from tests.faults.conftest import quick_yard

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(400)]

LINES, KILLS, SEED = 400, 8, 140


class TestBatch:
    def test_files_are_those_of_the_undisturbed_run(self, tmp_path: Path) -> None:
        with quick_yard(tmp_path, **CONSTANTS) as (yard, history):
            batches = Batches(yard, history)
            file_id = batches.upload(content_of(list(lines_of(clear(batches, LINES)))))
            plain = batches.run(file_id, timeout=120)
            killed, killer = disturbed(batches, file_id, lines=LINES, kills=KILLS, seed=SEED, say=print)
            compare(plain, killed, lines=LINES)
            assert killer.done.total() == KILLS
