"""What a model is told. What is the same for every document comes first, so that engines read it once.

One user turn, because not every chat template knows another role. A document's name is left out: equal contents under
two names are one question.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from string import Formatter
from typing import Final

from services.documents.schemas import Shape, join
from shared.contracts.documents import Label

REPAIR_CHARACTERS: Final = 600  #: of problems that are told; about 150 tokens
BEGIN, END = "<<<", ">>>"
MARK: Final = re.compile(r"\s*\[page \d+\]\s*")
QUOTE_RULE: Final = (
    "quote is the shortest piece of the text that shows it, copied letter by letter; page is the number in the last"
    " mark [page N] before that piece."
)


def marked(pages: Iterable[tuple[int, str]]) -> str:
    """A part's text with the page that each piece is from."""
    return "\n".join(f"[page {number}]\n{text.strip()}" for number, text in pages)


def page_range(pages: Sequence[int]) -> str:
    """`3`, `3–4`, `3, 7–9`: pages as people write them."""
    runs: list[list[int]] = []
    for page in sorted(set(pages)):
        if runs and page == runs[-1][-1] + 1:
            runs[-1].append(page)
        else:
            runs.append([page])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)


def extract(shape: Shape, *, instructions: str | None, hint: str) -> str:
    """What to fill in; the part's text follows."""
    fields = "\n".join(_fields(shape))
    return _joined(
        "Fill in fields from a part of a document. Take only what its text says; never guess.",
        instructions,
        f"Fields:\n{fields}",
        f"Terms:\n{hint}" if hint else None,
        f"Answer with one JSON object of this form: {_form(shape)}\n"
        'where each CELL is {"value": …, "page": …, "quote": …}. value has the field\'s type; numbers are written as'
        f" they stand in the text, without separators of thousands and without units. {QUOTE_RULE}"
        " When this part does not say it, all three are null, and a list is empty.",
    )


def summarize(*, words: int, instructions: str | None, hint: str) -> str:
    """How to summarise a part; its text follows."""
    return _joined(
        f"Summarise a part of a document in at most {words} words. Say only what its text says.",
        instructions,
        f"Terms:\n{hint}" if hint else None,
        _SENTENCES,
    )


def combine(*, words: int, instructions: str | None) -> str:
    """How to make one summary of several; their sentences follow."""
    return _joined(
        f"Below are summaries of the parts of one document, a sentence a line, each with its pages and a quote. Make"
        f" one summary of at most {words} words of them. Keep for each sentence the pages and one of the quotes of"
        " what it is made of, unchanged.",
        instructions,
        _SENTENCES,
    )


def classify(labels: Sequence[Label], *, multi: bool, instructions: str | None, hint: str) -> str:
    """How to label a part; its text follows."""
    named = "\n".join(f"- {label.name}" + (f": {label.description}" if label.description else "") for label in labels)
    cell = '{"label": …, "page": …, "quote": …}'
    form = (
        f'{{"labels": [{cell}, …]}} with every label that fits this part, or none'
        if multi
        else f"{cell} with the label that fits best, or null for all three when this part shows none"
    )
    return _joined(
        "Say what kind of document this part is from. Use these labels only:",
        named,
        instructions,
        f"Terms:\n{hint}" if hint else None,
        f"Answer with one JSON object: {form}. {QUOTE_RULE}",
    )


def custom(template: str, *, text: str, filename: str, pages: str, chunk: int) -> str:
    """A caller's template, filled in. Only names are replaced: what it says behind `:` and `!` was refused."""
    values = {"text": text, "filename": filename, "pages": pages, "chunk": str(chunk)}
    parts = Formatter().parse(template)
    return "".join(said + (values[name] if name is not None else "") for said, name, _, _ in parts)


def about(instruction: str, text: str) -> str:
    """An instruction and the text that it is about."""
    return f"{instruction}\n\n{BEGIN}\n{text}\n{END}"


def repair(problems: Sequence[str], *, json_form: bool) -> str:
    """What was wrong with an answer, and that it is to be given again."""
    told, left = list[str](), REPAIR_CHARACTERS
    for problem in problems:
        line = f"- {problem[:200]}"
        if len(line) > left:
            told.append(f"- and {len(problems) - len(told)} more of this kind")
            break
        told.append(line)
        left -= len(line)
    again = "Answer again with the whole JSON object, corrected." if json_form else "Answer again, corrected."
    return "\n".join(["That answer cannot be used:", *told, again])


_SENTENCES: Final = (
    'Answer with one JSON object: {"sentences": [{"text": …, "pages": […], "quote": …}, …]}. text is one sentence of'
    " the summary, pages are the numbers of the pages that it is about, from the marks [page N]; quote is a short piece"
    " of the text that shows it, copied letter by letter."
)


def _fields(shape: Shape, path: str = "") -> Iterator[str]:
    """A line for each field: where it stands, what it is, what it means."""
    for name, child in shape.children():
        at = join(path, name)
        if child.kind == "leaf" or child.description:
            told = f": {child.description}" if child.description else ""
            yield f"- {at} ({child.named_type}){told}"
        yield from _fields(child, at)


def _form(shape: Shape) -> str:
    if shape.kind == "leaf":
        return "CELL"
    if shape.items is not None:
        return f"[{_form(shape.items)}, …]"
    named = (f"{json.dumps(name, ensure_ascii=False)}: {_form(each)}" for name, each in shape.properties.items())
    return "{" + ", ".join(named) + "}"


def _joined(*parts: str | None) -> str:
    return "\n\n".join(part.strip() for part in parts if part and part.strip())
