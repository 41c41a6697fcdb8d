"""However a worker, a guard or a server ends: nothing of the server is left 3 s later."""

import os
import signal
import threading

import pytest

from shared.contracts.engine import EXIT_FAILED, EXIT_LIFELINE
from tests.support.guarded import StartGuarded, gone, scripted
from tests.support.polling import wait_until

pytestmark = pytest.mark.faults

FAMILY = scripted("--children", "2", "--metrics")
LEFT_S = 3.0


class TestWorker:
    def test_its_death_ends_everything(self, start: StartGuarded) -> None:
        server = start("scripted", FAMILY, by_worker=True).wait_ready()
        family = server.tree()
        assert len(family) == 5  # guard, warden, server and its two
        server.process.kill()
        wait_until(lambda: gone(family), timeout=LEFT_S, what="nothing is left")

    def test_its_death_before_the_start_is_noticed(self, start: StartGuarded) -> None:
        assert start("scripted", FAMILY, parent_pid=1).process.wait(timeout=10) == EXIT_LIFELINE

    def test_a_broken_lifeline_ends_everything(self, start: StartGuarded) -> None:
        server = start("scripted", FAMILY).wait_ready()
        family = server.tree()
        with server.lifeline():
            assert server.stats().lifelines == 1
        assert server.process.wait(timeout=LEFT_S) == EXIT_LIFELINE
        assert gone(family)

    def test_a_server_that_was_let_go_waits_for_the_next_worker(self, start: StartGuarded) -> None:
        server = start("scripted", FAMILY, by_worker=True).wait_ready()
        family = server.tree()
        with server.lifeline():
            server.control.post("/detach", json={"grace_s": 30}).raise_for_status()
            server.process.kill()
            server.process.wait()
        assert server.stats().detached
        assert server.complete(prompt="still here")["text"] == "still here"
        with server.lifeline():
            assert not server.stats().detached
        wait_until(lambda: gone(family), timeout=LEFT_S, what="nothing is left")


class TestGuard:
    @pytest.mark.parametrize("victim", ["guard", "group", "warden"])
    def test_its_own_sudden_death_leaves_nothing(self, start: StartGuarded, victim: str) -> None:
        server = start("scripted", FAMILY).wait_ready()
        family = server.tree()
        if victim == "group":
            os.killpg(server.guard.pid, signal.SIGKILL)
        else:
            (server.guard if victim == "guard" else server.warden).kill()
        wait_until(lambda: gone(family), timeout=LEFT_S, what="nothing is left")


class TestServer:
    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_its_death_ends_its_guard(self, start: StartGuarded, number: int) -> None:
        server = start("scripted", FAMILY).wait_ready()
        family = server.tree()
        server.server.send_signal(number)
        assert server.process.wait(timeout=LEFT_S) == EXIT_FAILED
        wait_until(lambda: gone(family), timeout=LEFT_S, what="nothing is left")
        assert '"server_died"' in server.log.read_text()

    def test_one_that_cannot_start_is_a_load_that_failed(self, start: StartGuarded) -> None:
        server = start("scripted", scripted("--no-such-option"))
        assert server.process.wait(timeout=10) == EXIT_FAILED
        assert '"load_failed"' in server.log.read_text()

    def test_a_command_that_is_not_there_is_a_load_that_failed(self, start: StartGuarded) -> None:
        settings = scripted().model_copy(update={"engine_commands": {"gone": ["/no/such/server", "{uds}"]}})
        server = start("gone", settings)
        assert server.process.wait(timeout=10) == EXIT_FAILED
        text = server.log.read_text()
        assert "FileNotFoundError" in text
        assert '"load_failed"' in text


class TestStopping:
    def test_what_runs_is_finished(self, start: StartGuarded) -> None:
        server = start("scripted", scripted("--metrics", "--word-s", "0.2")).wait_ready()
        said: list[str] = []
        asking = threading.Thread(target=lambda: said.append(server.complete(prompt="one two three four")["text"]))
        asking.start()
        wait_until(lambda: server.stats().running == 1, what="the request runs")
        server.process.terminate()
        wait_until(lambda: server.health == 503, what="it drains")
        asking.join()
        assert said == ["one two three four"]
        assert server.process.wait(timeout=LEFT_S) == 0

    def test_one_that_is_deaf_is_ended(self, start: StartGuarded) -> None:
        server = start("scripted", scripted("--stubborn", "--children", "1")).wait_ready()
        family = server.tree()
        server.process.terminate()
        assert server.process.wait(timeout=8) == 0
        wait_until(lambda: gone(family), timeout=LEFT_S, what="nothing is left")
        assert not server.config.uds.exists()
        assert not server.command.control.exists()
