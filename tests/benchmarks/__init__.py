"""What the middleware costs: `python -m tests.benchmarks [--quick] [--json FILE] [--only NAME]`.

Every number is a comparison made in one run: the bare application and ours take turns, round by
round, and the result is the median of the rounds' ratios or differences.
"""
