"""
A Linux kernel for devices you do not have.

``pykernel.boot()`` starts one; ``kernel.process()`` is a client of it, ``with kernel.patched():`` lets unmodified
Python code see its /sys and /dev, and ``pykernel run -- COMMAND`` (the command line) does so for any program.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pykernel.boot import boot
    from pykernel.kernel import Kernel
    from pykernel.machine import Machine, MachineError

__all__ = ["Kernel", "Machine", "MachineError", "boot"]
__version__ = "0.1.0"

_WHERE = {"boot": "boot", "Kernel": "kernel", "Machine": "machine", "MachineError": "machine"}


def __getattr__(name: str) -> Any:
    # PEP 562: importing pykernel costs nothing until something of it is used
    from importlib import import_module

    if name not in _WHERE:
        raise AttributeError(f"module 'pykernel' has no attribute {name!r}")
    value = getattr(import_module(f"pykernel.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


class _Package(ModuleType):
    """``pykernel.boot`` is the function, also after somebody imported the module of that name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name == "boot" and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
