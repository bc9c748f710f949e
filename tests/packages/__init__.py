"""What the servers of `tests.support.packaged` show: `pytest -m packages`."""
