"""One process, and several that are watched."""

import os
import signal
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from shared.embedded.children import Children, Interrupted
from shared.embedded.errors import CannotStart
from shared.embedded.listening import Signals
from shared.embedded.process import Backoff, Child, Role, stop
from tests.support import wait_until

FOREVER = "import time; time.sleep(1000)"


def role(folder: Path, script: str, *, name: str = "toy") -> Role:
    return Role(
        name=name,
        argv=(sys.executable, "-S", "-c", textwrap.dedent(script)),
        env={"PATH": os.defpath, "PYTHONUNBUFFERED": "1"},
        log=folder / f"{name}.log",
        cwd=folder,
    )


@pytest.fixture
def children() -> Iterator[Children]:
    with Signals() as signals:
        made = Children(signals, changed=lambda: None)
        yield made
        made.stop([["toy", "other"]])


class TestBackoff:
    def test_the_first_restart_is_at_once_and_later_ones_wait_longer(self) -> None:
        backoff = Backoff(longest_s=2)
        assert [backoff.delay_s(lived_s=1) for _ in range(6)] == [0, 0.25, 0.5, 1, 2, 2]

    def test_a_calm_life_forgives(self) -> None:
        backoff = Backoff(longest_s=2)
        for _ in range(5):
            backoff.delay_s(lived_s=1)
        assert backoff.delay_s(lived_s=31) == 0


class TestChild:
    def test_it_is_asked_first_and_killed_after_its_grace(self, tmp_path: Path) -> None:
        deaf = """
            import signal, time
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            print("deaf")
            time.sleep(1000)
        """
        child = Child(replace(role(tmp_path, deaf), grace_s=0.2))
        child.start()
        wait_until(lambda: (tmp_path / "toy.log").read_text() == "deaf\n")
        stop([child])
        assert child.exit_code == -signal.SIGKILL

    def test_it_keeps_only_the_environment_it_was_given(self, tmp_path: Path) -> None:
        child = Child(role(tmp_path, "import os; print(sorted(set(os.environ) - {'LC_CTYPE'}))"))
        child.start()
        wait_until(lambda: child.exit_code == 0)
        assert (tmp_path / "toy.log").read_text() == "['PATH', 'PYTHONUNBUFFERED']\n"

    def test_a_long_log_is_set_aside_at_start(self, tmp_path: Path) -> None:
        log = tmp_path / "toy.log"
        with log.open("w") as file:
            file.truncate(11 * 1024 * 1024)
        child = Child(role(tmp_path, "print('fresh')"))
        child.start()
        wait_until(lambda: child.exit_code == 0)
        assert log.read_text() == "fresh\n"
        assert (tmp_path / "toy.log.1").stat().st_size == 11 * 1024 * 1024

    def test_it_dies_with_its_parent(self, tmp_path: Path) -> None:
        """A parent that is killed leaves no child behind, even one in a session of its own."""
        parent = f"""
            import os, signal, sys, time
            from dataclasses import replace
            from pathlib import Path
            sys.path.insert(0, {str(Path.cwd())!r})
            from shared.embedded.process import Child
            from tests.shared.embedded.test_process import FOREVER, role
            child = Child(replace(role(Path({str(tmp_path)!r}), FOREVER), parent_death=signal.SIGTERM))
            child.start()
            Path("pid.new").write_text(str(child.pid))
            os.rename("pid.new", "pid")
            time.sleep(1000)
        """
        killed = Child(
            replace(
                role(tmp_path, parent, name="parent"),
                argv=(sys.executable, "-c", textwrap.dedent(parent)),
                env={"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        )
        killed.start()
        wait_until((tmp_path / "pid").exists, what=(tmp_path / "parent.log").read_text())
        orphan = int((tmp_path / "pid").read_text())
        killed.send(signal.SIGKILL)
        stop([killed])
        wait_until(lambda: not psutil.pid_exists(orphan) or psutil.Process(orphan).status() == "zombie")


class TestChildren:
    def test_a_killed_process_comes_back_at_once(self, children: Children, tmp_path: Path) -> None:
        children.start([role(tmp_path, FOREVER)], timeout_s=5)
        (old,) = children.pids(["toy"])["toy"]
        os.kill(old, signal.SIGKILL)

        def fresh() -> bool:
            children._turn(0.05)
            return children.pids(["toy"])["toy"] not in ([], [old])

        wait_until(fresh, timeout=2)
        assert children.restarts() == {"toy": 1}

    def test_starting_waits_for_the_probe(self, children: Children, tmp_path: Path) -> None:
        sign = tmp_path / "ready"
        script = f"import pathlib, time; time.sleep(0.2); pathlib.Path({str(sign)!r}).touch(); {FOREVER}"
        children.start([replace(role(tmp_path, script), ready=lambda _pid: sign.exists())], timeout_s=10)
        assert sign.exists()

    def test_a_process_that_never_gets_ready_shows_its_log(self, children: Children, tmp_path: Path) -> None:
        broken = replace(role(tmp_path, "raise SystemExit('no such GPU')"), ready=lambda _pid: False, tries=2)
        with pytest.raises(CannotStart, match="no such GPU"):
            children.start([broken], timeout_s=60)

    def test_a_passing_process_must_succeed(self, children: Children, tmp_path: Path) -> None:
        children.run_once(role(tmp_path, "print('done')"), timeout_s=10)
        with pytest.raises(CannotStart, match="ended with 3"):
            children.run_once(role(tmp_path, "raise SystemExit(3)"), timeout_s=10)

    def test_a_stop_signal_ends_the_watch(self, children: Children, tmp_path: Path) -> None:
        children.start([role(tmp_path, FOREVER)], timeout_s=5)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted):
            children.watch()

    def test_groups_stop_one_after_the_other(self, children: Children, tmp_path: Path) -> None:
        slow = """
            import signal, sys, time
            def leave(number, frame):
                time.sleep(0.3)
                print(time.monotonic())
                sys.exit()
            signal.signal(signal.SIGTERM, leave)
            print("up")
            time.sleep(1000)
        """
        rows = [role(tmp_path, slow, name=name) for name in ("toy", "other")]
        children.start(rows, timeout_s=5)
        for row in rows:
            wait_until(row.log.read_text)
        children.stop([["toy"], ["other"]])
        first, second = (float(row.log.read_text().splitlines()[-1]) for row in rows)
        assert second - first > 0.25
