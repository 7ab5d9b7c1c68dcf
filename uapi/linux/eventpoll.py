"""``linux/eventpoll.h``: the event masks that ``poll`` methods return, and epoll's own flags."""

from __future__ import annotations

from typing import Annotated, Final

from pykernel.uapi.ioctl import _IOR, _IOW
from pykernel.uapi.struct import Name, Struct, u8, u16, u32, u64

# Flags of epoll_create1
EPOLL_CLOEXEC: Final = 0o2000000

# Operations of epoll_ctl
EPOLL_CTL_ADD: Final = 1
EPOLL_CTL_DEL: Final = 2
EPOLL_CTL_MOD: Final = 3

# Events: the low ones equal poll()'s POLL*
EPOLLIN: Final = 0x00000001
EPOLLPRI: Final = 0x00000002
EPOLLOUT: Final = 0x00000004
EPOLLERR: Final = 0x00000008
EPOLLHUP: Final = 0x00000010
EPOLLNVAL: Final = 0x00000020
EPOLLRDNORM: Final = 0x00000040
EPOLLRDBAND: Final = 0x00000080
EPOLLWRNORM: Final = 0x00000100
EPOLLWRBAND: Final = 0x00000200
EPOLLMSG: Final = 0x00000400
EPOLLRDHUP: Final = 0x00002000

# How to wait
EPOLL_URING_WAKE: Final = 1 << 27
EPOLLEXCLUSIVE: Final = 1 << 28
EPOLLWAKEUP: Final = 1 << 29
EPOLLONESHOT: Final = 1 << 30
EPOLLET: Final = 1 << 31


class epoll_event(Struct, packed=True):
    """``struct epoll_event``: packed on x86-64 only."""

    events: u32 = 0
    data: u64 = 0


class epoll_params(Struct):
    """``struct epoll_params``: busy polling."""

    busy_poll_usecs: u32 = 0
    busy_poll_budget: u16 = 0
    prefer_busy_poll: u8 = 0
    pad: Annotated[u8, Name("__pad")] = 0


EPOLL_IOC_TYPE: Final = 0x8A
EPIOCSPARAMS: Final = _IOW(EPOLL_IOC_TYPE, 0x01, epoll_params)
EPIOCGPARAMS: Final = _IOR(EPOLL_IOC_TYPE, 0x02, epoll_params)

OMITTED: Final = {"EPOLL_PACKED": "an attribute, not a value"}

NEWER: Final = {
    "epoll_params": "6.9",
    "EPOLL_IOC_TYPE": "6.9",
    "EPIOCSPARAMS": "6.9",
    "EPIOCGPARAMS": "6.9",
}
