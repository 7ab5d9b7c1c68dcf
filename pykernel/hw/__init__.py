"""
Silicon: what sits on the PCI bus. Machine files name a model and give it options.

A model that does not come with pykernel is a file (``model = "./mydev.py"``), which has one class that is a
``PciFunction``, or an entry point of an installed package in the group ``pykernel.models``. It is called with the
options as keywords, and says with a ValueError or a TypeError what is wrong with them.

Nothing here is imported until a machine asks for it, and nothing here knows the kernel: a model is a ``PciFunction``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, TypeAlias

from pykernel.lib.outside import entry_point, is_path, load_class
from pykernel.pci.function import PciFunction

__all__ = ["ENTRY_POINTS", "MODELS", "make"]

ENTRY_POINTS = "pykernel.models"

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
    "root-port": _lazy("pykernel.hw.bridge:make_root_port"),
    "upstream-port": _lazy("pykernel.hw.bridge:make_upstream_port"),
    "downstream-port": _lazy("pykernel.hw.bridge:make_downstream_port"),
}


def make(model: str, options: Mapping[str, Any]) -> PciFunction:
    """Make a function of *model*; an unknown model or a bad option is a ValueError that names it."""
    if model in MODELS:
        return MODELS[model](options)
    found = _out_of_tree(model)
    if found is None:
        raise ValueError(f"unknown model {model!r}: one of {', '.join(MODELS)}, or the path of a .py file")
    try:
        made: PciFunction = found(**options)
    except TypeError as e:
        raise ValueError(f"{model}: {e}") from e
    return made


def _out_of_tree(model: str) -> Callable[..., PciFunction] | None:
    if is_path(model):
        return load_class(model, PciFunction)
    load = entry_point(ENTRY_POINTS, model)
    return None if load is None else load()
