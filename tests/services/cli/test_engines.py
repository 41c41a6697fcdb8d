"""`modelyard engines` against a real gateway, with rows as a worker writes them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest
from typer.testing import CliRunner, Result

from services.accounts import service as accounts
from services.cli.engines import app
from services.cli.output import ExitCode
from services.workers import service as workers
from services.workers.types import Figures, LoadedEngine, Slots
from shared.contracts.jobs import Pool
from shared.db.session import Database
from shared.ids import new_id
from shared.settings import Settings
from tests.gateway.conftest import serving
from tests.support.configured import configured

Run = Callable[..., Result]
BUSY, FAILED = new_id(), new_id()


@pytest.fixture
def modelyard(settings: Settings, database: Database) -> Iterator[Run]:
    with configured(settings) as here, serving(here) as url:
        token = accounts.new_token()
        with database.transaction() as session:
            accounts.bootstrap(session, token)
            boot = workers.describe("cpu", pools=[Pool.SERVE], devices=[0], slots={Pool.SERVE: Slots(1, 1)})
            workers.register(session, boot)
            figures = Figures(running=2, waiting=1, kv_used=0.25, memory_bytes=3 * 2**29, tokens_generated=1234)
            workers.put_engine(session, engine(boot.id, BUSY, "ready", figures=figures))
            error: dict[str, object] = {
                "code": "engine_out_of_memory",
                "title": "It does not fit",
                "detail": "4.4 GiB of 3.0 GiB",
            }
            workers.put_engine(session, engine(boot.id, FAILED, "failed", error=error))

        def run(*arguments: str) -> Result:
            return CliRunner().invoke(app, [*arguments, "--url", url, "--api-key", token])

        yield run


def engine(
    worker: UUID, engine_id: UUID, state: str, *, figures: Figures | None = None, error: dict[str, object] | None = None
) -> LoadedEngine:
    told = figures or Figures()
    return LoadedEngine(
        id=engine_id,
        worker_id=worker,
        model_digest="ab" * 32,
        kind="transformers",
        address="unix:/run/e.sock",
        devices=(0,),
        state=state,
        max_in_flight=96,
        in_flight=told.in_flight,
        pid=4711,
        error=error,
        token="secret-of-the-engine",
        figures=told,
    )


class TestEngines:
    def test_are_listed_with_what_they_do(self, modelyard: Run) -> None:
        listed = modelyard("list")
        assert listed.exit_code == 0, listed.output
        for told in ("busy", "1.5 GiB", "3/96", "25%", "1234", "failed", "It does not fit: 4.4 GiB of 3.0 GiB"):
            assert told in listed.stdout
        rows = json.loads(modelyard("list", "--json").stdout)["data"]
        assert [(row["state"], row["waiting"]) for row in rows] == [("busy", 1), ("failed", 0)]
        assert "secret-of-the-engine" not in json.dumps(rows)

    def test_one_is_shown_by_the_end_of_its_id(self, modelyard: Run) -> None:
        shown = modelyard("show", str(BUSY)[-12:])
        assert "kv_used          0.25" in shown.stdout
        assert modelyard("show", "ffffffff").exit_code == ExitCode.NOT_FOUND

    def test_its_log_is_read_where_it_lies(self, modelyard: Run, tmp_path: Path) -> None:
        missing = modelyard("logs", str(BUSY), "--data", str(tmp_path))
        assert missing.exit_code == ExitCode.NOT_FOUND
        assert "the log is on host" in missing.output
        (tmp_path / "logs").mkdir(exist_ok=True)
        (tmp_path / "logs" / f"engine-{'ab' * 6}.log").write_text("first\nlast\n")
        assert modelyard("logs", str(BUSY), "--data", str(tmp_path), "-n", "1").stdout == "last\n"
