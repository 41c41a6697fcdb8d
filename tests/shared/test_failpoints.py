import os
import signal
import subprocess
import sys
import time

import pytest

from shared.failpoints import POINTS, Injected, armed, around, hit
from shared.settings import Settings


class TestHit:
    def test_nothing_happens_unless_armed(self):
        with armed(""):
            for name in POINTS:
                hit(name)

    def test_raise_and_its_count(self):
        with armed("claim.after_commit:raise@2"):
            hit("claim.after_commit")
            with pytest.raises(Injected):
                hit("claim.after_commit")
            hit("claim.after_commit")

    def test_sleep(self):
        with armed("hb.before:sleep=0.2"):
            began = time.monotonic()
            hit("hb.before")
            assert time.monotonic() - began >= 0.2

    def test_kill9_ends_the_process(self):
        code = "from shared.failpoints import hit; hit('hb.before'); print('alive')"
        env = {"MODELYARD_ENVIRONMENT": "test", "MODELYARD_FAILPOINTS": "hb.before:kill9", "PATH": os.environ["PATH"]}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (-signal.SIGKILL, b""), done.stderr


class TestAround:
    def test_the_operation_happens_and_its_caller_is_told_otherwise(self):
        done = []
        with armed("claim.after_commit:exec_then_raise"), pytest.raises(Injected), around("claim.after_commit"):
            done.append(1)
        assert done == [1]

    def test_raise_comes_before_the_operation(self):
        done = []
        with armed("claim.after_commit:raise"), pytest.raises(Injected), around("claim.after_commit"):
            done.append(1)
        assert not done


class TestSpelling:
    @pytest.mark.parametrize("text", ["nowhere:raise", "hb.before:explode", "hb.before", "hb.before:sleep=soon"])
    def test_what_is_unknown_is_refused(self, text):
        with pytest.raises(ValueError, match=r".+"), armed(text):
            pass

    def test_only_in_environment_test(self):
        with pytest.raises(ValueError, match="failpoints are refused"):
            Settings(failpoints="hb.before:raise")
