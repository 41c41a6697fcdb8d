"""Strong entity tags (RFC 9110 §8.8.3): the version of a row, or the sha256 of a blob, in quotes."""

from shared.errors import PreconditionFailed


def etag(value: object) -> str:
    """The tag of a version or a digest."""
    return f'"{value}"'


def fresh(if_none_match: str | None, tag: str) -> bool:
    """Whether the caller has this very representation: answer 304."""
    return if_none_match is not None and _names(if_none_match, tag, weak=True)


def expect(if_match: str | None, tag: str) -> None:
    """Go on only when the caller's `If-Match`, if there is one, names what is there.

    Raises:
        PreconditionFailed: it has changed since.
    """
    if if_match is not None and not _names(if_match, tag, weak=False):
        raise PreconditionFailed(param="If-Match")


def _names(header: str, tag: str, *, weak: bool) -> bool:
    """If-None-Match compares weakly, so that a proxy's `W/"3"` still is `"3"`; If-Match must not."""
    named = [each.strip() for each in header.split(",")]
    return "*" in named or tag in [each.removeprefix("W/") if weak else each for each in named]
