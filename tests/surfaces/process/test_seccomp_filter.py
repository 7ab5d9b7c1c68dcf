"""The clients' filter, run by a model of the kernel's classic BPF, with the numbers of the real headers."""

from __future__ import annotations

import errno
import struct
import subprocess
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykernel.surfaces.process import seccomp

ALLOW, NOTIFY, KILL = 0x7FFF0000, 0x7FC00000, 0x80000000
X32 = 0x40000000
ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
HEADER = {"x86_64": "asm/unistd_64.h", "aarch64": "asm-generic/unistd.h"}


def verdict(program: bytes, nr: int, arch: int) -> int:
    """What seccomp does with a call. kernel/bpf: LD W ABS, JEQ K, JGE K, RET K."""
    rows, data, at, acc = list(struct.iter_unpack("<HBBI", program)), struct.pack("<II", nr, arch), 0, 0
    while True:
        code, jt, jf, k = rows[at]
        at += 1
        if code == 0x20:
            (acc,) = struct.unpack_from("<I", data, k)
        elif code == 0x15:
            at += jt if acc == k else jf
        elif code == 0x35:
            at += jt if acc >= k else jf
        else:
            assert code == 0x06
            return int(k)


@pytest.fixture(scope="module")
def number(require_program: Callable[[str], str]) -> Callable[[str, str], int]:
    """The number of a call in the headers of a machine."""
    cc = require_program("cc")

    def ask(machine: str, name: str) -> int:
        source = f"#include <asm/bitsperlong.h>\n#include <{HEADER[machine]}>\nTHE __NR_{name}\n"
        text = subprocess.run([cc, "-E", "-P", "-"], input=source, capture_output=True, text=True, check=True).stdout
        return int(text.rpartition("THE ")[2])

    return ask


@pytest.mark.parametrize("machine", ARCH)
@pytest.mark.parametrize("notify", [True, False])
def test_the_named_calls_are_notified_and_io_uring_is_not_there(
    number: Callable[[str, str], int], machine: str, notify: bool
) -> None:
    program, arch = seccomp.client_filter(machine, notify=notify), ARCH[machine]
    for name in ("statfs", "fstatfs"):
        assert verdict(program, number(machine, name), arch) == (NOTIFY if notify else ALLOW)
    assert verdict(program, number(machine, "io_uring_setup"), arch) == 0x50000 | errno.ENOSYS
    assert seccomp.system_call("seccomp", machine) == number(machine, "seccomp")


@given(st.sampled_from(sorted(ARCH)), st.integers(0, X32 - 1))
def test_every_other_call_is_allowed(machine: str, nr: int) -> None:
    special = seccomp.NUMBERS[machine]
    if nr not in {special[name] for name in ("statfs", "fstatfs", "io_uring_setup")}:
        assert verdict(seccomp.client_filter(machine, notify=True), nr, ARCH[machine]) == ALLOW


@given(st.sampled_from(sorted(ARCH)), st.integers(0, 2**32 - 1))
def test_other_architectures_and_x32_do_not_pass(machine: str, nr: int) -> None:
    program = seccomp.client_filter(machine, notify=True)
    assert verdict(program, nr, 0x40000003) == KILL  # AUDIT_ARCH_I386
    assert verdict(program, nr | X32, ARCH[machine]) == 0x50000 | errno.ENOSYS


def test_an_unknown_machine_has_no_filter() -> None:
    assert seccomp.client_filter("riscv64", notify=True) == b""


@pytest.mark.parametrize(
    ("release", "can"),
    [("5.4.0-200", False), ("5.5", True), ("6.18.44-fc", True), ("10.0", True), ("?", False)],
)
def test_the_host_can_go_on_with_a_call_since_5_5(release: str, can: bool) -> None:
    """include/uapi/linux/seccomp.h has SECCOMP_USER_NOTIF_FLAG_CONTINUE since Linux 5.5."""
    assert seccomp.has_continue(release) is can
