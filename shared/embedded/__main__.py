"""The yard's own process: `python -m shared.embedded --data DIR` (what `modelyard up` becomes)."""

import argparse
import logging
import sys
from pathlib import Path

from shared.embedded.errors import YardError
from shared.embedded.layout import layout
from shared.embedded.yard import Options, Yard
from shared.settings import inherited


def main() -> int:
    """Run a yard until a stop signal. Returns the exit status: 0 stopped in order, 1 could not start."""
    parser = argparse.ArgumentParser(prog="python -m shared.embedded", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--port", type=int)
    parser.add_argument("--workers", type=int, default=1)
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    options = Options(port=asked.port, workers=asked.workers)
    try:
        Yard(layout(asked.data), options=options, given=inherited()).run()
    except YardError as error:
        logging.getLogger("modelyard.yard").error(str(error))  # noqa: TRY400 - the message says it; a trace would hide it
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
