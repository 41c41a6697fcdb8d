"""Stands in for a worker: starts one engine as its own child and waits, to be killed by a test."""

import json
import os
import subprocess
import sys
from pathlib import Path

path = Path(sys.argv[1])
path.write_text(json.dumps(json.loads(path.read_text()) | {"parent_pid": os.getpid()}))
subprocess.run([sys.executable, "-m", "workers.engine", str(path)], check=False)
