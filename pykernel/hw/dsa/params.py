"""
What differs between two accelerators: capability registers, counts, faults. Named presets, and options on top of them.

The presets carry the values that real parts show (GENCAP 0x40915f010f is Sapphire Rapids' DSA); an option names either
a whole capability register or one field of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pykernel.hw.options import Boolean, Choice, Integer, Rule, Tables, check_options

__all__ = ["PRESETS", "DsaParams", "params_from_options"]

MAX_IMS = 2048
M32, M64 = (1 << 32) - 1, (1 << 64) - 1


@dataclass(frozen=True)
class DsaParams:
    """What makes one part: identity, capability registers (whole), PCI capabilities, faults, virtual functions."""

    device: int = 0x0B25
    version: int = 0x100
    gencap: int = 0x40915F010F
    wqcap: int = 0x3F_0000_0008_0080
    grpcap: int = 0x36004
    engcap: int = 4
    opcap: int = 0x1003F03FF  # 256 bits
    cmdcap: int = 0
    vectors: int = 9
    iaacap: int = 0  # 0x180: IAACAP, or DSACAP0 of a DSA 3.0
    dsacap1: int = 0
    dsacap2: int = 0
    pasid: bool = True
    pri: bool = True
    ats: bool = True
    vfs: int = 0
    vf_wqs: int = 1
    vf_wq_size: int = 16
    faults: tuple[Mapping[str, Any], ...] = ()

    # GENCAP
    @property
    def block_on_fault(self) -> bool:
        """GENCAP bit 0."""
        return bool(self.gencap & 1)

    @property
    def overlapping_copy(self) -> bool:
        """GENCAP bit 1."""
        return bool(self.gencap & 2)

    @property
    def cache_control(self) -> bool:
        """GENCAP bits 2 (memory) and 3 (cache)."""
        return bool(self.gencap & 0xC)

    @property
    def command_capability(self) -> bool:
        """GENCAP bit 4: CMDCAP counts."""
        return bool(self.gencap >> 4 & 1)

    @property
    def readback(self) -> bool:
        """GENCAP bit 8: destination readback."""
        return bool(self.gencap >> 8 & 1)

    @property
    def drain_readback(self) -> bool:
        """GENCAP bit 9: readback addresses of Drain."""
        return bool(self.gencap >> 9 & 1)

    @property
    def event_log(self) -> bool:
        """GENCAP bits 13-14."""
        return bool(self.gencap >> 13 & 3)

    @property
    def max_transfer_shift(self) -> int:
        """GENCAP bits 16-20."""
        return self.gencap >> 16 & 0x1F

    @property
    def max_batch_shift(self) -> int:
        """GENCAP bits 21-24."""
        return self.gencap >> 21 & 0xF

    @property
    def ims_entries(self) -> int:
        """GENCAP bits 25-30 times 256, as far as there is room for them in BAR 0."""
        return min(256 * (self.gencap >> 25 & 0x3F), MAX_IMS)

    @property
    def configurable(self) -> bool:
        """GENCAP bit 31."""
        return bool(self.gencap >> 31 & 1)

    # WQCAP, GRPCAP, ENGCAP
    @property
    def total_wq_size(self) -> int:
        """WQCAP bits 0-15."""
        return self.wqcap & 0xFFFF

    @property
    def num_wqs(self) -> int:
        """WQCAP bits 16-23."""
        return self.wqcap >> 16 & 0xFF

    @property
    def wqcfg_stride(self) -> int:
        """Bytes from one WQCFG to the next: WQCAP bits 24-27."""
        return 32 << (self.wqcap >> 24 & 0xF)

    @property
    def op_config(self) -> bool:
        """WQCAP bit 54: a WQ can narrow its operations."""
        return bool(self.wqcap >> 54 & 1)

    @property
    def num_groups(self) -> int:
        """GRPCAP bits 0-7."""
        return self.grpcap & 0xFF

    @property
    def read_buffers(self) -> int:
        """GRPCAP bits 8-15."""
        return self.grpcap >> 8 & 0xFF

    @property
    def read_buffer_control(self) -> bool:
        """GRPCAP bit 16."""
        return bool(self.grpcap >> 16 & 1)

    @property
    def num_engines(self) -> int:
        """ENGCAP bits 0-7."""
        return self.engcap & 0xFF

    @property
    def is_iax(self) -> bool:
        """An analytics accelerator: other operations, 64-byte completion records."""
        return self.device in IAX_DEVICES


IAX_DEVICES = (0x0CFE, 0x1216, 0xB02D)
_SPR = DsaParams()
_DSA2 = DsaParams(
    version=0x200, gencap=0x40915F211F, wqcap=0xFF_0000_0108_0080, grpcap=0x76004, opcap=0x7B_00BF07FF, cmdcap=0x1FFE
)
PRESETS: dict[str, DsaParams] = {
    "spr": _SPR,
    "dsa2": _DSA2,
    "dsa3": replace(_DSA2, device=0x1212, version=0x300, iaacap=0x11, dsacap1=0x22, dsacap2=0x33),
    "iax": DsaParams(device=0x0CFE, gencap=0x40_901F_0105, grpcap=4, engcap=8, opcap=0x7F331C << 64 | 0xD),
    "fixed": replace(_SPR, gencap=_SPR.gencap & ~(1 << 31)),
    "nomsix": replace(_SPR, vectors=0),
}

_WHOLE: dict[str, Rule] = {  # options that are a field of DsaParams
    "device": Integer(0, 0xFFFF),
    "version": Integer(0x100, 0x3FF),
    "gencap": Integer(0, M64),
    "wqcap": Integer(0, M64),
    "grpcap": Integer(0, M64),
    "engcap": Integer(0, M64),
    "opcap": Integer(0, (1 << 256) - 1),
    "cmdcap": Integer(0, M32),
    "vectors": Integer(0, 2048),
    "iaacap": Integer(0, M64),
    "dsacap1": Integer(0, M64),
    "dsacap2": Integer(0, M64),
    "pasid": Boolean(),
    "pri": Boolean(),
    "ats": Boolean(),
    "vfs": Integer(0, 64),  # virtual functions, and what each has
    "vf_wqs": Integer(1, 8),
    "vf_wq_size": Integer(1, 128),
}
_FIELDS: dict[str, tuple[str, int, int]] = {  # option -> register, low bit, width
    "max_transfer_shift": ("gencap", 16, 5),
    "max_batch_shift": ("gencap", 21, 4),
    "total_wq_size": ("wqcap", 0, 16),
    "num_wqs": ("wqcap", 16, 8),
    "groups": ("grpcap", 0, 8),
    "read_buffers": ("grpcap", 8, 8),
    "engines": ("engcap", 0, 8),
}
_SWITCHES: dict[str, tuple[str, int]] = {  # option -> register, bit
    "block_on_fault": ("gencap", 0),
    "overlapping_copy": ("gencap", 1),
    "configurable": ("gencap", 31),
    "shared_mode": ("wqcap", 48),
    "dedicated_mode": ("wqcap", 49),
}
FAULT_KINDS: dict[str, dict[str, Rule]] = {
    "fail_command": {"command": Integer(0, 31), "code": Integer(1, 0xFF), "times": Integer(1, 1 << 30)},
    "halt_on_command": {"command": Integer(0, 31), "reset_type": Integer(0, 3)},
    "fail_operation": {"opcode": Integer(0, 0xFF), "status": Integer(1, 0x7F), "times": Integer(1, 1 << 30)},
}
RULES: dict[str, Rule] = {
    "preset": Choice(tuple(PRESETS)),
    **_WHOLE,
    **{name: Integer(0, (1 << width) - 1) for name, (_, _, width) in _FIELDS.items()},
    **{name: Boolean() for name in _SWITCHES},
    "faults": Tables(FAULT_KINDS),
}
NEEDED = {"fail_command": "code", "halt_on_command": "command", "fail_operation": "status"}


def params_from_options(model: str, options: Mapping[str, Any], preset: str) -> DsaParams:
    """Preset plus options; *preset* is the model's own when the options name none. Raises ValueError naming the key."""
    check_options(model, options, RULES)
    params = PRESETS[options.get("preset", preset)]
    params = replace(params, **{key: value for key, value in options.items() if key in _WHOLE})
    for key, value in options.items():
        if key in _FIELDS:
            register, low, width = _FIELDS[key]
            params = _put(params, register, ((1 << width) - 1) << low, value << low)
        elif key in _SWITCHES:
            register, low = _SWITCHES[key]
            params = _put(params, register, 1 << low, value << low)
    _check_sane(model, params)
    return replace(params, faults=_faults(model, options.get("faults", [])))


def _put(params: DsaParams, register: str, mask: int, value: int) -> DsaParams:
    return replace(params, **{register: getattr(params, register) & ~mask | value})


def _check_sane(model: str, params: DsaParams) -> None:
    if not params.num_wqs:
        raise ValueError(f"{model}: option 'num_wqs': a part has at least one work queue")
    if params.wqcfg_stride * params.num_wqs > 0xC00:
        raise ValueError(f"{model}: option 'num_wqs': {params.num_wqs} WQCFG entries do not fit before PERFMON")
    if params.num_groups > 4:
        raise ValueError(f"{model}: option 'groups': {params.num_groups} GRPCFG entries do not fit before WQCFG")
    if params.vectors > 32:
        raise ValueError(f"{model}: option 'vectors': {params.vectors} MSIX_PERM entries do not fit before GRPCFG")


def _faults(model: str, rows: list[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    for i, row in enumerate(rows):
        if NEEDED[row["kind"]] not in row:
            raise ValueError(f"{model}: option 'faults': row {i}: {row['kind']} needs {NEEDED[row['kind']]!r}")
    return tuple(dict(row) for row in rows)
