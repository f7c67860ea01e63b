"""Real processes, real faults, and a judge that reads the journals afterwards: ``python -m tests.chaos``."""
