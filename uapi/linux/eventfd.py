"""``linux/eventfd.h``: the flags of eventfd2(); before Linux 6.9 only the C library's ``sys/eventfd.h`` had them."""

from __future__ import annotations

from typing import Final

HEADERS: Final = ("linux/eventfd.h", "sys/eventfd.h")

EFD_SEMAPHORE: Final = 1 << 0
EFD_CLOEXEC: Final = 0o2000000
EFD_NONBLOCK: Final = 0o4000
