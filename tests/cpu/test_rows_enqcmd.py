"""
ENQCMD, row by row where no other test has the row: prefixes (3.1), the image's bytes (3.2), repeated faults (9).

What 64-bit mode without segments cannot show has no test: the 16-bit forms of the destination register, limits of
segments, and #SS, which is #GP's twin for addresses relative to SS.
"""

from __future__ import annotations

import pytest
from cpubench import Bench, Registers

from pykernel.cpu.decode import decode

DESC = bytes(4) + bytes(range(4, 64))


@pytest.mark.parametrize("prefix", ["67", "64", "65", "67 64", "26", "2e", "36", "3e"])
@pytest.mark.parametrize(("kind", "name"), [("66", "movdir64b"), ("f2", "enqcmd"), ("f3", "enqcmds")])
def test_3_1_address_size_and_segment_prefixes_do_not_make_it_another(prefix: str, kind: str, name: str) -> None:
    """67 shortens the destination register, a segment is the source's: the destination's is ES always."""
    code = bytes.fromhex(prefix + kind + "0f38f806")
    assert decode(code) == (name, 0, len(code))


def test_3_2_the_image_byte_by_byte(bench: Bench) -> None:
    """PASID in bytes 0 to 2 (of the third its low half), PRIV in bit 7 of byte 3, the source's in 4 to 63."""
    io = Registers()
    bench.bind(0xABCDE)
    addr = bench.map(io)
    assert bench.proc.enqcmd(addr, DESC) is False
    priv = bytes.fromhex("debc0a80") + DESC[4:]
    bench.cpus[0].enqcmds(bench.proc.mem, addr, priv)
    assert [c for _, c in io.commands] == [bytes.fromhex("debc0a00") + DESC[4:], priv]


def test_3_3_retry_leaves_the_queue_and_the_source_alone(bench: Bench) -> None:
    """Nothing was enqueued, so the same instruction may be executed again: once accepted, it is there once."""
    io = Registers(room=0)
    bench.bind(5)
    addr, source = bench.map(io), bench.memory()
    bench.proc.store(source, DESC)
    assert [bench.proc.enqcmd(addr, src=source) for _ in range(3)] == [True] * 3
    assert (io.commands, bench.proc.load(source, 64)) == ([], DESC)
    io.room = 1
    assert [bench.proc.enqcmd(addr, src=source) for _ in range(2)] == [False, True]
    assert len(io.commands) == 1


def test_3_5_what_was_stored_before_is_what_arrives(bench: Bench) -> None:
    """
    Processors of this machine execute in order, one at a time: no store is late, so no SFENCE is missed.

    Real ones order ENQCMD behind nothing; a program that forgets the fence is not found out here.
    """
    io = Registers()
    bench.bind(5)
    addr, source = bench.map(io), bench.memory()
    for n in range(1, 4):
        bench.proc.store(source, bytes(4) + bytes([n]) * 60)
        assert bench.proc.enqcmd(addr, src=source) is False
    assert [c[4] for _, c in io.commands] == [1, 2, 3]


@pytest.mark.parametrize("pasid", [101, 0xABCDE, 0x7FFFF, 0x80000, 0xFFFFF])
def test_9_8_the_test_vectors_are_on_the_wire_as_they_are_in_the_register(bench: Bench, pasid: int) -> None:
    """20 bits, none cut off."""
    io = Registers()
    bench.bind(pasid)
    assert bench.proc.enqcmd(bench.map(io), DESC) is False
    assert int.from_bytes(io.commands[0][1][:4], "little") == pasid


def test_9_17_each_thread_takes_one_gp(bench: Bench) -> None:
    """The PASID is the process's, the register the thread's: as many fix-ups as threads, however much they submit."""
    io = Registers()
    bench.bind(9)
    addr = bench.map(io)
    threads = [bench.proc, *(bench.proc.thread() for _ in range(4))]
    events = bench.kernel.trace.record()
    for _ in range(3):
        for thread in threads:
            assert thread.enqcmd(addr, DESC) is False
    assert [e.fields["pid"] for e in events if e.name == "enqcmd_fixup"] == [t.tid for t in threads]
    assert {int.from_bytes(c[:4], "little") for _, c in io.commands} == {9}
