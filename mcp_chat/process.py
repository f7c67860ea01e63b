"""What `serve` and gunicorn's workers have in common as processes: their end."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

ORPHAN_LIMIT: Final = 5  # seconds a worker lives on when gunicorn's master is dead

_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None) if sys.platform == "linux" else None


def die_with_parent(parent: int, number: signal.Signals) -> None:
    """Let the kernel send this process a signal when its parent ends (Linux; elsewhere nothing happens).

    Args:
        parent: The process id the parent had before the fork: it may be gone already.
        number: The signal.
    """
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:
            os.kill(os.getpid(), number)
