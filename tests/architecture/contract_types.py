"""Two kinds of import-linter contract that its own cannot express.

`forbidden` cannot say "these and nothing else", and `protected` fails while nobody imports the module
yet, so a list of third parties that are to come could not be written down.
"""

import sys
from collections.abc import Iterable

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


def inside(module: str, packages: Iterable[object]) -> bool:
    """Whether a module is one of these packages or below one."""
    return any(f"{module}.".startswith(f"{package}.") for package in packages)


def verdict(foreign: Iterable[tuple[str, str]]) -> ContractCheck:
    """Kept when no (importer, imported) pair is foreign."""
    lines = sorted(f"{importer} -> {imported}" for importer, imported in foreign)
    return ContractCheck(kept=not lines, metadata={"lines": lines})


class _Listing(Contract):
    def render_broken_contract(self, check: ContractCheck) -> None:
        for line in check.metadata["lines"]:
            output.print_error(f"{line} is not allowed", bold=False)


class ImportsOnly(_Listing):
    """The package imports itself, the standard library and `allowed`; `any_external` adds third parties."""

    type_name = "imports_only"

    package = fields.ModuleField()
    allowed = fields.ListField(subfield=fields.ModuleField())
    any_external = fields.BooleanField(required=False, default=False)

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        del verbose
        package = str(self.package)
        allowed = [package, *self.allowed]  # type: ignore[misc]
        return verdict(
            (importer, imported)
            for importer in {package, *graph.find_descendants(package)}
            for imported in graph.find_modules_directly_imported_by(importer)
            if not inside(imported, allowed) and not (graph.is_module_squashed(imported) and self._free(imported))
        )

    def _free(self, external: str) -> bool:
        return bool(self.any_external) or external in sys.stdlib_module_names


class LivesIn(_Listing):
    """The `modules` are imported by themselves and by `homes`, and by nobody else."""

    type_name = "lives_in"

    modules = fields.ListField(subfield=fields.ModuleField())
    homes = fields.ListField(subfield=fields.ModuleField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        del verbose
        present = [str(module) for module in self.modules if str(module) in graph.modules]  # type: ignore[attr-defined]
        return verdict(
            (importer, imported)
            for module in present
            for imported in {module, *self._descendants(graph, module)}
            for importer in graph.find_modules_that_directly_import(imported)
            if not inside(importer, [module, *self.homes])  # type: ignore[misc]
        )

    @staticmethod
    def _descendants(graph: ImportGraph, module: str) -> set[str]:
        return set() if graph.is_module_squashed(module) else graph.find_descendants(module)
