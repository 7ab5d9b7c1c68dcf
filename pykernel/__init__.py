"""
A Linux kernel for devices you do not have.

``pykernel.boot()`` starts one; ``kernel.process()`` is a client of it, ``with kernel.patched():`` lets unmodified
Python code see its /sys and /dev, and ``pykernel run -- COMMAND`` (the command line) does so for any program.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pykernel.kernel import Kernel
    from pykernel.machine import Machine, MachineError
    from pykernel.start import boot
    from pykernel.surfaces.explore import explore
    from pykernel.surfaces.testkit.case import KernelTestCase

__all__ = ["Kernel", "KernelTestCase", "Machine", "MachineError", "boot", "explore"]
__version__ = "0.1.0"

_WHERE = {
    "boot": "start",
    "Kernel": "kernel",
    "Machine": "machine",
    "MachineError": "machine",
    "explore": "surfaces.explore",
    "KernelTestCase": "surfaces.testkit.case",
}


def __getattr__(name: str) -> Any:
    # PEP 562: importing pykernel costs nothing until something of it is used
    from importlib import import_module

    from pykernel.lib.collector import collector_paused

    if name not in _WHERE:
        raise AttributeError(f"module 'pykernel' has no attribute {name!r}")
    with collector_paused():
        value = getattr(import_module(f"pykernel.{_WHERE[name]}"), name)
    globals()[name] = value
    return value
