"""When two spellings are the same text: case, width, white space and, for words, accents aside."""

import unicodedata
from collections.abc import Callable, Iterable

#: Turkish has two letters i; their cases are not those that Unicode folds by default.
_I = str.maketrans({"İ": "i", "I": "i", "ı": "i"})


def same(text: str) -> str:
    """The form that equal spellings share: `" Euro  AREA "` is `"euro area"`. Accents count."""
    return " ".join(unicodedata.normalize("NFKC", text).translate(_I).casefold().split())


def plain(text: str) -> str:
    """`same`, with accents left out and `ß` as `ss`: for words of a known list, such as months."""
    letters = unicodedata.normalize("NFKD", same(text))
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


def words(name: str) -> str:
    """A field's or a term's name as words: `total_assets`, `totalAssets` and `Total-Assets` are `total assets`."""
    spaced = "".join(
        f" {letter}" if letter.isupper() and number and name[number - 1].islower() else letter
        for number, letter in enumerate(name)
    )
    return same(spaced.replace("_", " ").replace("-", " "))


def field_of(path: str) -> str:
    """The field that a value's path names, list numbers aside, as words: `lines.0.net_amount` is `net amount`."""
    named = [step for step in path.split(".") if not step.isdigit()]
    return words(named[-1]) if named else ""


def matcher(wanted: Iterable[str]) -> Callable[[str], bool]:
    """Tells whether one of a rule's paths means a value. `*` stands for one step: `lines.*.amount`."""
    paths = frozenset(wanted)
    starred = [path.split(".") for path in paths if "*" in path]

    def matches(path: str) -> bool:
        if path in paths or not starred:
            return path in paths
        steps = path.split(".")
        return any(
            len(steps) == len(asked) and all(one in ("*", step) for one, step in zip(asked, steps, strict=True))
            for asked in starred
        )

    return matches
