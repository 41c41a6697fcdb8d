"""A whole yard, from `up` to `down`, as its users see it."""

import json
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from shared.embedded import remains
from shared.embedded.layout import layout
from shared.embedded.roles import NAMES, ROOT
from shared.embedded.state import Phase, YardState, load
from tests.support import wait_until
from tests.support.yards import RunningYard, environment_of, run_cli, yards

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
STORES = ("postgres", "broker", "cache", "store")
ROLES = ("gateway", "relay", "worker", "courier")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningYard]:
    """One yard for the tests that leave it running, in a path of more than 150 characters."""
    folder = tmp_path_factory.mktemp("yard")
    with yards(folder) as start:
        yield start(data=folder / ("x" * 100) / ("y" * 50))


def is_gone(pid: int) -> bool:
    """Whether the process has ended; init may still have to collect it."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


def every_pid(known: YardState) -> list[int]:
    return [known.pid, *(pid for pids in known.pids.values() for pid in pids)]


def command_of(pid: int) -> str:
    return " ".join(psutil.Process(pid).cmdline())


class TestUp:
    def test_every_role_runs_and_is_written_down(self, running: RunningYard) -> None:
        assert set(running.state.pids) == set(NAMES)
        commands = {role: command_of(running.pids(role)[0]) for role in NAMES}
        assert "postgres -D" in commands["postgres"]
        assert "gateway.app" in commands["gateway"]
        assert "workers.app" in commands["worker"]
        assert running.state.state is Phase.READY
        assert running.is_ready()

    def test_a_long_path_works(self, running: RunningYard) -> None:
        assert len(str(running.place.data)) > 150

    def test_files_are_the_owners_alone(self, running: RunningYard) -> None:
        for path in (running.place.state_file, running.place.admin_key_file, running.place.env_file):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        assert stat.S_IMODE(running.place.data.stat().st_mode) == 0o700

    def test_processes_carry_no_secret(self, running: RunningYard) -> None:
        secrets = json.loads((running.place.secrets / "credentials.json").read_text())
        del secrets["s3_access_key"]
        private = (*secrets.values(), running.admin_key)
        for role in NAMES:
            process = psutil.Process(running.pids(role)[0])
            seen = [*process.cmdline()]
            if role in ROLES:  # rclone takes its key from its environment, which nobody else may read
                seen += process.environ().values()
            assert not [value for value in private if any(value in text for text in seen)], role
        logs = running.logs(lines=100_000)
        assert not [value for value in private if value in logs]

    def test_a_second_start_is_refused_with_the_first_ones_pid(self, running: RunningYard) -> None:
        for arguments in (["--detach"], []):
            refused = running.cli("up", *arguments, check=False)
            assert refused.returncode == 1
            assert f"pid {running.state.pid}" in refused.stderr

    def test_a_port_that_is_taken_is_refused(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            refused = run_cli(
                "up", "--detach", "--data", str(tmp_path / "other"), "--port", port, env=environment_of({})
            )
        assert refused.returncode == 1
        assert f"Port {port}" in refused.stderr

    def test_a_setting_that_does_not_exist_is_refused(self, tmp_path: Path) -> None:
        data = str(tmp_path / "other")
        refused = run_cli("up", "--detach", "--data", data, env=environment_of({"lease_tll_s": 5}))
        assert refused.returncode == 1
        assert "MODELYARD_LEASE_TLL_S is not a setting" in refused.stderr


class TestStatus:
    def test_it_says_what_runs(self, running: RunningYard) -> None:
        shown = json.loads(running.cli("status", "--json").stdout)
        assert (shown["state"], shown["ready"], shown["url"]) == ("ready", True, running.url)
        assert {process["role"] for process in shown["processes"]} == set(NAMES)

    def test_people_get_a_table(self, running: RunningYard) -> None:
        assert str(running.pids("relay")[0]) in running.cli("status").stdout

    def test_logs_are_shown_by_role(self, running: RunningYard) -> None:
        assert "ready to accept connections" in running.cli("logs", "postgres", "-n", "1000").stdout
        assert running.cli("logs", "postgres", "-n", "0").stdout == ""

    def test_the_doctor_looks_at_the_running_yard(self, running: RunningYard) -> None:
        found = json.loads(running.cli("doctor", "--json").stdout)
        levels = {check["name"]: check["level"] for check in found["checks"]}
        assert levels["health"] == levels["clock"] == "ok"

    def test_a_folder_without_a_yard_is_said_so(self, tmp_path: Path) -> None:
        env = environment_of({}) | {"MODELYARD_DATA_DIR": str(tmp_path)}
        assert run_cli("status", env=env).returncode == 3
        assert run_cli("logs", env=env).returncode == 3
        assert run_cli("restart", "worker", env=env).returncode == 3
        assert run_cli("down", env=env).returncode == 0


@pytest.mark.faults
class TestRestart:
    @pytest.mark.parametrize("role", NAMES)
    def test_whoever_is_killed_comes_back(self, running: RunningYard, role: str) -> None:
        old = running.kill(role)
        new = running.await_restart(role, old=old)
        assert psutil.pid_exists(new)
        assert is_gone(old)
        assert running.state.restarts[role] >= 1

    @pytest.mark.parametrize("role", ["gateway", "worker"])
    def test_a_role_is_restarted_on_demand(self, running: RunningYard, role: str) -> None:
        old = running.pids(role)
        pids = json.loads(running.cli("restart", role, "--json").stdout)["pids"]
        assert not set(old) & set(pids)
        assert running.is_ready()

    def test_callers_wait_while_the_gateway_restarts(self, running: RunningYard) -> None:
        old = running.kill("gateway")
        with running.client() as client:
            assert client.get("/health/live").status_code == 200
        running.await_restart("gateway", old=old)


@pytest.mark.faults
class TestDown:
    """Each of these leaves the module's yard running again, so that starting it is paid once."""

    def test_nothing_is_left_and_the_next_start_finds_its_place_again(self, running: RunningYard) -> None:
        before, key = running.state, running.admin_key
        running.down()
        assert not [pid for pid in every_pid(before) if psutil.pid_exists(pid)]
        assert not remains.find(running.place)
        assert not running.place.run.exists()
        assert running.state.state is Phase.STOPPED
        assert running.state.pids == {role: [] for role in NAMES}

        running.up()
        assert (running.state.ports, running.admin_key) == (before.ports, key)
        with running.client() as client:
            assert client.get("/v1/jobs").status_code == 200

    def test_a_killed_yard_is_taken_over_by_the_next(self, running: RunningYard) -> None:
        before = running.state
        os.kill(before.pid, signal.SIGKILL)
        assert all(psutil.pid_exists(pid) for role in STORES for pid in before.pids[role])
        running.up()
        assert not set(every_pid(before)) & set(every_pid(running.state))
        assert all(is_gone(pid) for pid in every_pid(before))

    def test_everything_killed_at_once_starts_again(self, running: RunningYard) -> None:
        for pid in every_pid(running.state):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        running.up()
        assert running.is_ready()

    def test_a_killed_yard_is_cleared_up_after(self, running: RunningYard) -> None:
        before = running.state
        os.kill(before.pid, signal.SIGKILL)
        running.down()
        assert not [pid for pid in every_pid(before) if psutil.pid_exists(pid)]
        assert not remains.find(running.place)
        running.up()


@pytest.mark.faults
class TestForeground:
    def test_ctrl_c_stops_it(self, tmp_path: Path) -> None:
        place = layout(tmp_path / "yard")
        with subprocess.Popen(
            [sys.executable, "-m", "services.cli.main", "up", "--data", str(place.data)],
            cwd=ROOT,
            env=environment_of({}),
            stderr=subprocess.PIPE,
            text=True,
        ) as yard:
            assert yard.stderr is not None
            assert any("ready at" in line for line in iter(yard.stderr.readline, ""))
            yard.send_signal(signal.SIGINT)
            said = yard.stderr.read()
        assert (yard.returncode, said.splitlines()[-1].endswith("stopped")) == (0, True)
        assert not remains.find(place)

    def test_a_signal_during_the_start_stops_it(self, tmp_path: Path) -> None:
        place = layout(tmp_path / "yard")
        with subprocess.Popen(
            [sys.executable, "-m", "services.cli.main", "up", "--data", str(place.data)],
            cwd=ROOT,
            env=environment_of({}),
            stderr=subprocess.DEVNULL,
        ) as yard:
            wait_until(lambda: (known := load(place)) and known.pids["store"], timeout=30)
            yard.terminate()
        assert yard.returncode == 0
        assert not remains.find(place)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
class TestOrdinaryUser:
    def test_a_yard_of_an_ordinary_user(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        nobody = pwd.getpwnam("nobody")
        reach = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import services.cli'], check=True)"
        become = ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
        if (
            shutil.which("setpriv") is None
            or subprocess.run(
                [*become, sys.executable, "-c", reach], cwd=ROOT, capture_output=True, check=False
            ).returncode
        ):
            pytest.skip("an ordinary user cannot reach this Python or these sources")
        data = Path("/tmp") / f"modelyard-test-{os.getpid()}"
        data.mkdir(mode=0o700)
        os.chown(data, nobody.pw_uid, nobody.pw_gid)
        modelyard = [*become, sys.executable, "-m", "services.cli.main"]
        env = environment_of({}) | {"MODELYARD_DATA_DIR": str(data), "HOME": str(data)}
        try:
            for command in (["up", "--detach"], ["status"], ["down"]):
                subprocess.run([*modelyard, *command], cwd=ROOT, env=env, check=True, timeout=120)
        finally:
            subprocess.run([*modelyard, "down"], cwd=ROOT, env=env, check=False, timeout=120)
            shutil.rmtree(data)
