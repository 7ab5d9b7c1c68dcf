"""
Silicon: what sits on the PCI bus. Machine files name a model and give it options.

Nothing here is imported until a machine asks for it, and nothing here knows the kernel: a model is a ``PciFunction``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, TypeAlias

from pykernel.pci.function import PciFunction

__all__ = ["MODELS", "make"]

Factory: TypeAlias = Callable[[Mapping[str, Any]], PciFunction]


def _lazy(where: str) -> Factory:
    """The factory at *where* ("module:name"), imported when it is first called."""
    module, _, name = where.partition(":")

    def factory(options: Mapping[str, Any]) -> PciFunction:
        function: PciFunction = getattr(import_module(module), name)(options)
        return function

    return factory


MODELS: dict[str, Factory] = {
    "dsa": _lazy("pykernel.hw.dsa:make_dsa"),
    "iax": _lazy("pykernel.hw.dsa:make_iax"),
    "edu": _lazy("pykernel.hw.edu:make_edu"),
}


def make(model: str, options: Mapping[str, Any]) -> PciFunction:
    """Make a function of *model*; an unknown model or a bad option is a ValueError that names it."""
    if model not in MODELS:
        raise ValueError(f"unknown model {model!r}: one of {', '.join(MODELS)}")
    return MODELS[model](options)
