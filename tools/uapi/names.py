"""What the commands of ``pykernel uapi`` share: names as the user gives them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from pykernel.tools.options import Fail

if TYPE_CHECKING:
    from types import ModuleType

    from pykernel.uapi.history import Version

__all__ = ["KernelVersion", "complete", "complete_header", "meant", "modules_named"]


class KernelVersion(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic since click 8.3
    """6.12, 6.1.192."""

    name = "VERSION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Version:
        """The text as a Version."""
        from pykernel.uapi import history

        try:
            return history.parse(value)
        except ValueError as e:
            self.fail(str(e), param, ctx)


def modules_named(names: Iterable[str]) -> list[ModuleType]:
    """The header modules of these names; all without names. Raises Fail."""
    from pykernel.uapi import catalog

    known = {catalog.title(module): module for module in catalog.header_modules()}
    found = []
    for name in names:
        module = catalog.find_module(name)
        if module is None:
            short = [title.rpartition("/")[2].removesuffix(".h") for title in known]
            raise Fail(f"no header {name!r}{meant(name, short)}; pykernel uapi list has them all")
        if module not in found:
            found.append(module)
    return found or list(known.values())


def meant(name: str, known: Iterable[str]) -> str:
    """ ": did you mean ...?" when a name is nearly one that there is."""
    from pykernel.uapi import catalog

    near = catalog.near(name, list(known))
    return f": did you mean {' or '.join(near)}?" if near else ""


def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The names of all headers that begin so, for the shell."""
    from pykernel.uapi import catalog

    found = (entry.name for module in catalog.header_modules() for entry in catalog.entries(module))
    return sorted({name for name in found if name.startswith(incomplete)})


def complete_header(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The headers that begin so, for the shell."""
    from pykernel.uapi import catalog

    titles = [catalog.title(module) for module in catalog.header_modules()]
    short = [title.rpartition("/")[2].removesuffix(".h") for title in titles]
    return sorted(name for name in {*titles, *short} if name.startswith(incomplete))
