"""
Names between Python and the kernel.

In the kernel a name is ``str`` with one character a byte; at the system calls it is what Python's os has: bytes, or
text in the file system's encoding with the bytes that are none in lone surrogates (PEP 383).
"""

from __future__ import annotations

import os

__all__ = ["host_text", "kernel_text"]


def kernel_text(text: str) -> str:
    """A name of Python's os as the kernel has it."""
    return text if text.isascii() else os.fsencode(text).decode("latin-1")


def host_text(text: str) -> str:
    """A name of the kernel as Python's os has it."""
    return text if text.isascii() else os.fsdecode(text.encode("latin-1"))
