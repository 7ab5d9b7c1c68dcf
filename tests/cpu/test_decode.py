"""The encodings, as the assembler of the host makes them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pykernel.cpu import Trap
from pykernel.cpu.decode import decode

REGISTERS = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16))]
OPERANDS = ["(%rsi)", "(%rsp)", "8(%rbp)", "0x1000(%r13)", "64(%rax,%rcx,8)", "0x100(,%r9,4)", "0x20(%rip)", "(%r12)",
            "%fs:(%rdi)", "-4(%rsp,%rbp,2)", "(%r13,%r14,1)"]  # fmt: skip
NAMES = ["movdir64b", "enqcmd", "enqcmds"]
LINES = [f"{n} {op}, %{reg}" for n in NAMES for op in OPERANDS for reg in REGISTERS]


@pytest.fixture(scope="module")
def assembled(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    if not shutil.which("as") or not shutil.which("objdump"):
        pytest.skip("no binutils")
    work: Path = tmp_path_factory.mktemp("as")
    (work / "a.s").write_text("\n".join(LINES) + "\n")
    made = subprocess.run(["as", "--64", "-o", "a.o", "a.s"], cwd=work, capture_output=True, text=True, check=False)
    if made.returncode and "no such instruction" in made.stderr:
        pytest.skip("an assembler from before 2019")
    assert not made.returncode, made.stderr
    text = subprocess.run(["objdump", "-dw", "a.o"], cwd=work, capture_output=True, text=True, check=True).stdout
    rows = re.findall(r"^\s+[0-9a-f]+:\t((?:[0-9a-f]{2} )+)\s*\t", text, re.MULTILINE)
    return [bytes.fromhex(row) for row in rows]


def test_what_the_assembler_makes_is_what_is_decoded(assembled: list[bytes]) -> None:
    """Every destination register and form of operand: name, register and length."""
    assert len(assembled) == len(LINES)
    for line, code in zip(LINES, assembled, strict=True):
        name, register = line.split(" ", 1)[0], REGISTERS.index(line.rsplit("%", 1)[1])
        assert (line, decode(code + b"\x90" * 4)) == (line, (name, register, len(code)))


@pytest.mark.parametrize(("prefix", "name"), [("66", "movdir64b"), ("f2", "enqcmd"), ("f3", "enqcmds")])
def test_prefix_0f_38_f8(prefix: str, name: str) -> None:
    """3.1: MOVDIR64B rax, [rsi] and its two relatives."""
    assert decode(bytes.fromhex(prefix + "0f38f806")) == (name, 0, 5)


@pytest.mark.parametrize("code", ["f20f38f8c6", "f30f38f8ff", "660f38f8c0", "f0f20f38f806", "f3f00f38f806"])
def test_ud_for_a_register_as_source_and_for_lock(code: str) -> None:
    """3.4."""
    with pytest.raises(Trap) as e:
        decode(bytes.fromhex(code))
    assert e.value.vector == 6


@pytest.mark.parametrize("code", ["", "90", "0f38f806", "f20f38f106", "f20f38f8", "66"])
def test_what_is_none_of_the_three(code: str) -> None:
    assert decode(bytes.fromhex(code)) is None
