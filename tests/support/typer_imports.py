"""What typer imports by itself: its older versions import rich at once."""

from __future__ import annotations

import functools
import subprocess
import sys


@functools.cache
def does_typer_import_rich() -> bool:
    code = "import sys, typer; sys.exit('rich' in sys.modules)"
    return subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 1
