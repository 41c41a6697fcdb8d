"""A worker that is configured wrongly ends at once and says why."""

import os
import subprocess
import sys

from shared.settings import Settings
from tests.support.configured import environment


class TestStart:
    def test_an_unknown_class_is_refused(self, settings: Settings) -> None:
        given = {**os.environ, **environment(settings, gpu_class="gtx1080")}
        ended = subprocess.run(
            [sys.executable, "-m", "workers.app"], env=given, capture_output=True, text=True, timeout=60, check=False
        )
        assert ended.returncode == 1
        assert "unknown GPU class 'gtx1080'" in ended.stderr
        assert "MODELYARD_GPU_CLASS" in ended.stderr
