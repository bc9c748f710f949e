"""An application that is tested: whatever its tests leave open is closed with their event loops."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_hundred_tests_of_an_application_leave_nothing_and_warn_of_nothing(
    tmp_path: Path,
) -> None:
    suite = ROOT / "tests" / "support" / "tested_app.py"
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-W", "error", "--noconftest"]
    # Without what takes it time to begin and no test of it needs.
    lean = ["--assert=plain", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
    done = subprocess.run(
        [*command, *lean, str(suite)],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "100 passed" in done.stdout
