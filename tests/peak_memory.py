"""How much memory a program took: for scripts that tests run in a process of their own."""

import re
from pathlib import Path


def peak_memory_mib() -> int:
    """Of this program alone: `ru_maxrss` holds what the process was before it became this program, too."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024
