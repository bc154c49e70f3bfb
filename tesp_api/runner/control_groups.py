"""Control groups (cgroup v1 and v2) for engines that have no daemon to make them."""

from __future__ import annotations

import os
import time

CGROUPS = "/sys/fs/cgroup"


def control_group(controller: str, value: float, name: str) -> str:
    """Make a control group that limits one thing, and return its directory; raises OSError."""
    unified = os.path.exists(f"{CGROUPS}/cgroup.controllers")
    parent = CGROUPS + own_group() if unified else f"{CGROUPS}/{controller}"
    group = f"{parent}/{name}" + (f"-{controller}" if unified else "")
    os.makedirs(group, exist_ok=True)
    period = 100_000
    settings = {
        (True, "memory"): {"memory.max": f"{value:.0f}"},
        (True, "cpu"): {"cpu.max": f"{value * period:.0f} {period}"},
        (False, "memory"): {"memory.limit_in_bytes": f"{value:.0f}"},
        (False, "cpu"): {
            "cpu.cfs_period_us": f"{period}",
            "cpu.cfs_quota_us": f"{value * period:.0f}",
        },
    }[unified, controller]
    try:
        for file, text in settings.items():
            with open(f"{group}/{file}", "w") as handle:
                handle.write(text)
    except OSError:
        os.rmdir(group)
        raise
    return group


def own_group() -> str:
    """Return the path of this process's control group in the unified tree."""
    with open("/proc/self/cgroup") as handle:
        return next((line[3:].rstrip() for line in handle if line.startswith("0::")), "")


def remove_group(group: str) -> None:
    """Remove a control group; the kernel needs a moment after its last process."""
    for _ in range(50):
        try:
            os.rmdir(group)
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.02)
