"""The most memory that a stretch of code held, as the system counts it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


def resident_bytes() -> int:
    """The memory that this process holds now."""
    found = _from_status("VmRSS")
    if found is not None:
        return found
    import psutil

    return int(psutil.Process().memory_info().rss)


def reset_peak() -> bool:
    """Starts the count of :func:`peak_bytes` anew; False where the system cannot, and it counts from the start on."""
    try:
        _RESET.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def peak_bytes() -> int:
    """The most memory that this process has held since :func:`reset_peak`."""
    found = _from_status("VmHWM")
    if found is not None:
        return found
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _from_status(name: str) -> int | None:
    """An entry of Linux's /proc/self/status in bytes, None where there is none."""
    try:
        text = _STATUS.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    match = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else None
