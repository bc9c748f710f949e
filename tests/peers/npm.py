"""Packages of npm in a directory of their own; they are installed once."""

import subprocess
from pathlib import Path

_LONGEST = 300.0


def install(cache: Path, *packages: str) -> Path:
    """The `node_modules` directory with these packages.

    Raises:
        SystemExit: npm is missing or could not install them.
    """
    cache.mkdir(parents=True, exist_ok=True)
    command = ["npm", "install", "--prefix", str(cache), "--no-audit", "--no-fund"]
    try:
        subprocess.run(
            [*command, "--loglevel", "error", *packages],
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=_LONGEST,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise SystemExit(f"npm could not install {' '.join(packages)}: {error}") from error
    return cache / "node_modules"
