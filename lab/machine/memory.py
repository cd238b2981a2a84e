"""Free memory of this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def available(root: Path = Path("/")) -> int:
    """Bytes of memory that this process can still get: the machine's, or those of the cgroup that confines it.

    Memory that holds nothing but copies of files counts as free, as the kernel gives it away when it is asked.
    """
    free = [_of_machine(root / "proc/meminfo"), *_of_cgroups(root)]
    return max(0, min(free))


def available_on(device: torch.device) -> int:
    """Free bytes of a GPU's memory, with what torch holds there and does not use."""
    import torch

    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def _of_machine(meminfo: Path) -> int:
    try:
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # no Linux


CGROUPS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Files of a cgroup, and the line of memory.stat on what can be dropped: version 2, version 1."""


def _of_cgroups(root: Path) -> list[int]:
    """What is left in each cgroup that this process is in, and in those around them."""
    base = root / "sys/fs/cgroup"
    folders = {base, base / "memory"}
    try:
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "memory"):
                inside = Path(path.lstrip("/"))
                folders |= {base / controllers / part for part in (inside, *inside.parents)}
    except (OSError, ValueError):
        pass
    left = []
    for folder in folders:
        for limit, usage, droppable in CGROUPS:
            try:
                most = int((folder / limit).read_text())
                used = int((folder / usage).read_text())
                lines = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                left.append(most - used + int(lines.get(droppable, 0)))
            except (OSError, ValueError):  # no such file, or "max": no limit
                continue
    return left
