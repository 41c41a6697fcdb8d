"""`modelyard models` against a real gateway and a real runner."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from services.accounts import service as accounts
from services.cli.models import app
from services.cli.output import ExitCode
from shared.db.session import Database
from shared.settings import Settings
from shared.storage import Store
from tests.gateway.conftest import serving
from tests.services.imports import build
from tests.support.configured import configured
from workers.runner import Runner

Run = Callable[..., Result]

pytestmark = [pytest.mark.timeout(120)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def hub(root: Path) -> Iterator[build.Hub]:
    with build.hub(build.tiny(root / "repository")) as running:
        yield running


@pytest.fixture
def modelyard(settings: Settings, database: Database, root: Path, hub: build.Hub) -> Iterator[Run]:
    own = {"models_root": root, "huggingface_endpoint": hub.url, "heartbeat_s": 0.2, "runner_poll_s": 0.2}
    with configured(settings, **own) as here, serving(here) as url:
        Store.of(here).probe()
        token = accounts.new_token()
        with database.transaction() as session:
            accounts.bootstrap(session, token)
        runner = Runner(here)
        runner.start()

        def run(*arguments: str) -> Result:
            return CliRunner().invoke(app, [*arguments, "--url", url, "--api-key", token])

        yield run
        runner.drain()
        assert runner.join(20)


class TestModels:
    def test_a_folder_is_uploaded_named_served_and_deleted(self, modelyard: Run, tmp_path: Path) -> None:
        folder = build.tiny(tmp_path / "mine")
        made = modelyard(
            "register", str(folder), "-n", "org/tiny", "--alias", "prod", "-s", "max_in_flight=8", "--json"
        )
        assert made.exit_code == 0, made.output
        body = json.loads(made.stdout)
        assert (body["id"], body["aliases"], body["serving"]) == ("org/tiny@1", ["prod"], {"max_in_flight": 8})

        served = json.loads(modelyard("serve", "prod", "-s", "batching.policy=static", "--json").stdout)
        assert served["serving"] == {"max_in_flight": 8, "batching": {"policy": "static"}}
        assert "org/tiny" in modelyard("list").stdout
        assert "org/tiny@1" in modelyard("versions", "org/tiny").stdout
        shown = modelyard("show", "org/tiny").stdout
        assert "cpu × 1" in shown
        assert "KV cache" in shown

        assert modelyard("delete", "org/tiny").exit_code == ExitCode.REFUSED
        assert "prod" in modelyard("alias").stdout
        assert modelyard("alias", "prod", "--delete").stdout.strip() == "forgot prod"
        assert modelyard("delete", "org/tiny").stdout.strip() == "deleted org/tiny"
        assert modelyard("show", "org/tiny").exit_code == ExitCode.REFUSED

    def test_from_the_hub_and_in_place(self, modelyard: Run, root: Path) -> None:
        imported = modelyard("import", f"hf:org/model@{build.COMMIT}", "--name", "a", "--json")
        assert json.loads(imported.stdout)["source"]["repo_id"] == "org/model"
        again = modelyard("register", str(root / "repository"), "--name", "a", "--in-place")
        assert again.exit_code == 0, again.output
        assert "version 1" in again.stdout  # the same content

    def test_an_adapter_is_served_beside_its_base(self, modelyard: Run, root: Path, tmp_path: Path) -> None:
        assert modelyard("register", str(root / "repository"), "-n", "tiny", "--in-place").exit_code == 0
        made = modelyard(
            "register", str(build.adapter(tmp_path / "lora")), "-n", "bot", "--base-model", "tiny", "--json"
        )
        assert made.exit_code == 0, made.output
        body = json.loads(made.stdout)
        assert (body["parent"], body["adapter"]["rank"], body["context_length"]) == ("tiny@1", 4, 2048)
        assert "rank 4" in modelyard("show", "bot").stdout
        assert modelyard("delete", "tiny").exit_code == ExitCode.REFUSED
        assert modelyard("delete", "bot").exit_code == 0
        assert modelyard("delete", "tiny").exit_code == 0

    def test_a_misfit_fails_and_names_the_tensor(self, modelyard: Run, root: Path) -> None:
        assert modelyard("register", str(root / "repository"), "-n", "tiny", "--in-place").exit_code == 0
        folder = build.adapter(root / "lora", out=2)
        failed = modelyard("register", str(folder), "-n", "bot", "--base-model", "tiny", "--in-place")
        assert failed.exit_code == ExitCode.FAILED
        assert "q_proj.lora_B.weight" in failed.stderr

    def test_what_is_refused_before_anything_is_sent(self, modelyard: Run, tmp_path: Path) -> None:
        (folder := build.tiny(tmp_path / "bad")).joinpath("x.pkl").write_bytes(b"\x80")
        refused = modelyard("register", str(folder), "-n", "a")
        assert refused.exit_code == ExitCode.REFUSED
        assert "x.pkl" in refused.stderr
        assert modelyard("import", "hf:org/model@main", "-n", "a").exit_code == ExitCode.USAGE
        assert modelyard("serve", "a").exit_code == ExitCode.USAGE
