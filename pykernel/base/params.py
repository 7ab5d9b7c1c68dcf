"""Module parameters (kernel/params.c, lib/cmdline.c): types, the text that modprobe gives, their files in sysfs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from errno import EINVAL, ENOSPC
from typing import TYPE_CHECKING, Any

from pykernel.errors import err
from pykernel.fs.sysfs import Attribute, Kobject
from pykernel.lib.ctype import SPACES
from pykernel.lib.kstrtox import (
    kstrtobool,
    kstrtoint,
    kstrtol,
    kstrtos16,
    kstrtou8,
    kstrtou16,
    kstrtouint,
    kstrtoul,
    kstrtoull,
)
from pykernel.log import ERR, WARNING

if TYPE_CHECKING:
    from pykernel.base.module import Module
    from pykernel.kernel import Kernel

__all__ = ["Param", "Parameters", "check_args", "check_params", "next_arg", "parse_args"]

NUMBERS: dict[str, Callable[[str, int], int]] = {
    "byte": kstrtou8,
    "short": kstrtos16,
    "ushort": kstrtou16,
    "int": kstrtoint,
    "uint": kstrtouint,
    "long": kstrtol,
    "ulong": kstrtoul,
    "ullong": kstrtoull,
}
CHARP_MAX = 1024
OF_EVERY_MODULE = ("async_probe", "dyndbg")


@dataclass(frozen=True, slots=True)
class Param:
    """``module_param(name, type, perm)``: *type* is bool, charp or a number's; mode 0 hides the file."""

    name: str
    type: str
    default: Any
    mode: int = 0o444

    def parse(self, kernel: Kernel, text: str | None) -> Any:
        """kernel/params.c:param_set_*(). Raises EINVAL, ERANGE, ENOSPC: a string of more than 1024 characters."""
        try:
            return self.value(text, e=kernel.profile.kstrtobool_enable)
        except OSError as error:
            if error.errno == ENOSPC:
                kernel.log.printk(ERR, f"{self.name}: string parameter too long")
            raise

    def value(self, text: str | None, *, e: bool) -> Any:
        """What *text* stands for; None is a word without "=", which only a bool takes. Raises as parse()."""
        if text is None and self.type != "bool":
            raise err(EINVAL)
        text = "1" if text is None else text
        if self.type == "bool":
            return kstrtobool(text, e=e)
        if self.type == "charp":
            if len(text) > CHARP_MAX:
                raise err(ENOSPC)
            return text
        return NUMBERS[self.type](text, 0)

    def format(self, value: Any) -> str:
        """kernel/params.c:param_get_*()."""
        if self.type == "bool":
            return "Y\n" if value else "N\n"
        return f"{value}\n"


class Parameters(Kobject):
    """/sys/module/NAME/parameters."""

    def __init__(self, module: Module) -> None:
        super().__init__(module.kernel, "parameters", module)
        self.module = module

    def fill(self) -> None:
        """One file a parameter. kernel/params.c:module_param_sysfs_setup()."""
        for p in self.module.built_params:
            if p.mode:
                self.create_file(Attribute(p.name, self._show(p), self._store(p), p.mode))

    @staticmethod
    def _show(p: Param) -> Callable[[Parameters], str]:
        return lambda self: p.format(self.module.param[p.name])

    @staticmethod
    def _store(p: Param) -> Callable[[Parameters, str], None] | None:
        def store(self: Parameters, buf: str) -> None:
            self.module.param[p.name] = p.parse(self.kernel, buf)

        return store if p.mode & 0o222 else None


def next_arg(args: str) -> Iterator[tuple[str, str | None]]:
    """
    The words of a command line as (parameter, value); None for a word without "=".

    Quotes keep spaces together; those around a word or a value are dropped. C: ``char *next_arg(char *, ...)``.
    """
    args = args.lstrip(SPACES)
    while args:
        quoted = in_quote = args[0] == '"'
        start = end = int(quoted)
        while end < len(args) and (in_quote or args[end] not in SPACES):
            in_quote ^= args[end] == '"'
            end += 1
        yield _split(args[start:end], quoted=quoted)
        args = args[end:].lstrip(SPACES)


def _split(word: str, *, quoted: bool) -> tuple[str, str | None]:
    at = word.find("=", 1)
    if at < 0:
        return (word.removesuffix('"') if quoted else word), None
    value = word[at + 1 :]
    if value.startswith('"') or quoted:
        value = value.removesuffix('"').removeprefix('"')
    return word[:at], value


def parse_args(kernel: Kernel, module: str, args: str, params: tuple[Param, ...]) -> dict[str, Any]:
    """
    What *args* sets. C: ``char *parse_args(...)``, kernel/module/main.c:unknown_module_param_cb().

    An unknown parameter is only warned of; those of the core (async_probe, dyndbg) are taken.

    Raises:
        EINVAL, ERANGE, ENOSPC: a value that its type refuses.
    """
    known = {p.name: p for p in params}
    found: dict[str, Any] = {}
    for key, value in next_arg(args):
        p = known.get(key.replace("-", "_"))
        if p is None:
            if key not in OF_EVERY_MODULE:
                kernel.log.printk(WARNING, f"{module}: unknown parameter '{key}' ignored")
            continue
        try:
            found[p.name] = p.parse(kernel, value)
        except OSError as e:
            what = "too large" if e.errno == ENOSPC else "invalid"
            kernel.log.printk(ERR, f"{module}: `{value or ''}' {what} for parameter `{key}'")
            raise
    return found


def check_params(where: str, params: object) -> None:
    """Whether *params*, which somebody wrote at *where*, can be a module's. Raises ValueError."""
    if not isinstance(params, tuple | list) or not all(isinstance(p, Param) for p in params):
        raise ValueError(f"{where} must be a tuple of Param, not {params!r}")
    types = ("bool", "charp", *NUMBERS)
    for p in params:
        if not isinstance(p.name, str) or not p.name or "/" in p.name:
            raise ValueError(f"{where}: {p.name!r} is no name of a parameter")
        if p.type not in types:
            raise ValueError(f"{where}: {p.name}: no type {p.type!r}; known: {', '.join(types)}")
    if len({p.name for p in params}) != len(params):
        raise ValueError(f"{where}: two parameters have one name")


def check_args(args: str, params: tuple[Param, ...], *, e: bool) -> None:
    """
    Whether *args* are what somebody who writes a machine can mean, before there is a kernel.

    Raises:
        ValueError: a value that modprobe fails with, or a name that it would only warn of in the log.
    """
    known = {p.name: p for p in params}
    for key, value in next_arg(args):
        p = known.get(key.replace("-", "_"))
        if p is None:
            if key in OF_EVERY_MODULE:
                continue
            raise ValueError(f"no parameter {key!r}; known: {', '.join(known) or 'none'}")
        try:
            p.value(value, e=e)
        except OSError as error:
            raise ValueError(f"{value or ''!r} is no {p.type} for parameter {key!r}") from error
