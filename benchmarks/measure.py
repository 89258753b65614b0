"""Times and memory of actions."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

PEAK = """
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if "VmHWM" in line)
"""


def median_seconds(
    actions: Mapping[str, Callable[[], object]], rounds: int = 15
) -> dict[str, float]:
    """Median time of each of several actions, taken in turn."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            begun = time.perf_counter()
            action()
            times[name].append(time.perf_counter() - begun)
    return {name: statistics.median(values) for name, values in times.items()}


def kibibytes(code: str, *arguments: object) -> int:
    """Run code in a process, where peak() gives its memory, and return the number it prints."""
    command = [sys.executable, "-c", PEAK + code, *map(str, arguments)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
