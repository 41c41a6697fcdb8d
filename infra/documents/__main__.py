"""`python -m infra.documents OUT`: write the sample documents."""

import argparse
from pathlib import Path

from infra.documents.samples import TRUTH, generate


def main() -> None:
    """Write them, and say where they are."""
    parser = argparse.ArgumentParser(prog="python -m infra.documents", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="OUT")
    parser.add_argument("--companies", type=int, default=4, help="invented companies, two reports each (default 4)")
    asked = parser.parse_args()
    for path in generate(asked.folder, companies=asked.companies):
        print(path)  # noqa: T201
    print(asked.folder / TRUTH)  # noqa: T201


if __name__ == "__main__":
    main()
