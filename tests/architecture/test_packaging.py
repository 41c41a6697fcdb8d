"""What is installed is what is declared, and nobody else's."""

import importlib.metadata
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.architecture.source import BESIDE, PRODUCT, ROOT, packages

#: This Python, and the oldest one that is supported: some distributions bring back-ports for it.
PYTHONS: tuple[dict[str, str], ...] = ({}, {"python_version": "3.11", "python_full_version": "3.11.0"})
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def undeclared(declared: list[str], found: list[str]) -> set[str]:
    """Packages that are only declared, or only there."""
    return set(declared) ^ set(found)


class TestPackages:
    declared: list[str] = PROJECT["tool"]["setuptools"]["packages"]

    def test_every_package_is_declared_and_every_declared_one_exists(self) -> None:
        assert undeclared(self.declared, packages()) == set()

    def test_they_stand_in_order(self) -> None:
        assert self.declared == sorted(self.declared)

    @pytest.mark.parametrize("package", ["gateway.routes", "services.jobs", "shared.contracts", "workers.engine"])
    def test_one_that_is_forgotten_is_found(self, package: str) -> None:
        without = [name for name in self.declared if name != package]
        assert undeclared(without, packages()) == {package}

    def test_every_folder_with_code_is_a_package(self) -> None:
        code = {path.parent for folder in PRODUCT for path in (ROOT / folder).rglob("*.py")}
        scripts = {ROOT / "infra/docs"}  # writes a page of the checkout; not installed
        assert {path for path in code - scripts if not (path / "__init__.py").exists()} == set()

    def test_every_other_file_in_a_package_is_declared_as_its_data(self) -> None:
        data: dict[str, list[str]] = PROJECT["tool"]["setuptools"]["package-data"]
        declared = {
            path for name, patterns in data.items() for pattern in patterns for path in folder(name).glob(pattern)
        }
        owned = {
            path
            for name in packages()
            for path in folder(name).iterdir()
            if path.is_file() and path.suffix not in {".py", ".pyc"}
        }
        assert owned - declared == set()
        assert {name for name in data if not folder(name).is_dir()} == set()


def folder(package: str) -> Path:
    """Where a package's files lie."""
    return ROOT.joinpath(*package.split("."))


class TestNames:
    def test_no_other_distribution_owns_our_top_level_names(self) -> None:
        """Two distributions with one import name overwrite each other silently."""
        owners = importlib.metadata.packages_distributions()
        taken = {name: set(owners.get(name, [])) - {"modelyard"} for name in (*PRODUCT, *BESIDE)}
        assert {name: others for name, others in taken.items() if others} == {}

    def test_the_console_script_points_at_the_command_line(self) -> None:
        assert PROJECT["project"]["scripts"] == {"modelyard": "services.cli.main:main"}


class TestPins:
    def test_everything_we_need_is_pinned(self) -> None:
        assert needed() - set(pins()) == set()

    def test_nothing_else_is(self) -> None:
        assert set(pins()) - needed() == set()

    def test_pins_satisfy_what_the_project_asks_for(self) -> None:
        wrong = [asked for asked in asked_for() if pins()[canonicalize_name(asked.name)] not in asked.specifier]
        assert wrong == []


def pins() -> dict[str, str]:
    """What constraints.txt holds: canonical names and versions."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def asked_for() -> list[Requirement]:
    """What pyproject.toml names itself."""
    project = PROJECT["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    return [Requirement(line) for requirements in lists for line in requirements]


def needed() -> set[str]:
    """The closure of what pyproject.toml names, by what the installed distributions say that they need.

    torch's CUDA builds bring libraries of their own, which torch pins itself.
    """
    found: set[tuple[str, str]] = set()
    waiting = [(asked.name, extra) for asked in asked_for() for extra in ("", *asked.extras)]
    while waiting:
        name, extra = waiting.pop()
        if (key := (canonicalize_name(name), extra)) in found:
            continue
        found.add(key)
        for asked in requirements_of(name):
            if asked.marker is None or any(asked.marker.evaluate({"extra": extra, **on}) for on in PYTHONS):
                waiting += [(asked.name, more) for more in ("", *asked.extras)]
    named = {canonicalize_name(asked.name) for asked in asked_for()}
    return {name for name, _ in found if name in named or not name.startswith(("cuda-", "nvidia-", "triton"))}


def requirements_of(name: str) -> list[Requirement]:
    """What an installed distribution asks for; one that another Python needs may be missing here."""
    try:
        return [Requirement(line) for line in importlib.metadata.requires(name) or []]
    except importlib.metadata.PackageNotFoundError:
        return []
