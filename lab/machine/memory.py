"""Free memory of this machine."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CGROUPS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Limit, usage, and the line of memory.stat with what can be dropped, of a cgroup of version 2 and of version 1."""


def available(root: Path = Path("/")) -> int:
    """Bytes of memory that this process can still get, from the machine and from the cgroups that confine it.

    The page cache counts as free: the kernel gives it up on demand.
    """
    return max(0, min([_of_machine(root / "proc/meminfo"), *_of_cgroups(root)]))


def available_on(device: torch.device) -> int:
    """Free bytes of a GPU's memory, including what torch has reserved there without using it."""
    import torch

    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def _of_machine(meminfo: Path) -> int:
    try:
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, LookupError):  # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _of_cgroups(root: Path) -> list[int]:
    """Bytes left in each cgroup of this process and in their ancestors."""
    base = root / "sys/fs/cgroup"
    folders, left = {base, base / "memory"}, []
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "memory"):
                relative = Path(path.lstrip("/"))
                folders |= {base / controllers / part for part in (relative, *relative.parents)}
    for folder in folders:
        for limit, usage, droppable in CGROUPS:
            with suppress(OSError, ValueError):  # no such file, or "max": no limit
                free = int((folder / limit).read_text()) - int((folder / usage).read_text())
                lines = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                left.append(free + int(lines.get(droppable, 0)))
    return left
