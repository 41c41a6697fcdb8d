"""The refusals that several formats share: what is wrong, and the fix."""

from workers.documents.types import READ, Refused


def unsupported(what: str) -> Refused:
    """A format that is known, or known to be none of ours."""
    return Refused("unsupported_format", f"The file is {what}.", f"Convert it and upload it again; we read {READ}.")


def encrypted() -> Refused:
    """Anything that asks for a password."""
    return Refused(
        "encrypted_document", "The document asks for a password.", "Remove the password and upload it again."
    )


def damaged(what: str) -> Refused:
    """A file that breaks its format's rules."""
    return Refused(
        "damaged_document", f"The document is damaged. {what}", "Open it, save it afresh and upload it again."
    )


def bomb(what: str) -> Refused:
    """A document that is built to exhaust its reader."""
    return Refused(
        "document_bomb", f"The document is refused: {what}", "If it is a real one, save it afresh, or split it."
    )


def too_many_pages(most: int, found: int | None = None) -> Refused:
    """More pages than `document_pages`."""
    has = f"has {found:,} pages" if found else "has more pages"
    return Refused(
        "too_many_pages",
        f"The document {has}; at most {most:,} are read.",
        "Split it and upload the parts, or have the operator raise document_pages.",
    )


def too_much_text(most: int) -> Refused:
    """More text than `document_text_bytes`."""
    return Refused(
        "too_much_text",
        f"The document has more than {most:,} bytes of text.",
        "Split it and upload the parts, or have the operator raise document_text_bytes.",
    )


def too_slow(cpu_s: int) -> Refused:
    """Longer than `document_cpu_s`."""
    return Refused(
        "parser_timeout",
        f"The document could not be read within {cpu_s} s.",
        "Save it afresh or split it, or have the operator raise document_cpu_s.",
    )


def too_large(memory_bytes: int) -> Refused:
    """More than `document_memory_bytes`."""
    return Refused(
        "parser_memory",
        f"Reading the document takes more than {memory_bytes >> 20:,} MiB of memory.",
        "Save it afresh or split it, or have the operator raise document_memory_bytes.",
    )
