"""
Intel's Data Streaming Accelerator (8086:0b25) and In-memory Analytics Accelerator (8086:0cfe) as silicon.

``params`` says what part it is, ``regs`` is BAR0, ``commands`` the CMD register, ``queue`` portals and work queues,
``engine`` groups and arbitration, ``desc`` descriptors and completion records, ``ops`` and ``batch`` the operations.
Where the public sources leave a question open the code says "uncertain" and what was chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pykernel.hw.dsa.function import DsaFunction
from pykernel.hw.dsa.params import PRESETS, DsaParams, params_from_options
from pykernel.hw.dsa.vf import SriovFunction

__all__ = ["PRESETS", "DsaFunction", "DsaParams", "make_dsa", "make_iax"]


def make_dsa(options: Mapping[str, Any]) -> DsaFunction:
    """Make a ``dsa`` from the options of a machine file; the default is Sapphire Rapids' part."""
    return _make(params_from_options("dsa", options, "spr"))


def make_iax(options: Mapping[str, Any]) -> DsaFunction:
    """Make an ``iax`` from the options of a machine file."""
    return _make(params_from_options("iax", options, "iax"))


def _make(params: DsaParams) -> DsaFunction:
    return SriovFunction(params) if params.vfs else DsaFunction(params)
