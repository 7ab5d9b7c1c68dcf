"""What an instruction ends with: flags, an exception of the processor, the signal that Linux makes of one."""

from __future__ import annotations

import os
import signal
from errno import EFAULT, EINVAL
from typing import Final, NamedTuple

__all__ = ["GP", "PF", "PF_PROT", "PF_USER", "PF_WRITE", "SS", "UD", "Fault", "Flags", "Trap", "force_sig"]

# SDM volume 3, table 6-1
UD: Final = 6
SS: Final = 12
GP: Final = 13
PF: Final = 14
NAMES: Final = {UD: "#UD", SS: "#SS", GP: "#GP", PF: "#PF"}

# SDM volume 3, figure 4-12: error code of a page fault
PF_PROT: Final = 1 << 0
PF_WRITE: Final = 1 << 1
PF_USER: Final = 1 << 2

# include/uapi/asm-generic/siginfo.h
SI_KERNEL: Final = 0x80
ILL_ILLOPN: Final = 2
SEGV_MAPERR: Final = 1
SEGV_ACCERR: Final = 2
BUS_ADRERR: Final = 2


class Flags(NamedTuple):
    """RFLAGS after ENQCMD or ENQCMDS: ZF=1 is "retry", all other arithmetic flags are cleared."""

    zf: bool = False
    cf: bool = False
    pf: bool = False
    af: bool = False
    sf: bool = False
    of: bool = False


class Trap(Exception):
    """
    An exception of the processor, a fault: the instruction did nothing and can be executed again.

    Attributes:
        vector: its number; *error_code* is what is pushed, *address* is CR2 of a page fault.
        bus: a page fault for which the kernel found no page though an area is there.
        operand: the operand itself is wrong, whatever the state of the machine.
    """

    def __init__(
        self, vector: int, why: str, error_code: int = 0, address: int = 0, *, bus: bool = False, operand: bool = False
    ) -> None:
        super().__init__(f"{NAMES[vector]}: {why}")
        self.vector, self.error_code, self.address = vector, error_code, address
        self.bus, self.operand = bus, operand


class Fault(OSError):
    """
    What a caller of ``Process`` sees where a program would get a signal: an OSError, EFAULT.

    EINVAL tells an operand that no instruction takes, a destination that is not aligned; its signal is the same.

    Attributes:
        signo: the signal, with *si_code* and *si_addr* as in ``siginfo_t``.
        vector: the processor's exception, with its *error_code*.
    """

    signo: int
    si_code: int
    si_addr: int
    vector: int
    error_code: int


def force_sig(trap: Trap) -> Fault:
    """
    The signal of a trap that user mode raised and nobody mended.

    C: ``DEFINE_IDTENTRY...(exc_invalid_op, exc_general_protection, exc_stack_segment, exc_page_fault)``
    """
    code = EINVAL if trap.operand else EFAULT
    fault = Fault(code, os.strerror(code))
    fault.add_note(str(trap))
    fault.vector, fault.error_code = trap.vector, trap.error_code
    # arch/x86/kernel/traps.c, arch/x86/mm/fault.c:bad_area(), do_sigbus()
    if trap.vector == UD:
        fault.signo, fault.si_code, fault.si_addr = signal.SIGILL, ILL_ILLOPN, 0
    elif trap.vector == SS:
        fault.signo, fault.si_code, fault.si_addr = signal.SIGBUS, 0, 0
    elif trap.vector == GP:
        fault.signo, fault.si_code, fault.si_addr = signal.SIGSEGV, SI_KERNEL, 0
    elif trap.bus:
        fault.signo, fault.si_code, fault.si_addr = signal.SIGBUS, BUS_ADRERR, trap.address
    else:
        fault.signo, fault.si_addr = signal.SIGSEGV, trap.address
        fault.si_code = SEGV_ACCERR if trap.error_code & PF_PROT else SEGV_MAPERR
    return fault
