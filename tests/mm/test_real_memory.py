"""SelfMemory and ProcessMemory on real memory: every way in, bad pointers, and a process that dies."""

import ctypes
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EFAULT, EINTR, ENOSYS, EPERM

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pykernel.mm.process import ProcessMemory
from pykernel.mm.self import SelfMemory
from pykernel.mm.uaccess import UserMemory

PAGE = mmap.PAGESIZE
EFAULTS = rf"\[Errno {EFAULT}\]"
PROT_NONE = 0

# A client: it maps four pages, forbids the third, says where they are, and waits for the end of its input.
CHILD = """
import ctypes, mmap, sys
m = mmap.mmap(-1, 4 * mmap.PAGESIZE)
m[:5] = b"child"
addr = ctypes.addressof(ctypes.c_char.from_buffer(m))
libc = ctypes.CDLL(None)
libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
assert libc.mprotect(addr + 2 * mmap.PAGESIZE, mmap.PAGESIZE, 0) == 0
assert libc.mprotect(addr + 3 * mmap.PAGESIZE, mmap.PAGESIZE, mmap.PROT_READ) == 0
print(addr, flush=True)
sys.stdin.readline()
"""


class Client:
    """Four pages somewhere: two good ones, one that is PROT_NONE, one that is read-only."""

    def __init__(self, mem: UserMemory, addr: int) -> None:
        self.mem = mem
        self.addr = addr


def mprotect(addr: int, length: int, prot: int) -> None:
    function = ctypes.CDLL(None).mprotect
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    assert function(addr, length, prot) == 0


@contextmanager
def own(*, syscalls: bool) -> Iterator[Client]:
    """This process's pages."""
    area = mmap.mmap(-1, 4 * PAGE)
    area[:5] = b"child"
    addr = ctypes.addressof(ctypes.c_char.from_buffer(area))
    mprotect(addr + 2 * PAGE, PAGE, PROT_NONE)
    mprotect(addr + 3 * PAGE, PAGE, mmap.PROT_READ)
    yield Client(SelfMemory(syscalls=syscalls), addr)
    mprotect(addr, 4 * PAGE, mmap.PROT_READ | mmap.PROT_WRITE)


@contextmanager
def child(*, syscalls: bool) -> Iterator[tuple[Client, subprocess.Popen[str]]]:
    """A child's pages, and the child."""
    command = [sys.executable, "-c", CHILD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield Client(ProcessMemory(process.pid, syscalls=syscalls), int(process.stdout.readline())), process
        process.kill()


@pytest.fixture(params=["own-syscalls", "own-proc", "child-syscalls", "child-proc"])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    whose, way = request.param.split("-")
    if whose == "own":
        with own(syscalls=way == "syscalls") as mine:
            yield mine
    else:
        with child(syscalls=way == "syscalls") as (theirs, _):
            yield theirs


def test_read_and_write(client: Client) -> None:
    """Across a page, into and from any buffer, and length 0 anywhere."""
    mem, addr = client.mem, client.addr
    assert mem.read(addr, 8) == b"child\0\0\0"
    mem.write(addr + PAGE - 2, memoryview(b"abcd"))
    buf = bytearray(6)
    mem.readinto(addr + PAGE - 3, buf)
    assert buf == b"\0abcd\0"
    mem.write(addr, bytearray(2 * PAGE))
    assert mem.read(addr, 2 * PAGE) == bytes(2 * PAGE)
    assert mem.read(0, 0) == b""
    mem.write(1 << 63, b"")


def test_bad_pointers_are_efault(client: Client) -> None:
    """Null, not canonical, in the kernel's half, wrapping, protected: never a signal."""
    forbidden = client.addr + 2 * PAGE
    for addr in (0, 8, 1 << 47, 1 << 63, 0xFFFF_8000_0000_0000, (1 << 64) - 4, 1 << 64, -8, forbidden):
        with pytest.raises(OSError, match=EFAULTS):
            client.mem.read(addr, 8)
        with pytest.raises(OSError, match=EFAULTS):
            client.mem.write(addr, b"12345678")


def test_read_only_is_efault_to_write(client: Client) -> None:
    """Also through /proc/PID/mem, which would not ask."""
    addr = client.addr + 3 * PAGE
    assert client.mem.read(addr, 4) == bytes(4)
    with pytest.raises(OSError, match=EFAULTS):
        client.mem.write(addr, b"no")
    assert client.mem.read(addr, 4) == bytes(4)


def test_partial_copies_say_what_is_left(client: Client) -> None:
    """Up to the fault, by whole pages or better; what could not be read is zeros."""
    mem, fault = client.mem, client.addr + 2 * PAGE
    assert mem.copy_to(fault - 3, b"abcdef") == 3
    buf = bytearray(b"xxxxxxxx")
    assert mem.copy_from(fault - 3, buf) == 5
    assert buf == b"abc\0\0\0\0\0"
    assert mem.copy_from(fault, buf) == 8
    assert buf == bytes(8)


@pytest.mark.parametrize("code", [EPERM, ENOSYS])
def test_forbidden_system_calls_leave_proc(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under a seccomp filter or in an old kernel; an interrupted call is made again."""
    calls = []

    def refused(*args: object) -> int:
        calls.append(args)
        ctypes.set_errno(EINTR if len(calls) == 1 else code)
        return -1

    with own(syscalls=True) as client:
        monkeypatch.setattr(client.mem, "_readv", refused)
        monkeypatch.setattr(client.mem, "_writev", refused)
        client.mem.write(client.addr, b"CHILD")
        assert client.mem.read(client.addr, 5) == b"CHILD"
    assert len(calls) == 3


def test_two_mebibytes() -> None:
    area = mmap.mmap(-1, 2 << 20)
    addr = ctypes.addressof(ctypes.c_char.from_buffer(area))
    data = bytes(range(256)) * (len(area) // 256)
    mem = SelfMemory()
    mem.write(addr, data)
    assert mem.read(addr, len(data)) == data == area[:]


@pytest.mark.parametrize("syscalls", [True, False])
def test_a_process_that_is_gone_is_efault(syscalls: bool) -> None:
    """Dead and not reaped, then reaped: always EFAULT."""
    with child(syscalls=syscalls) as (client, process):
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        for _ in range(2):
            with pytest.raises(OSError, match=EFAULTS):
                client.mem.read(client.addr, 5)
            with pytest.raises(OSError, match=EFAULTS):
                client.mem.write(client.addr, b"x")
            process.wait()


def test_self_memory_is_the_childs_after_a_fork() -> None:
    """What a forked child writes through it, the parent does not see."""
    area = mmap.mmap(-1, PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    addr = ctypes.addressof(ctypes.c_char.from_buffer(area))
    mem = SelfMemory()
    pid = os.fork()
    if pid == 0:
        try:
            mem.write(addr, b"child")
            os._exit(0 if area[:5] == b"child" else 1)
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    assert mem.read(addr, 5) == bytes(5)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3 * PAGE), st.binary(max_size=2 * PAGE)), max_size=8), st.booleans())
def test_model(writes: list[tuple[int, bytes]], syscalls: bool) -> None:
    """Against the mapping itself, seen from Python."""
    area = mmap.mmap(-1, 5 * PAGE)
    addr = ctypes.addressof(ctypes.c_char.from_buffer(area))
    mem, model = SelfMemory(syscalls=syscalls), bytearray(5 * PAGE)
    for at, data in writes:
        mem.write(addr + at, data)
        model[at : at + len(data)] = data
    assert area[:] == bytes(model)
    assert mem.read(addr, 5 * PAGE) == bytes(model)
