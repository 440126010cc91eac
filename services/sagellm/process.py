"""Child processes that end with their parent, whichever way it ends."""

import contextlib
import ctypes
import os
import signal
from collections.abc import Callable

PR_SET_PDEATHSIG = 1


def bound_to_parent(signal_number: signal.Signals) -> Callable[[], None]:
    """A `preexec_fn`: the child gets its own session, and `signal_number` when this process dies.

    Its own session, because a Ctrl-C reaches the whole foreground group, and the parent stops its children in
    order. Must be called from the main thread: the kernel watches the thread that forks. Outside Linux the
    child only gets its session.
    """
    parent = os.getpid()
    # Resolved here: loading a library is not safe between fork and exec.
    prctl = getattr(ctypes.CDLL(None), "prctl", None)

    def bind() -> None:
        os.setsid()
        if prctl is not None:
            with contextlib.suppress(OSError):
                prctl(PR_SET_PDEATHSIG, int(signal_number))
            if os.getppid() != parent:  # it died before prctl took hold
                os._exit(1)

    return bind
