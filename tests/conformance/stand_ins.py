"""What the recorded probes use of the host and the emulated kernel gives otherwise: a netlink socket of uevents."""

from __future__ import annotations

from pykernel.base.uevent import Uevents
from pykernel.kernel import Kernel


class UeventSocket:
    """An AF_NETLINK socket of the kernel's uevents, as far as the probe uses one (uevent_net_broadcast())."""

    AF_NETLINK, SOCK_DGRAM, SOCK_NONBLOCK = 16, 2, 2048

    def __init__(self, kernel: Kernel) -> None:
        self.waiting: list[bytes] = []
        kernel.sub(Uevents).subscribe(self._heard)

    def _heard(self, action: str, devpath: str, env: dict[str, str]) -> None:
        fields = [f"{action}@{devpath}", *(f"{k}={v}" for k, v in env.items())]
        self.waiting.append("".join(f + "\0" for f in fields).encode("latin-1"))

    def socket(self, *kind: int) -> UeventSocket:
        """socket(2)."""
        return self

    def bind(self, address: tuple[int, int]) -> None:
        """bind(2): every group is heard."""

    def recv(self, size: int) -> bytes:
        """The next message. Raises EAGAIN."""
        if not self.waiting:
            raise BlockingIOError
        return self.waiting.pop(0)[:size]

    def __enter__(self) -> UeventSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.waiting.clear()
