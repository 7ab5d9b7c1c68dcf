"""One idxd device as the questions see it: its files, and how a store, a bind or a set-up is asked and said."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence

from probing import Say, call

BUS = "/sys/bus/dsa"
DEVICES = f"{BUS}/devices"
Table = Iterable[tuple[str, Iterable[str]]]
"""Attribute names with the texts to store to them."""


def read(path: str) -> str | bytes:
    """The whole file; bytes when it is not UTF-8."""
    with open(path, "rb") as f:
        data = f.read()
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def text_of(path: str) -> str:
    """The whole text file without blanks around it."""
    return str(read(path)).strip()


def write(path: str, text: str) -> int:
    """One write, one character a byte: the count."""
    fd = os.open(path, os.O_WRONLY)
    try:
        return os.write(fd, text.encode("latin-1"))
    finally:
        os.close(fd)


class Idxd:
    """``device`` "dsa0", ``kind`` "dsa", ``pci`` its address; heads of names: ``wq`` "wq0.", ``group``, ``engine``."""

    def __init__(
        self,
        say: Say,
        poke: Callable[[int, Sequence[int]], None],
        messages: Callable[[], list[str]],
        settle: Callable[[], None],
        child: Callable[[Callable[[], object]], object],
        allow_sva: Callable[[], None],
        *,
        alone: bool,
    ) -> None:
        self._say = say
        self._poke = poke
        self.messages = messages
        self.settle = settle
        self.child = child
        self.allow_sva = allow_sva
        self.alone = alone
        self.device = self.device_name()
        self.kind = self.device.rstrip("0123456789")
        number = re.sub(r"\D", "", self.device)
        self.wq, self.group, self.engine = f"wq{number}.", f"group{number}.", f"engine{number}."
        self.pci = self.pci_address()
        self.configurable = read(self.path(self.device, "configurable")) == "1\n"

    @staticmethod
    def device_name() -> str:
        """The first DSA or IAX device of the bus."""
        return next(n for n in sorted(os.listdir(DEVICES)) if re.fullmatch(r"(dsa|iax)\d+", n))

    @classmethod
    def pci_address(cls) -> str:
        """The address of the device's PCI function."""
        return os.path.basename(os.path.dirname(os.path.realpath(f"{DEVICES}/{cls.device_name()}")))

    def path(self, name: str, attribute: str = "") -> str:
        """A device's directory on the bus, or a file of it."""
        return f"{DEVICES}/{name}/{attribute}" if attribute else f"{DEVICES}/{name}"

    def cdev(self, wq: str) -> str:
        """The name of a work queue's character device: "dsa!wq0.0"."""
        return f"{self.kind}!{wq}"

    def node(self, wq: str) -> str:
        """Its node: /dev/dsa/wq0.0."""
        return f"/dev/{self.kind}/{wq}"

    def attributes(self, name: str) -> list[str]:
        """The names of the device's files (links to directories and directories are none), sorted."""
        return [a for a in sorted(os.listdir(self.path(name))) if os.path.isfile(self.path(name, a))]

    def has(self, name: str, attribute: str) -> bool:
        """Does the device have the attribute?"""
        return os.path.exists(self.path(name, attribute))

    def read(self, name: str, attribute: str) -> str | bytes:
        """An attribute's text."""
        return read(self.path(name, attribute))

    def poke(self, value: int, words: Sequence[int] = ()) -> None:
        """The silicon's back door."""
        self._poke(value, words)

    def say(self, what: str, answer: object) -> None:
        """Write down one answer."""
        self._say(what, repr(answer))

    def ask(self, what: str, f: Callable[..., object], *args: object) -> object:
        """Say what ``f(*args)`` returns, or its errno's name."""
        answer = call(f, *args)
        self.say(what, answer)
        return answer

    def ask_read(self, what: str, name: str, attribute: str) -> None:
        """Say an attribute's text."""
        self.ask(what, self.read, name, attribute)

    def status(self) -> tuple[str, str]:
        """cmd_status and state of the device."""
        return text_of(self.path(self.device, "cmd_status")), text_of(self.path(self.device, "state"))

    def store(self, name: str, attribute: str, text: str, what: str = "") -> None:
        """One store; with what the attribute reads afterwards, when that changed."""
        path = self.path(name, attribute)
        before = call(read, path)
        result = call(write, path, text)
        after = call(read, path)
        shown = repr(text) if len(text) < 60 else f"{text[:4]!r}*{len(text)}"
        self.say(f"{what}{name}/{attribute} <- {shown}", (result, after) if after != before else result)

    def stores(self, name: str, table: Table) -> None:
        """Every text of the table to its attribute."""
        for attribute, texts in table:
            if not self.has(name, attribute):
                self.say(f"{name}/{attribute}", "absent")
                continue
            for text in texts:
                self.store(name, attribute, text)

    def quiet(self, name: str, attribute: str, text: str) -> None:
        """A store that is only said when it fails."""
        result = call(write, self.path(name, attribute), text)
        if isinstance(result, str):
            self.say(f"(setup) {name}/{attribute} <- {text!r}", result)

    def bind(self, name: str, driver: str, what: str = "") -> bool:
        """Bind, with the device's and the work queue's state and the log; True when it worked."""
        self.messages()
        call(write, self.path(self.device, "cmd_status"), "0")
        result = call(write, f"{BUS}/drivers/{driver}/bind", name)
        states = [text_of(self.path(name, "state"))] if name.startswith("wq") else []
        self.say(f"{what}bind {name} to {driver}", (result, *self.status(), *states, self.messages()))
        return not isinstance(result, str)

    def unbind(self, name: str, driver: str, what: str = "") -> object:
        """Unbind, with the device's state and the log."""
        self.messages()
        result = call(write, f"{BUS}/drivers/{driver}/unbind", name)
        self.say(f"{what}unbind {name} from {driver}", (result, *self.status(), self.messages()))
        return result

    def dump(self, name: str, what: str = "") -> None:
        """Every attribute of a device."""
        for attribute in self.attributes(name):
            self.ask_read(f"{what}read {name}/{attribute}", name, attribute)

    def setup(self, wq: str, **changes: str | None) -> None:
        """A dedicated user WQ of 16 entries in group 0, as ``changes`` change it; None leaves an attribute alone."""
        values: dict[str, str | None] = {
            "group_id": "0",
            "mode": "dedicated",
            "size": "16",
            "priority": "10",
            "type": "user",
            "name": "app",
            "driver_name": "user",
            "threshold": None,
        }
        for attribute, value in (values | changes).items():
            if value is not None and self.has(wq, attribute):
                self.quiet(wq, attribute, value)

    def clean(self) -> None:
        """Everything unbound, ungrouped and of no size."""
        names = sorted(os.listdir(DEVICES))
        for name in names:
            if name.startswith("wq") and text_of(self.path(name, "state")) == "enabled":
                call(write, self.path(name, "driver/unbind"), name)
        if self.has(self.device, "driver"):
            call(write, self.path(self.device, "driver/unbind"), self.device)
        for name in names:
            if name.startswith((self.wq, self.engine)):
                call(write, self.path(name, "group_id"), "-1")
            if name.startswith(self.wq):
                for attribute, text in (("size", "0"), ("type", "none"), ("mode", "shared"), ("priority", "0")):
                    call(write, self.path(name, attribute), text)
        self.messages()
