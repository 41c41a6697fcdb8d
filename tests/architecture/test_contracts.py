"""Each import rule is broken on purpose in a copy of the tree; lint-imports has to name it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from importlinter.api import read_configuration

from tests.architecture.source import PRODUCT, ROOT

LINT = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_logo=True))"


@dataclass(frozen=True)
class Plant:
    """A forbidden import: the module that is written, what it says, and the contract that must break."""

    contract: str
    path: str
    line: str


LAYERS = "gateway and workers stand on services, services on shared"
TORCH = "torch lives in engine and forge"
NOT_LIBRARIES = "engine and forge are processes, not libraries"
CELERY = "Celery lives in the broker and the worker's app"
STARLETTE = "Starlette lives in the gateway and the engine's server"
PLANTS = [
    Plant(LAYERS, "shared/planted.py", "import services"),
    Plant(LAYERS, "services/planted.py", "import gateway"),
    Plant(LAYERS, "services/planted.py", "import workers"),
    Plant(LAYERS, "gateway/planted.py", "import workers"),
    Plant(LAYERS, "workers/planted.py", "import gateway"),
    Plant("migrations know shared alone", "migrations/planted.py", "import services"),
    Plant("contracts need nothing but pydantic", "shared/contracts/planted.py", "import shared.errors"),
    Plant("contracts need nothing but pydantic", "shared/contracts/planted.py", "import orjson"),
    Plant("an engine knows shared.contracts alone", "workers/engine/planted.py", "import shared.settings"),
    Plant("an engine knows shared.contracts alone", "workers/engine/planted.py", "import workers.runtime"),
    Plant("a forge knows shared.contracts alone", "workers/forge/planted.py", "import shared.settings"),
    Plant("a forge knows shared.contracts alone", "workers/forge/planted.py", "import workers.engine"),
    Plant(NOT_LIBRARIES, "workers/planted.py", "import workers.engine"),
    Plant(NOT_LIBRARIES, "workers/planted.py", "import workers.forge"),
    Plant(TORCH, "services/planted.py", "import torch"),
    Plant(TORCH, "workers/runtime/planted.py", "import transformers"),
    Plant("FastAPI lives in the gateway", "services/planted.py", "import fastapi"),
    Plant(STARLETTE, "services/planted.py", "import starlette"),
    Plant(STARLETTE, "workers/engine/planted.py", "import starlette"),
    Plant(CELERY, "services/planted.py", "import celery"),
    Plant(CELERY, "workers/tasks/planted.py", "import kombu"),
    Plant("PostgreSQL's driver lives in shared.db", "services/planted.py", "import psycopg"),
    Plant("no import cycles", "shared/ids.py", "import shared.planted_by_ids"),
]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The product's source without its data, beside the contracts."""
    tree = tmp_path_factory.mktemp("tree")
    for folder in (*PRODUCT, "tests/architecture"):
        shutil.copytree(
            ROOT / folder,
            tree / folder,
            ignore=lambda at, names: [n for n in names if Path(at, n).is_file() and not n.endswith(".py")],
        )
    shutil.copy(ROOT / "pyproject.toml", tree)
    return tree


@contextmanager
def planted(tree: Path, plant: Plant) -> Iterator[None]:
    """Add the plant's line to its module, and a module that would close a cycle; take both away again."""
    target, closer = tree / plant.path, tree / "shared/planted_by_ids.py"
    before = target.read_text() if target.exists() else None
    target.write_text(f"{before or ''}\n{plant.line}\n")
    closer.write_text("import shared.ids\n")
    try:
        yield
    finally:
        closer.unlink()
        if before is None:
            target.unlink()
        else:
            target.write_text(before)


def broken_contracts(tree: Path) -> set[str]:
    """The contracts that lint-imports reports as broken in this tree."""
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    run = subprocess.run(
        [sys.executable, "-c", LINT], cwd=tree, env=environment, capture_output=True, text=True, check=False
    )
    verdicts = [line.rstrip() for line in run.stdout.splitlines() if line.rstrip().endswith((" KEPT", " BROKEN"))]
    assert verdicts, run.stdout + run.stderr
    broken = {line.removesuffix(" BROKEN") for line in verdicts if line.endswith(" BROKEN")}
    assert run.returncode == bool(broken), run.stdout + run.stderr
    return broken


class TestContracts:
    def test_the_tree_keeps_them_all(self, copy: Path) -> None:
        assert broken_contracts(copy) == set()

    @pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: f"{plant.path}: {plant.line}")
    def test_a_forbidden_import_breaks_its_contract(self, copy: Path, plant: Plant) -> None:
        with planted(copy, plant):
            assert plant.contract in broken_contracts(copy)

    def test_every_contract_has_been_broken_once(self) -> None:
        configured = {
            contract["name"] for contract in read_configuration(str(ROOT / "pyproject.toml"))["contracts_options"]
        }
        assert configured == {plant.contract for plant in PLANTS}
