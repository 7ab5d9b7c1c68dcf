"""Type checkers see the fields: mypy, strictly, on a program with mistakes that are marked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")

PROGRAM = """
from typing import assert_type

from pykernel.uapi.ioctl import Ioctl, _IO
from pykernel.uapi.linux.idxd import DSA_OPCODE_MEMMOVE, dsa_completion_record, dsa_hw_desc, dsa_opcode, dsa_raw_desc
from pykernel.uapi.linux.pci_regs import PCI_COMMAND

desc = dsa_hw_desc(opcode=DSA_OPCODE_MEMMOVE, src_addr=1, crc_seed=2, op_specific=b"")
desc.flags |= 4
assert_type(desc.opcode, int)
assert_type(desc.op_specific, bytes)
assert_type(dsa_hw_desc.from_bytes(b""), dsa_hw_desc)
assert_type(dsa_raw_desc().field[0], int)
assert_type(DSA_OPCODE_MEMMOVE, dsa_opcode)
assert_type(_IO(1, 2, dsa_hw_desc), Ioctl[dsa_hw_desc])
shifted: int = PCI_COMMAND << 1

dsa_hw_desc(opcod=3)  # type: ignore[call-arg]
dsa_hw_desc(3)  # type: ignore[call-arg]
dsa_hw_desc(opcode="3")  # type: ignore[arg-type]
desc.priority = 3  # type: ignore[attr-defined]
desc.src_addr = b""  # type: ignore[assignment]
dsa_completion_record(opcode=3)  # type: ignore[call-arg]
"""


def test_keywords_and_fields_are_typed(tmp_path: Path) -> None:
    """Each marked line is an error (an unused mark would be one too), no other line is."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--follow-imports=silent", str(program)],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("Success"), done.stdout + done.stderr
