"""
Registers as typed bit fields, and maps of them that answer a bus.

A register is a class, its fields are class attributes, and a map puts registers at offsets::

    class Gensts(Reg):
        state = Bits(1, 0, DeviceState)

    class DsaRegs(RegMap):
        gensts = At(0x90, Gensts, "r")
        cmd = At(0xA0, Cmd, "w")

        def cmd_write(self, cmd: Cmd) -> None: ...      # side effect of a bus write, found by name
        def gencfg_writable(self) -> bool: ...          # guard: a write is dropped while this is false, found by name

What a bus write does to a bit is the field's access: ``rw``; ``ro``; ``w1c`` (writing one clears). A bit that no field
names is reserved: zero, and writes are dropped. The model itself may set any field. ``At(..., "r")`` makes all of a
register read-only; ``At(..., "w")`` makes a register that reads as zero and exists only for its side effect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Generic, TypeVar, overload

T = TypeVar("T", bound=int)
R = TypeVar("R", bound="Reg")
M = TypeVar("M", bound="RegMap")
M32 = 0xFFFFFFFF

__all__ = ["At", "Bits", "Reg", "RegMap", "Table", "bit", "bits"]


class Bits(Generic[T]):
    """Bits *hi* to *lo* of a register, read as *type*; *access* is ``rw``, ``ro`` or ``w1c``."""

    def __init__(self, hi: int, lo: int, type: type[T], access: str = "rw") -> None:
        if access not in ("rw", "ro", "w1c"):
            raise TypeError(f"unknown access {access!r}")
        self.lo, self.mask, self.type, self.access = lo, (1 << (hi - lo + 1)) - 1, type, access

    @overload
    def __get__(self, reg: None, owner: type[Reg]) -> Bits[T]: ...
    @overload
    def __get__(self, reg: Reg, owner: type[Reg]) -> T: ...
    def __get__(self, reg: Reg | None, owner: type[Reg]) -> T | Bits[T]:
        if reg is None:
            return self
        value: T = reg.bits >> self.lo & self.mask  # type: ignore[assignment]
        return value if self.type is int else self.type(value)

    def __set__(self, reg: Reg, value: int) -> None:
        if value & ~self.mask:
            raise ValueError(f"{value:#x} does not fit in {self.mask:#x}")
        reg.bits = reg.bits & ~(self.mask << self.lo) | value << self.lo


def bits(hi: int, lo: int, access: str = "rw") -> Bits[int]:
    """A plain number in bits *hi* to *lo*."""
    return Bits(hi, lo, int, access)


def bit(n: int, access: str = "rw") -> Bits[int]:
    """One bit, read as 0 or 1."""
    return Bits(n, n, int, access)


class Reg:
    """
    A register's value, any number of bits wide. Subclasses name the fields; without fields every bit is ``rw``.

    ``rw`` and ``w1c`` are the masks of the bits of each access.
    """

    __slots__ = ("bits",)
    fields: ClassVar[dict[str, Bits[Any]]] = {}
    rw: ClassVar[int] = -1
    w1c: ClassVar[int] = 0

    def __init_subclass__(cls) -> None:
        cls.fields = {**cls.fields, **{k: v for k, v in vars(cls).items() if isinstance(v, Bits)}}
        cls.rw = sum(f.mask << f.lo for f in cls.fields.values() if f.access == "rw")
        cls.w1c = sum(f.mask << f.lo for f in cls.fields.values() if f.access == "w1c")

    def __init__(self, bits: int = 0) -> None:
        self.bits = bits

    def __repr__(self) -> str:
        fields = "".join(f" {name}={getattr(self, name)!r}" for name in self.fields)
        return f"<{type(self).__name__} {self.bits:#x}{fields}>"


class At(Generic[R]):
    """A register at a byte *offset*, *size* bytes wide (a multiple of 4); *access* is ``rw``, ``r`` or ``w``."""

    name: str

    def __init__(self, offset: int, reg: type[R], access: str = "rw", size: int = 4) -> None:
        if access not in ("rw", "r", "w") or offset % 4 or size % 4:
            raise TypeError(f"register at {offset:#x}: bad access {access!r}, offset or size")
        self.offset, self.reg, self.access, self.size = offset, reg, access, size

    def __set_name__(self, owner: type[RegMap], name: str) -> None:
        self.name = name

    @overload
    def __get__(self, obj: None, owner: type[RegMap]) -> At[R]: ...
    @overload
    def __get__(self, obj: RegMap, owner: type[RegMap]) -> R: ...
    def __get__(self, obj: RegMap | None, owner: type[RegMap]) -> At[R] | R:
        if obj is None:
            return self
        reg: R = obj.regs[self.name]  # type: ignore[assignment]
        return reg


class _Slot:
    """One dword of the bus: which register answers, and what a write to it may change and sets off."""

    __slots__ = ("guard", "hook", "reg", "rw", "shift", "w1c", "wo")

    guard: Callable[[], bool] | None
    hook: Callable[[Any], None] | None

    def __init__(self, reg: Reg, at: At[Any], shift: int, owner: RegMap) -> None:
        self.reg, self.shift, self.wo = reg, shift, at.access == "w"
        self.rw = 0 if at.access == "r" else reg.rw
        self.w1c = 0 if at.access == "r" else reg.w1c
        guard, hook = owner._calls[at.name]
        self.guard = None if guard is None else guard.__get__(owner)
        self.hook = None if hook is None else hook.__get__(owner)

    def write(self, value: int, enable: int) -> None:
        """Write the bits that *enable* selects; both count from bit 0 of the register."""
        if self.guard is not None and not self.guard():
            return
        reg = self.reg
        rw = self.rw & enable
        reg.bits = (reg.bits & ~rw | value & rw) & ~(value & self.w1c & enable)
        if self.hook is not None:
            self.hook(reg)
        if self.wo:
            reg.bits = 0


class RegMap:
    """
    Registers at offsets. ``mmio_read`` and ``mmio_write`` take 1, 2, 4 or 8 bytes at any alignment, as byte enables do.

    Offsets without a register read as zero and ignore writes. A 64-bit write to one register is one write (one hook);
    anything else is one write a dword, lowest first.
    """

    _at: ClassVar[dict[str, At[Any]]] = {}
    _calls: ClassVar[dict[str, tuple[Any, Any]]] = {}  # register -> its NAME_writable() and NAME_write(), if any

    def __init_subclass__(cls) -> None:
        cls._at = {**cls._at, **{k: v for k, v in vars(cls).items() if isinstance(v, At)}}
        cls._calls = {n: (getattr(cls, f"{n}_writable", None), getattr(cls, f"{n}_write", None)) for n in cls._at}
        for name in vars(cls):
            stem = name.removesuffix("_writable").removesuffix("_write")
            if stem != name and not name.startswith("_") and stem not in cls._at and not hasattr(RegMap, name):
                raise TypeError(f"{cls.__name__}.{name}: there is no register {stem!r}")

    def __init__(self) -> None:
        self.regs: dict[str, Reg] = {name: at.reg() for name, at in self._at.items()}
        self._slots: dict[int, _Slot] = {}
        self._reset_values: list[tuple[Reg, int]] = []
        for name, at in self._at.items():
            for i in range(0, at.size, 4):
                self._slots[at.offset + i] = _Slot(self.regs[name], at, 8 * i, self)

    def add(self, offset: int, part: RegMap) -> None:
        """Let the registers of *part* answer at *offset* of this map."""
        self._slots.update({offset + at: slot for at, slot in part._slots.items()})

    def settle(self) -> None:
        """Take the present values as those that ``reset()`` restores."""
        regs = {id(slot.reg): slot.reg for slot in self._slots.values()}
        self._reset_values = [(reg, reg.bits) for reg in regs.values()]

    def reset(self) -> None:
        """Give every register, of parts and tables too, the value it had at ``settle()``."""
        for reg, value in self._reset_values:
            reg.bits = value

    def mmio_read(self, offset: int, size: int = 4) -> int:
        """Value of *size* bytes at *offset*, little endian."""
        slot = self._slots.get(offset)
        if size == 4 and slot is not None:
            return slot.reg.bits >> slot.shift & M32
        value = 0
        first = offset & ~3
        for i, base in enumerate(range(first, offset + size, 4)):
            slot = self._slots.get(base)
            if slot is not None:
                value |= (slot.reg.bits >> slot.shift & M32) << 32 * i
        return value >> 8 * (offset - first) & (1 << 8 * size) - 1

    def mmio_write(self, offset: int, value: int, size: int = 4) -> None:
        """Write *size* bytes at *offset*, little endian."""
        slot = self._slots.get(offset)
        if size == 8 and slot is not None:
            upper = self._slots.get(offset + 4)
            if upper is not None and upper.reg is slot.reg:
                slot.write(value << slot.shift, (1 << 64) - 1 << slot.shift)
                return
        first = offset & ~3
        value <<= 8 * (offset - first)
        enable = (1 << 8 * size) - 1 << 8 * (offset - first)
        for base in range(first, offset + size, 4):
            slot = self._slots.get(base)
            if slot is not None:
                slot.write((value & M32) << slot.shift, (enable & M32) << slot.shift)
            value, enable = value >> 32, enable >> 32


class Table(Sequence[M], Generic[M]):
    """An array of register maps, *stride* bytes apart, from *offset* of *owner*: ``table[3].pasid``."""

    def __init__(self, owner: RegMap, offset: int, stride: int, entries: Sequence[M]) -> None:
        self.offset, self.stride, self.entries = offset, stride, entries
        for i, entry in enumerate(entries):
            owner.add(offset + i * stride, entry)

    @overload
    def __getitem__(self, i: int) -> M: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[M]: ...
    def __getitem__(self, i: int | slice) -> M | Sequence[M]:
        return self.entries[i]

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[M]:
        return iter(self.entries)
