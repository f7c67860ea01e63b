"""Waits for the others and becomes the command: the suite starts all its scenarios at the same moment."""

from __future__ import annotations

import fcntl
import os
import sys

if __name__ == "__main__":
    lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
    os.set_inheritable(lock, True)  # held for as long as the command runs
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.execv(sys.argv[2], sys.argv[2:])
