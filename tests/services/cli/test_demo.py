"""`modelyard demo` as a newcomer runs it: to the end, or until Ctrl-C."""

import fcntl
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from standardwebhooks import Webhook

from services.cli.output import ExitCode
from shared.embedded.roles import ROOT
from tests.support.polling import wait_until
from tests.support.yards import environment_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """No settings of ours, and a temporary folder of this test's own, to see what stays."""
    (tmp_path / "tmp").mkdir()
    kept = {name: value for name, value in environment_of({}).items() if not name.startswith("MODELYARD_")}
    return {**kept, "TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": str(ROOT)}


def start(env: dict[str, str], cwd: Path, *arguments: str) -> subprocess.Popen[str]:
    out = (cwd / "out.txt").open("w")
    argv = [sys.executable, "-m", "services.cli.main", "demo", *arguments]
    with out:
        return subprocess.Popen(argv, cwd=cwd, env=env, stdout=out, stderr=subprocess.STDOUT, text=True)


def left_behind(env: dict[str, str]) -> list[Any]:
    """Processes whose command line names the demo's folder, and the folder itself."""
    processes = [each for each in psutil.process_iter(["cmdline"]) if env["TMPDIR"] in str(each.info["cmdline"])]
    return [*processes, *Path(env["TMPDIR"]).glob("modelyard-*")]


class TestDemo:
    def test_runs_to_its_end_and_proves_it(self, env: dict[str, str], tmp_path: Path) -> None:
        status = start(env, tmp_path).wait(timeout=200)
        told = (tmp_path / "out.txt").read_text()
        assert status == ExitCode.OK, told
        report = json.loads((tmp_path / "demo-report.json").read_text())
        webhook = report["webhook"]
        event = Webhook(webhook["secret"]).verify(webhook["body"], webhook["headers"])
        assert isinstance(event, dict)
        assert event["data"]["id"] == report["job_id"]
        assert webhook["id"] == webhook["headers"]["webhook-id"]
        assert len(report["artifact_sha256"]) == 64
        assert report["lines"] == 48
        assert list(report["timings_s"]) == [
            "up",
            "submit",
            "run",
            "artifact",
            "webhook",
            "batch",
            "documents",
            "compress",
            "tune",
            "down",
        ]
        assert "the signature is genuine" in told
        assert report["batch"]["request_counts"] == {"total": 24, "completed": 24, "failed": 0}
        assert report["batch"]["line"]["response"]["status_code"] == 200
        read = report["document_set"]
        assert (read["status"], read["counts"]["completed"], read["counts"]["failed"]) == ("completed", 3, 0)
        assert sorted(each["filename"].rpartition(".")[2] for each in read["documents"]) == ["docx", "pdf", "xlsx"]
        assert read["pages"] == sum(each["pages"] for each in read["documents"])
        assert {"results.csv", "results.parquet", "report.html"} <= {each["name"] for each in read["artifacts"]}
        made = report["quantization"]
        assert made["model"]
        assert made["evaluation"]
        assert made["answer"].strip()
        for role in ("baseline", "candidate"):
            assert made["figures"][role]["served"]["engine"] == "transformers", made["figures"][role]["not_served"]
        assert made["figures"]["candidate"]["weight_bytes"] < 0.75 * made["figures"]["baseline"]["weight_bytes"]
        assert "text: perplexity" in told
        taught = report["tuning"]
        assert taught["model"]
        assert taught["exact_match"]["before"] == 0
        assert taught["exact_match"]["after"] >= 0.9
        assert "held-out questions: 0% before" in told
        assert left_behind(env) == []

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_takes_everything_down(self, env: dict[str, str], tmp_path: Path, number: signal.Signals) -> None:
        demo = start(env, tmp_path)
        told = tmp_path / "out.txt"
        wait_until(lambda: "3 · Run it" in told.read_text(), timeout=120, what="the job runs")
        demo.send_signal(number)
        assert demo.wait(timeout=90) == ExitCode.INTERRUPTED
        assert not (tmp_path / "demo-report.json").exists()
        assert left_behind(env) == []

    def test_a_yard_of_somebodys_is_left_alone(self, env: dict[str, str], tmp_path: Path) -> None:
        folder = tmp_path / "mine"
        folder.mkdir()
        with subprocess.Popen(["sleep", "60"]) as theirs, (folder / "yard.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            lock.write(f"{theirs.pid}\n")
            lock.flush()
            assert start(env, tmp_path, "--data", str(folder)).wait(timeout=30) == ExitCode.FAILED
            assert theirs.poll() is None
            theirs.kill()
        assert "already running" in (tmp_path / "out.txt").read_text()
        assert [path.name for path in folder.iterdir()] == ["yard.lock"]
