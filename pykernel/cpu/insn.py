"""
MOVDIR64B, ENQCMD and ENQCMDS (SDM volume 2), in 64-bit mode.

The order of checks, of which the manual leaves some open; nothing is written before all have passed:

1. #UD: CPUID does not have the instruction.
2. #GP: ENQCMDS at a privilege level above 0.
3. #GP: the destination is not canonical, or its linear address is no multiple of 64.
4. #PF: the 64 bytes of the source cannot be read.
5. #GP: reserved bits of the source, 31:0 of ENQCMD, 30:20 of ENQCMDS. (The manual of May 2019 ignored them.)
6. #GP: ENQCMD, and IA32_PASID has no valid bit.
7. #PF: the destination may not be written.
8. In VMX non-root operation: the PASID is translated, which may end the instruction with a VM exit.
9. The command goes to the device; ZF tells what became of it. An address without an enqueue register gives ZF=1, and
   nothing is written there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pykernel.cpu.msr import PASID_MASK, PASID_VALID
from pykernel.cpu.trap import GP, PF, PF_PROT, PF_USER, PF_WRITE, UD, Flags, Trap

if TYPE_CHECKING:
    from pykernel.cpu.core import Cpu
    from pykernel.mm.vma import Vma

__all__ = ["ACCEPTED", "RETRY", "SIZE", "enqcmd", "enqcmds", "movdir64b"]

SIZE: Final = 64
RESERVED: Final = 0x7FF00000  # bits 30:20 of a command
CANONICAL: Final = 1 << 47
U64: Final = (1 << 64) - 1
ACCEPTED: Final = Flags(zf=False)
RETRY: Final = Flags(zf=True)

Source = int | bytes


def _destination(addr: int) -> int:
    """Check 3."""
    addr &= U64
    if addr & SIZE - 1:
        raise Trap(GP, f"the destination {addr:#x} is no multiple of 64", operand=True)
    if CANONICAL <= addr < (1 << 64) - CANONICAL:
        raise Trap(GP, f"the destination {addr:#x} is not canonical")
    return addr


def _source(mem: Any, src: Source) -> bytes:
    """Check 4; *src* is where the bytes are, or they themselves: a source that is there."""
    if not isinstance(src, int):
        return src
    try:
        data: bytes = mem.read(src & U64, SIZE)
    except OSError:
        if CANONICAL <= src & U64 < (1 << 64) - CANONICAL:
            raise Trap(GP, f"the source {src & U64:#x} is not canonical") from None
        raise Trap(PF, f"the source at {src:#x}", PF_USER, _first_bad(mem, src & U64)) from None
    return data


def _first_bad(mem: Any, addr: int) -> int:
    """Which of the pages of 64 bytes is not there: CR2."""
    try:
        mem.read(addr, 1)
    except OSError:
        return addr
    return (addr + SIZE - 1) & -4096


def _target(mem: Any, addr: int) -> tuple[Any, Vma | None]:
    """
    Check 7: the registers behind *addr*, or None for memory, and the area.

    Of memory of a real process it is not known whether it may be written; what cannot be read is a fault.
    """
    areas = getattr(mem, "vmas", None)
    vma = areas.find(addr) if areas is not None else None
    if vma is None:
        real = getattr(mem, "real", None if areas is not None else mem)
        try:
            if real is None:
                raise OSError
            real.read(addr, 1)
        except OSError:
            raise Trap(PF, f"nothing is mapped at {addr:#x}", PF_WRITE | PF_USER, addr) from None
        return None, None
    if not vma.may(write=True):
        raise Trap(PF, f"{addr:#x} may not be written", PF_PROT | PF_WRITE | PF_USER, addr)
    if vma.io is None:
        try:
            getattr(mem, "areas", mem).fault(addr, write=True)
        except OSError:
            raise Trap(PF, f"no page for {addr:#x}", PF_WRITE | PF_USER, addr, bus=True) from None
    return vma.io, vma


def _enqueue(cpu: Cpu, mem: Any, addr: int, command: bytes, *, supervisor: bool) -> Flags:
    """Checks 7 to 9."""
    io, vma = _target(mem, addr)
    submit = getattr(io, "enqcmd", None)
    if submit is None or vma is None:
        return RETRY
    off = vma.offset(addr)
    try:
        nonroot = cpu.cpus.nonroot
        if nonroot is not None:
            accepted = nonroot.enqcmd(io.phys_addr(off), command, supervisor=supervisor)
        else:
            accepted = submit(off, command)
    except OSError:
        raise Trap(PF, f"no page for {addr:#x}", PF_WRITE | PF_USER, addr, bus=True) from None
    return ACCEPTED if accepted else RETRY


def enqcmd(cpu: Cpu, mem: Any, addr: int, src: Source) -> Flags:
    """ENQCMD r64, m512: the PASID is IA32_PASID's, PRIV is 0. Raises Trap."""
    if not cpu.has("enqcmd"):
        raise Trap(UD, "CPUID has no ENQCMD")
    pasid = cpu.msrs.pasid  # now: while a page of the source is brought in, the processor may be another task's
    addr = _destination(addr)
    data = _source(mem, src)
    if data[:4] != b"\0\0\0\0":
        raise Trap(GP, f"bits 31:0 of the source are {int.from_bytes(data[:4], 'little'):#x}, and must be 0")
    if not pasid & PASID_VALID:
        raise Trap(GP, f"IA32_PASID is {pasid:#x}, not valid")
    pasid &= PASID_MASK
    if cpu.trace.listeners:
        cpu.trace("enqcmd", cpu=cpu.index, addr=addr, pasid=pasid, priv=False, data=data.hex())
    return _enqueue(cpu, mem, addr, pasid.to_bytes(4, "little") + data[4:], supervisor=False)


def check_supervisor(cpu: Cpu, data: bytes, cpl: int) -> None:
    """Checks 1, 2 and 5 of ENQCMDS. Raises Trap."""
    if not cpu.has("enqcmd"):
        raise Trap(UD, "CPUID has no ENQCMDS")
    if cpl:
        raise Trap(GP, f"ENQCMDS at privilege level {cpl}")
    if int.from_bytes(data[:4], "little") & RESERVED:
        raise Trap(GP, f"bits 30:20 of the source {data[:4][::-1].hex()} are not 0")


def enqcmds(cpu: Cpu, mem: Any, addr: int, src: Source, *, cpl: int) -> Flags:
    """ENQCMDS r64, m512: PASID and PRIV are the source's. Raises Trap."""
    check_supervisor(cpu, bytes(4), cpl)
    addr = _destination(addr)
    data = _source(mem, src)
    check_supervisor(cpu, data, cpl)
    return _enqueue(cpu, mem, addr, data, supervisor=True)


def movdir64b(cpu: Cpu, mem: Any, addr: int, src: Source) -> None:
    """MOVDIR64B r64, m512: 64 bytes at once, no flags. Raises Trap."""
    if not cpu.has("movdir64b"):
        raise Trap(UD, "CPUID has no MOVDIR64B")
    addr = _destination(addr)
    data = _source(mem, src)
    try:
        mem.write(addr, data)
    except OSError:
        vma = mem.vmas.find(addr) if hasattr(mem, "vmas") else None
        code = PF_WRITE | PF_USER | (PF_PROT if vma is not None and not vma.may(write=True) else 0)
        bus = vma is not None and not code & PF_PROT
        raise Trap(PF, f"{addr:#x} cannot be written", code, addr, bus=bus) from None
