"""Rules of the house that no linter knows."""

import ast
import subprocess
import sys
from pathlib import Path

from tests.architecture.source import BESIDE, PRODUCT, ROOT, dotted, names_used, python_files, syntax

ENVIRONMENT = {"os.environ", "os.environb", "os.getenv", "os.getenvb", "os.putenv"}

#: Who may look at the environment besides shared/settings.py, and why.
READS_ENVIRONMENT: dict[str, str] = {
    "shared/settings.py": "the one reader",
    "workers/engine/__main__.py": "writes what torch and OpenMP read when they are imported; reads nothing",
    "workers/engine/parallel.py": "which rank a process is comes in torchrun's own variables",
    "workers/engine/guard/environment.py": "passes it on to the server that it guards",
    "workers/forge/ranks.py": "which rank a process is comes in torchrun's own variables",
    "workers/forge/running.py": "writes what libraries read when they are imported; reads nothing",
}

#: Files of more than 300 lines, and why they are one thing.
LONG: dict[str, str] = {
    "gateway/openapi_examples.py": "data: a request and an answer for every route",
    "migrations/versions/0001_initial.py": "a schema is read in one piece, and comes from the models",
    "tests/support/scripted_engine.py": "one file, because workers start it by its path",
    "tests/services/jobs/test_lifecycle.py": "one edge of the table after the other",
}
LONGEST = 300

#: The one place in the tests that may sleep: it polls for a condition, with a deadline.
POLLING = "tests/support/polling.py"

#: Where SQL is written besides modules that are called repository.
SQL_HOMES = ("shared/db/", "migrations/")
#: What the others may know of SQLAlchemy: the type of what they are handed, and how it fails.
SQL_TYPES = {"sqlalchemy.Engine", "sqlalchemy.Row", "sqlalchemy.orm.Session"}


def users_of(names: set[str], *folders: str) -> dict[str, list[int]]:
    """The files below `folders` that use one of `names` (or something below it), with the lines."""
    found: dict[str, list[int]] = {}
    for path in python_files(*folders):
        lines = [line for name, line in names_used(path) if any(f"{name}.".startswith(f"{n}.") for n in names)]
        if lines:
            found[str(path)] = sorted(set(lines))
    return found


class TestEnvironment:
    def test_settings_are_read_by_one_module(self) -> None:
        users = users_of(ENVIRONMENT, *PRODUCT)
        assert {path: lines for path, lines in users.items() if path not in READS_ENVIRONMENT} == {}

    def test_exceptions_are_still_needed(self) -> None:
        assert set(READS_ENVIRONMENT) - set(users_of(ENVIRONMENT, *PRODUCT)) == set()


class TestSize:
    @staticmethod
    def long_files() -> set[str]:
        return {
            str(path)
            for path in python_files(*PRODUCT, *BESIDE)
            if len((ROOT / path).read_text().splitlines()) > LONGEST
        }

    def test_a_file_is_read_in_one_sitting(self) -> None:
        assert self.long_files() - set(LONG) == set()

    def test_exceptions_are_still_needed(self) -> None:
        assert set(LONG) - self.long_files() == set()


class TestSleep:
    def test_tests_wait_for_conditions(self) -> None:
        assert set(users_of({"time.sleep"}, "tests")) - {POLLING} == set()


class TestSql:
    @staticmethod
    def is_home(path: Path) -> bool:
        return path.stem.endswith("repository") or str(path).startswith(SQL_HOMES)

    def test_statements_are_written_in_repositories(self) -> None:
        written = {
            f"{path}:{line} {name}"
            for path in python_files(*PRODUCT)
            if not self.is_home(path)
            for name, line in imported_from(path, "sqlalchemy")
            if name not in SQL_TYPES and not name.startswith("sqlalchemy.exc.")
        }
        assert written == set()

    def test_nobody_else_commits(self) -> None:
        commits = {
            f"{path}:{node.lineno}"
            for path in python_files(*PRODUCT)
            if not str(path).startswith(SQL_HOMES)
            for node in ast.walk(syntax(path))
            if isinstance(node, ast.Call) and dotted(node.func).endswith((".commit", ".rollback"))
        }
        assert commits == set()


class TestTorch:
    def test_only_engine_and_forge_load_it(self) -> None:
        """Every other module is imported in one fresh process: torch would cost it 200 MB and seconds."""
        modules = [
            ".".join(path.with_suffix("").parts).removesuffix(".__init__")
            for path in python_files("gateway", "services", "shared", "workers")
            if path.parts[:2] not in {("workers", "engine"), ("workers", "forge")} and path.name != "__main__.py"
        ]
        script = (
            "import importlib, sys\n"
            "for name in sys.argv[1:]: importlib.import_module(name)\n"
            "print(*sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
        )
        run = subprocess.run(
            [sys.executable, "-c", script, *modules], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert (run.returncode, run.stdout.strip()) == (0, ""), run.stderr


def imported_from(path: Path, package: str) -> list[tuple[str, int]]:
    """What a file imports from a third-party package: full names and lines."""
    return [
        (name, node.lineno)
        for node in ast.walk(syntax(path))
        if isinstance(node, ast.stmt)
        for name in imported_names(node)
        if f"{name}.".startswith(f"{package}.")
    ]


def imported_names(node: ast.stmt) -> list[str]:
    """The full names that an import statement binds."""
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=str(module), names=names):
            return [f"{module}.{alias.name}" for alias in names]
        case _:
            return []
