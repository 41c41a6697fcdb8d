"""`modelyard cache` against a real gateway."""

import json
from collections.abc import Callable, Iterator

import pytest
from typer.testing import CliRunner, Result

from services.accounts import service as accounts
from services.cli.cache import app
from services.cli.output import ExitCode
from shared.db.session import Database
from shared.settings import Settings
from tests.gateway.conftest import serving
from tests.support.configured import configured

Run = Callable[..., Result]


@pytest.fixture
def modelyard(settings: Settings, database: Database) -> Iterator[Run]:
    with configured(settings) as here, serving(here) as url:
        token = accounts.new_token()
        with database.transaction() as session:
            accounts.bootstrap(session, token)
        yield lambda *arguments: CliRunner().invoke(app, [*arguments, "--url", url, "--api-key", token])


class TestCache:
    def test_shown_and_purged(self, modelyard: Run):
        assert json.loads(modelyard("show", "--json").stdout)["purges"] == 0
        assert modelyard("purge").stdout == "purged every answer\n"
        assert json.loads(modelyard("show", "--json").stdout)["purges"] == 1
        shown = modelyard("show").stdout
        assert "hit_rate" in shown
        assert "86400 s" in shown

    def test_a_model_that_is_not_there(self, modelyard: Run):
        refused = modelyard("purge", "--model", "org/no such model")
        assert refused.exit_code == ExitCode.REFUSED
        assert "no such model" in refused.output
