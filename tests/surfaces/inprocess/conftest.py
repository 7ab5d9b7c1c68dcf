"""Names that the tests of the patched surface share."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from pykernel.kernel import Kernel
from pykernel.syscalls import Process

DSA = "/sys/bus/dsa/devices"


class Direct:
    """The direct surface with the calls of the os module that the tests use."""

    def __init__(self, process: Process) -> None:
        self.p = process

    def open(self, path: str, flags: int, mode: int = 0o777) -> int:
        return self.p.open(path, flags, mode)

    def rename(self, a: str, b: str) -> None:
        self.p.rename(a, b)

    def fchmod(self, fd: int, mode: int) -> None:
        self.p.fchmod(fd, mode)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.p, name)


@pytest.fixture(params=["patched", "direct"])
def calls(request: pytest.FixtureRequest, kernel: Kernel) -> Any:
    """System calls as Python has them: the os module on the patched surface, or a process on the direct one."""
    return os if request.param == "patched" else Direct(kernel.process())


@pytest.fixture
def wq() -> str:
    """A work queue's directory."""
    return f"{DSA}/wq0.0"


@pytest.fixture
def enabled_wq(kernel: Kernel, wq: str) -> str:
    """A dedicated user queue, enabled: its node."""
    for name, text in {
        f"{wq}/group_id": "0", f"{wq}/mode": "dedicated", f"{wq}/size": "16", f"{wq}/priority": "10",
        f"{wq}/type": "user",
        f"{wq}/name": "app", f"{wq}/driver_name": "user", f"{DSA}/engine0.0/group_id": "0",
    }.items():  # fmt: skip
        if os.path.exists(name):
            with open(name, "w") as f:
                f.write(text)
    for driver, name in (("idxd", "dsa0"), ("user", "wq0.0")):
        with open(f"/sys/bus/dsa/drivers/{driver}/bind", "w") as f:
            f.write(name)
    return "/dev/dsa/wq0.0"


@pytest.fixture
def raises_errno() -> Callable[[int, Callable[..., object]], OSError]:
    """``raises_errno(ENOENT, f, *args)``: the OSError."""

    def check(code: int, f: Callable[..., object], *args: object, **kw: object) -> OSError:
        with pytest.raises(OSError, match=r"\w") as e:
            f(*args, **kw)
        assert e.value.errno == code
        return e.value

    return check
