"""What the middleware costs: `python -m tests.benchmarks [--competitor PYTHON] [--json FILE]
[--picture FILE] [--store NAME …] [--loop NAME …] [--only NAME …] [--rounds N] [--quick]`.

Every number is a comparison made in one run: the bare application, ours on each store, and
mcp-persist where an interpreter that has it is named, take turns, round by round, and the result
is the median of the rounds' ratios or differences. What each has to be stands in `goals`.
"""
