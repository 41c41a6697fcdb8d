"""What exists is documented: the page names all of it, and is the page that the code would write."""

from collections.abc import Iterable

import pytest

from infra.docs import reference
from services.cli.main import COMMANDS, load
from shared.contracts.jobs import EventType
from shared.errors import ModelyardError
from shared.queues import queue_names
from shared.settings import PREFIX, Settings
from tests.architecture.source import ROOT
from workers.engine.errors import EngineError

PAGE = (ROOT / "infra/docs/reference.md").read_text()


def missing(names: Iterable[str]) -> list[str]:
    """The names that the page does not have in code style."""
    return [name for name in names if f"`{name}`" not in PAGE]


class TestReference:
    def test_every_setting_is_there(self) -> None:
        assert missing(f"{PREFIX}{name.upper()}" for name in Settings.model_fields) == []

    def test_every_setting_says_what_it_means(self) -> None:
        assert [name for name, field in Settings.model_fields.items() if not field.description] == []

    def test_every_error_code_is_there(self) -> None:
        assert missing(error.code for error in reference.tree(ModelyardError)) == []

    def test_every_code_of_a_job_or_an_engine_is_there(self) -> None:
        codes = {code for code, _ in reference.job_error_codes()}
        assert "worker_lost" in codes
        assert missing(codes | {error.code for error in reference.tree(EngineError) if error.code}) == []

    def test_every_event_is_there(self) -> None:
        assert missing(EventType) == []

    def test_every_queue_is_there(self) -> None:
        assert missing(queue_names()) == []

    def test_every_command_is_there(self) -> None:
        leaves = [path for name in COMMANDS for path, _ in reference.leaves(name, load(name))]
        assert missing(f"modelyard {path}" for path in leaves) == []

    def test_every_command_says_what_it_does(self) -> None:
        leaves = [leaf for name in COMMANDS for leaf in reference.leaves(name, load(name))]
        assert [path for path, command in leaves if not command.help] == []

    def test_it_is_what_the_code_would_write(self) -> None:
        assert reference.page() == PAGE, "run `make docs`"


class TestCheck:
    def test_a_page_that_lags_is_refused(
        self, tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(reference, "PAGE", tmp_path / "reference.md")
        assert reference.main([]) == 0
        assert reference.main(["--check"]) == 0
        (tmp_path / "reference.md").write_text("old")
        assert reference.main(["--check"]) == 1
        assert "make docs" in capsys.readouterr().err
