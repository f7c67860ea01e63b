"""Measurements; every figure in docs/benchmarks.md comes from `make bench`."""
