"""On what a benchmark ran: without it a number means nothing."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

from sagellm.cli.version import versions


def environment() -> dict[str, object]:
    """CPU, cores, memory, kernel, versions and the time, for the JSON of a benchmark."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "cores": cores(),
        "memory_bytes": _memory_bytes(),
        "platform": platform.platform(),
        "load_average": list(os.getloadavg()),
        "versions": versions(),
    }


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
