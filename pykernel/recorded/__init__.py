"""
Recorded machines: what a real machine, or an emulated one, shows in sysfs, as a part of a machine file.

``walk.record(Host(), ["/sys/bus/pci"])`` walks, ``text.to_toml()`` writes, ``pykernel.boot("machine.toml")`` loads;
``rows`` and ``umockdev`` read the two kinds of files, ``boot`` puts what they found into a kernel.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from errno import EIO

from pykernel.base.static import Dir
from pykernel.errors import ENOTSUPP

__all__ = ["ERRNO_NAMES", "ERRNO_NUMBERS", "Recorded"]

# what a file may give instead of its content; ENOTSUPP is the kernel's own, and some drivers let it out
ERRNO_NUMBERS: dict[str, int] = {
    name: number for name, number in vars(errno).items() if name[0] == "E" and isinstance(number, int)
} | {"ENOTSUPP": ENOTSUPP}
ERRNO_NAMES: dict[int, str] = {
    **errno.errorcode,
    errno.EOPNOTSUPP: "EOPNOTSUPP",
    errno.EDEADLK: "EDEADLK",
    ENOTSUPP: "ENOTSUPP",
}


@dataclass(frozen=True)
class Recorded:
    """
    The recorded part of a machine.

    Attributes:
        tree: what lies below /sys.
        root: /sys has nothing else: no emulated device, bus or module.
        writes: the errno of a write to a recorded file; 0 keeps the text.
        source: the file that has it, for messages.
    """

    tree: Dir = field(default_factory=Dir)
    root: bool = False
    writes: int = EIO
    source: str = ""
