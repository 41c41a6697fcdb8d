"""The contributor's front door."""

import re
import subprocess

from tests.architecture.source import ROOT

TARGETS = {"help", "setup", "demo", "up", "down", "test", "check", "fix", "docs", "bench", "setup-vllm"}


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make in the repository."""
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


class TestHelp:
    def test_it_is_what_make_does_alone(self) -> None:
        assert make().stdout == make("help").stdout

    def test_it_lists_every_target(self) -> None:
        listed = set(re.findall(r"^  ([a-z-]+) +\S", make("help").stdout, re.MULTILINE))
        assert listed >= TARGETS


class TestSetup:
    def test_a_missing_python_is_named(self) -> None:
        refused = make("-W", "pyproject.toml", "setup", "PYTHON=/nonexistent/python3")
        assert refused.returncode != 0
        assert 'no "/nonexistent/python3" on PATH' in refused.stderr

    def test_an_old_python_is_named(self, tmp_path) -> None:
        old = tmp_path / "python3"
        old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.9.2 || exit 1\n')
        old.chmod(0o755)
        refused = make("-W", "pyproject.toml", "setup", f"PYTHON={old}")
        assert refused.returncode != 0
        assert f"Python 3.11 or newer is needed; {old} is Python 3.9.2" in refused.stderr


class TestRecipes:
    def test_no_console_script_is_called_by_its_path(self) -> None:
        """Its first line would hold the environment's path, which may be too long or have a space in it."""
        text = (ROOT / "Makefile").read_text()
        assert set(re.findall(r"\.venv/bin/(\S+)", text)) == {"python"}
