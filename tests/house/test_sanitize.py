"""Whatever a compiled world takes, it reads and writes nothing but its own (`python -m tests.sanitize`, a tiny run)."""

import subprocess
import sys
from pathlib import Path

import pytest
from sanitize import runtime


@pytest.mark.skipif(runtime() is None, reason="g++ or its sanitizers are missing")
def test_sanitizers_find_nothing_in_compiled_worlds():
    command = [sys.executable, "-m", "tests.sanitize", "--calls", "60"]
    run = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "60 calls, 0 findings\n"), run.stdout + run.stderr
