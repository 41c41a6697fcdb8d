"""CPython's own text as training data: chats made of docstrings; no download."""

import ast
import builtins
import importlib
import inspect
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

QUESTIONS = ("What does {name} do?", "What is {name}?", "Explain {name}.", "Tell me about {name}.")
C_MODULES = (
    "math",
    "itertools",
    "time",
    "zlib",
    "array",
    "cmath",
    "select",
    "gc",
    "marshal",
    "errno",
    "_thread",
)


@dataclass(frozen=True)
class Chat:
    """One question about one name, and its docstring."""

    module: str
    question: str
    answer: str


def source_docstrings(module: str, source: str) -> Iterator[tuple[str, str]]:
    """Dotted names and docstrings of a module's own text, found without importing it."""

    def walk(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            doc = ast.get_docstring(node)
            if doc:
                yield name, doc
            for child in node.body:
                if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    yield from walk(child, f"{name}.{child.name}")

    yield from walk(ast.parse(source), module)


def compiled_docstrings() -> Iterator[tuple[str, str, str]]:
    """Module, dotted name and docstring of what is written in C."""
    for module in (builtins, *(importlib.import_module(name) for name in C_MODULES)):
        for name, value in inspect.getmembers(module):
            doc = inspect.getdoc(value) if not name.startswith("_") and callable(value) else None
            if doc:
                dotted = name if module is builtins else f"{module.__name__}.{name}"
                yield module.__name__, dotted, doc
                for method, member in inspect.getmembers(value) if inspect.isclass(value) else ():
                    member_doc = inspect.getdoc(member)
                    if member_doc and not method.startswith("_") and not issubclass(value, BaseException):
                        yield module.__name__, f"{dotted}.{method}", member_doc


def shorten(doc: str, *, limit: int = 700) -> str:
    """Whole leading paragraphs within `limit` characters, or the first paragraph cut at a line."""
    kept = ""
    for paragraph in doc.strip().split("\n\n"):
        if kept and len(kept) + len(paragraph) > limit:
            break
        kept = f"{kept}\n\n{paragraph}" if kept else paragraph
    return kept if len(kept) <= limit else kept[:limit].rsplit("\n", 1)[0]


def library_chats(sources: dict[str, str]) -> list[Chat]:
    """Every documented name asked about in two ways; the wording follows from the name alone."""
    found = [(module, name, doc) for module, text in sources.items() for name, doc in source_docstrings(module, text)]
    found += compiled_docstrings()
    chats = []
    for module, name, doc in found:
        first = zlib.crc32(name.encode())
        for turn in (first, first + 1):
            question = QUESTIONS[turn % len(QUESTIONS)].format(name=name)
            chats.append(Chat(module, question, shorten(doc)))
    return chats
