"""Whether the tests of what went wrong elsewhere would notice: a guard is taken out, and its test must fail.

`python -m tests.guards` works on a copy of the package; `table.py` lists the guards.
"""
