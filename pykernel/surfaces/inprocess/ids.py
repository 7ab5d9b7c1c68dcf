"""
The emulated credentials of the patched program.

They start as root's, whoever runs the program, and os.set*id() changes them and not the real ones. os.get*id() tell the
real ids until the program changed the emulated ones or asked for some with ``patched(uid=...)``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from errno import EPERM
from typing import Any

from pykernel.errors import err
from pykernel.task import CAP_SETGID, CAP_SETUID, Cred, Task

__all__ = ["Ids"]


@dataclass(frozen=True)
class Triple:
    """Real, effective and saved id."""

    real: int = 0
    effective: int = 0
    saved: int = 0

    def __contains__(self, value: int) -> bool:
        return value in (self.real, self.effective, self.saved)


class Ids:
    """Ids of one process; each method is the os function of the same name."""

    names = (
        "seteuid", "setegid", "setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setgroups",
        "geteuid", "getegid", "getuid", "getgid", "getresuid", "getresgid", "getgroups",
    )  # fmt: skip

    def __init__(self, task: Callable[[], Task], uid: int | None, gid: int | None) -> None:
        self._task = task
        self.shown = uid is not None or gid is not None
        self.uid = Triple(uid or 0, uid or 0, uid or 0)
        self.gid = Triple(gid or 0, gid or 0, gid or 0)
        self.groups: tuple[int, ...] = ()
        self._real = {name: getattr(os, name) for name in self.names if name.startswith("get")}
        self._apply()

    def _apply(self) -> None:
        self._task().cred = Cred(self.uid.effective, self.gid.effective, frozenset(self.groups))

    @property
    def real_cred(self) -> Cred:
        """What access() checks: the real ids."""
        return Cred(self.uid.real, self.gid.real, frozenset(self.groups))

    @contextmanager
    def as_user(self, uid: int, gid: int | None = None) -> Generator[None, None, None]:
        """Run the body with these ids, and without supplementary groups."""
        before = self.uid, self.gid, self.groups, self.shown
        group = uid if gid is None else gid
        self.uid, self.gid, self.groups, self.shown = Triple(uid, uid, uid), Triple(group, group, group), (), True
        self._apply()
        try:
            yield
        finally:
            self.uid, self.gid, self.groups, self.shown = before
            self._apply()

    def _set(self, which: str, cap: int, **to: int) -> None:
        """Each new id is one of the old three, or the caller may. kernel/sys.c:__sys_setresuid(). Raises EPERM."""
        now: Triple = getattr(self, which)
        to = {k: v for k, v in to.items() if v != -1}
        if not self._task().cred.capable(cap) and any(v not in now for v in to.values()):
            raise err(EPERM)
        setattr(self, which, replace(now, **to))
        self.shown = True
        self._apply()

    def _set_one(self, which: str, cap: int, value: int) -> None:
        if self._task().cred.capable(cap):
            self._set(which, cap, real=value, effective=value, saved=value)
        else:
            self._set(which, cap, effective=value)

    def _set_two(self, which: str, cap: int, real: int, effective: int) -> None:
        # kernel/sys.c:__sys_setreuid(): the saved id follows
        old: Triple = getattr(self, which)
        saved = real != -1 or (effective != -1 and effective != old.real)
        new = old.effective if effective == -1 else effective
        if not self._task().cred.capable(cap):
            if (real != -1 and real not in (old.real, old.effective)) or (effective != -1 and effective not in old):
                raise err(EPERM)
        setattr(self, which, Triple(old.real if real == -1 else real, new, new if saved else old.saved))
        self.shown = True
        self._apply()

    def setuid(self, uid: int) -> None:
        """Raises EPERM."""
        self._set_one("uid", CAP_SETUID, uid)

    def setgid(self, gid: int) -> None:
        """Raises EPERM."""
        self._set_one("gid", CAP_SETGID, gid)

    def seteuid(self, euid: int) -> None:
        """Raises EPERM."""
        self._set("uid", CAP_SETUID, effective=euid)

    def setegid(self, egid: int) -> None:
        """Raises EPERM."""
        self._set("gid", CAP_SETGID, effective=egid)

    def setreuid(self, ruid: int, euid: int) -> None:
        """Raises EPERM."""
        self._set_two("uid", CAP_SETUID, ruid, euid)

    def setregid(self, rgid: int, egid: int) -> None:
        """Raises EPERM."""
        self._set_two("gid", CAP_SETGID, rgid, egid)

    def setresuid(self, ruid: int, euid: int, suid: int) -> None:
        """Raises EPERM."""
        self._set("uid", CAP_SETUID, real=ruid, effective=euid, saved=suid)

    def setresgid(self, rgid: int, egid: int, sgid: int) -> None:
        """Raises EPERM."""
        self._set("gid", CAP_SETGID, real=rgid, effective=egid, saved=sgid)

    def setgroups(self, groups: Any) -> None:
        """Raises EPERM."""
        if not self._task().cred.capable(CAP_SETGID):
            raise err(EPERM)
        self.groups, self.shown = tuple(groups), True
        self._apply()

    def _get(self, name: str, value: Any) -> Any:
        return value if self.shown else self._real[name]()

    def geteuid(self) -> int:
        """The effective user id."""
        return self._get("geteuid", self.uid.effective)  # type: ignore[no-any-return]

    def getegid(self) -> int:
        """The effective group id."""
        return self._get("getegid", self.gid.effective)  # type: ignore[no-any-return]

    def getuid(self) -> int:
        """The real user id."""
        return self._get("getuid", self.uid.real)  # type: ignore[no-any-return]

    def getgid(self) -> int:
        """The real group id."""
        return self._get("getgid", self.gid.real)  # type: ignore[no-any-return]

    def getresuid(self) -> tuple[int, int, int]:
        """All three."""
        return self._get("getresuid", (self.uid.real, self.uid.effective, self.uid.saved))  # type: ignore[no-any-return]

    def getresgid(self) -> tuple[int, int, int]:
        """All three."""
        return self._get("getresgid", (self.gid.real, self.gid.effective, self.gid.saved))  # type: ignore[no-any-return]

    def getgroups(self) -> list[int]:
        """The supplementary groups."""
        return self._get("getgroups", list(self.groups))  # type: ignore[no-any-return]
