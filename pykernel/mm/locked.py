"""Locked memory of an address space: what mlock() locks and what drivers pin for long count together (mm/util.c)."""

from __future__ import annotations

from errno import ENOMEM
from typing import TYPE_CHECKING

from pykernel.errors import Oops, err
from pykernel.mm.phys import PAGE_SIZE
from pykernel.task import CAP_IPC_LOCK, RLIMIT_MEMLOCK

if TYPE_CHECKING:
    from pykernel.task import Mm, Task

__all__ = ["account_locked_vm"]


def account_locked_vm(mm: Mm, npages: int, inc: bool, task: Task, *, bypass: bool | None = None) -> None:
    """
    Count *npages* pages as locked in *mm*, or (*inc* is false) no more.

    C: ``int __account_locked_vm(mm, pages, inc, task, bypass_rlim)``

    Args:
        bypass: whether RLIMIT_MEMLOCK of *task* is not asked; None: whether *task* has CAP_IPC_LOCK.

    Raises:
        OSError: ENOMEM, more than RLIMIT_MEMLOCK.
        Oops: more is given back than was counted.
    """
    # mm/util.c:__account_locked_vm()
    if not inc:
        if npages > mm.locked_vm:
            raise Oops(f"account_locked_vm: {npages} pages are given back, {mm.locked_vm} are locked")
        mm.locked_vm -= npages
        return
    limit = task.rlimit(RLIMIT_MEMLOCK) // PAGE_SIZE
    free_of_it = task.cred.capable(CAP_IPC_LOCK) if bypass is None else bypass
    if not free_of_it and mm.locked_vm + npages > limit:
        raise err(ENOMEM, f"{mm.locked_vm + npages} locked pages, RLIMIT_MEMLOCK is {limit}")
    mm.locked_vm += npages
