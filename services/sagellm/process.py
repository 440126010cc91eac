"""How our processes stand to each other: children end with their parent, and none takes the CPU from another."""

import contextlib
import ctypes
import os
import signal
from collections.abc import Callable

PR_SET_PDEATHSIG = 1


def let_others_finish() -> None:
    """From now on this process and its children wait for the running time slice to end when they wake (Linux).

    A request passes through five processes that wake each other. Where there are more of them than cores, each
    wake-up would take the core from the one that woke it, which is in the middle of the next message: on two cores
    the pipeline carries a quarter to a third more without that. With cores to spare nothing changes.
    """
    with contextlib.suppress(AttributeError, OSError):  # another system, or not allowed here
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


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
