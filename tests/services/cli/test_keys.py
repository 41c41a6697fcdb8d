"""`modelyard keys` against a real gateway."""

import json
from collections.abc import Callable, Iterator

import pytest
from typer.testing import CliRunner, Result

from services.accounts import service as accounts
from services.cli.keys import app
from services.cli.output import ExitCode
from shared.db.session import Database
from shared.errors import Unauthorized
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

        def run(*arguments: str, key: str = token) -> Result:
            return CliRunner().invoke(app, [*arguments, "--url", url, "--api-key", key])

        yield run


class TestKeys:
    def test_made_listed_used_and_revoked(self, modelyard: Run, database: Database):
        made = modelyard("create", "ci", "--scope", "jobs:read", "-s", "admin:keys", "--expires-days", "7")
        assert made.exit_code == 0, made.output
        text = made.stdout.strip()
        assert accounts.authenticate(database, text).scopes == {"jobs:read", "admin:keys"}

        listed = json.loads(modelyard("list", "--json", key=text).stdout)
        assert [key["name"] for key in listed["data"]] == ["ci", "admin"]
        assert text not in json.dumps(listed)
        assert "live" in modelyard("list").stdout

        ended = modelyard("revoke", listed["data"][0]["id"])
        assert (ended.exit_code, ended.stdout.startswith("revoked")) == (0, True)
        with pytest.raises(Unauthorized):
            accounts.authenticate(database, text)
        assert "revoked" in modelyard("list").stdout

    def test_json_is_one_object(self, modelyard: Run):
        made = json.loads(modelyard("create", "ci", "-s", "*", "--json").stdout)
        assert made["key"].startswith("modelyard_test_")
        assert json.loads(modelyard("revoke", made["id"], "--json").stdout)["revoked_at"]

    def test_what_is_refused(self, modelyard: Run):
        weak = modelyard("create", "weak", "-s", "admin:keys").stdout.strip()
        assert modelyard("create", "strong", "-s", "*", key=weak).exit_code == ExitCode.REFUSED
        assert modelyard("create", "x", "-s", "jobs:fly").exit_code == ExitCode.REFUSED
        assert modelyard("create", "x").exit_code == ExitCode.USAGE
        assert modelyard("list", key="modelyard_nonsense").exit_code == ExitCode.REFUSED
        assert modelyard("revoke", "01990000-0000-7000-8000-000000000000").exit_code == ExitCode.NOT_FOUND
