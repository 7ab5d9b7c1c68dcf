"""Uevents: what the kernel tells user space about kobjects (lib/kobject_uevent.c)."""

from __future__ import annotations

import re
from collections.abc import Callable
from errno import EINVAL
from typing import TYPE_CHECKING

from pykernel.errors import err
from pykernel.fs.sysfs import AttrGroup, Kobject, SysFs, raw
from pykernel.lib.ledger import place_of
from pykernel.log import WARNING

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["KOBJ_ACTIONS", "KernelKobj", "Uevents", "kobject_synth_uevent"]

KOBJ_ACTIONS = ("add", "remove", "change", "move", "online", "offline", "bind", "unbind")
UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
ARGUMENT = re.compile(r" ([0-9A-Za-z]+)=([0-9A-Za-z]+)")

Listener = Callable[[str, str, dict[str, str]], None]


class KernelKobj(Kobject):
    """/sys/kernel, as far as uevents go."""

    attrs = AttrGroup("uevent_seqnum")

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel, "kernel")
        self.sd = kernel.sub(SysFs).top["kernel"].dir
        self._fill()

    def uevent_seqnum_show(self) -> str:
        """kernel/ksysfs.c:uevent_seqnum_show()."""
        return f"{self.kernel.sub(Uevents).seqnum}\n"


class Uevents:
    """The uevents of one kernel: a sequence number and those who listen (netlink sockets of the surfaces)."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.seqnum = 0
        self.listeners: list[Listener] = []

    def subscribe(self, fn: Listener) -> Callable[[], None]:
        """Call ``fn(action, devpath, env)`` for each event; returns how to end it."""
        self.listeners.append(fn)
        self.kernel.ledger.take("uevents", fn, lambda: f"uevent listener {place_of(fn)}")
        return lambda: self._unsubscribe(fn)

    def _unsubscribe(self, fn: Listener) -> None:
        self.listeners.remove(fn)
        self.kernel.ledger.give("uevents", fn)

    def send(self, kobj: Kobject, action: str, env: dict[str, str]) -> None:
        """
        C: ``int kobject_uevent_env(struct kobject *, enum kobject_action, char *envp[])``.

        *env* is SUBSYSTEM and what follows it; ACTION, DEVPATH and SEQNUM are added here. An "unbind" has no MODALIAS:
        user space would load the driver again.
        """
        self.seqnum += 1
        if not self.listeners and not self.kernel.trace:
            return
        devpath = kobj.path()
        whole = {"ACTION": action, "DEVPATH": devpath, **env}
        if action == "unbind":
            whole.pop("MODALIAS", None)  # lib/kobject_uevent.c:zap_modalias_env()
        whole["SEQNUM"] = str(self.seqnum)
        if self.kernel.trace:
            self.kernel.trace("uevent", action=action, devpath=devpath)
        for fn in tuple(self.listeners):
            fn(action, devpath, whole)


def kobject_synth_uevent(kobj: Kobject, buf: str, send: Callable[[str, dict[str, str]], None]) -> None:
    """
    A uevent that user space asks for. C: ``int kobject_synth_uevent(struct kobject *, const char *, size_t)``.

    Raises:
        EINVAL: no known action, or arguments that are not ``UUID KEY=VALUE...``.
    """
    text = raw(buf)
    if text[-1:] in ("\n", "\0"):
        text = text[:-1]
    action, has_args, args = text.partition(" ")
    if action not in KOBJ_ACTIONS:
        _refuse(kobj, "unknown uevent action string")
    if not has_args:
        send(action, {"SYNTH_UUID": "0"})
        return
    env = _arguments(args)
    if env is None:
        _refuse(kobj, "incorrect uevent action arguments")
    else:
        send(action, env)


def _arguments(args: str) -> dict[str, str] | None:
    # lib/kobject_uevent.c:kobject_action_args()
    uuid = UUID.match(args)
    if uuid is None:
        return None
    env = {"SYNTH_UUID": uuid[0]}
    at = uuid.end()
    while at < len(args):
        pair = ARGUMENT.match(args, at)
        if pair is None:
            return None
        env[f"SYNTH_ARG_{pair[1]}"] = pair[2]
        at = pair.end()
    return env


def _refuse(kobj: Kobject, why: str) -> None:
    kobj.kernel.log.printk(WARNING, f"synth uevent: {kobj.path()}: {why}")
    raise err(EINVAL, why)
