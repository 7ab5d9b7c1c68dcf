"""For test suites that do not run under pytest: a TestCase with a kernel of its own for each test."""

from __future__ import annotations

import unittest
from typing import TYPE_CHECKING, Any, ClassVar

from pykernel.surfaces.testkit.life import start, stragglers, verdict

if TYPE_CHECKING:
    from pykernel.kernel import Kernel
    from pykernel.surfaces.inprocess import Patched

__all__ = ["KernelTestCase"]


class KernelTestCase(unittest.TestCase):
    """
    ``self.kernel`` is a booted machine, whose /sys, /dev and /proc files the test sees as its own.

    A test fails when the kernel had an oops, or when something that it took was not given back. A subclass that has a
    setUp() of its own calls ours first.

    Attributes:
        kernel_options: keywords of ``pykernel.boot()`` and ``kernel.patched()``.
    """

    kernel_options: ClassVar[dict[str, Any]] = {}
    kernel: Kernel
    _did_not_pass = False

    def setUp(self) -> None:
        """Boot."""
        super().setUp()
        self.kernel, patched, _ = start(**self.kernel_options)
        patched.__enter__()
        self.addCleanup(self._end, patched)

    def doCleanups(self) -> Any:
        """As ever; before, note whether anything failed so far or was skipped: a cleanup cannot ask."""
        outcome: Any = getattr(self, "_outcome", None)
        self._did_not_pass = outcome is not None and not (outcome.success and outcome.expectedFailure is None)
        return super().doCleanups()

    def _end(self, patched: Patched) -> None:
        """After tearDown() and the cleanups that the test added."""
        try:
            complaints = stragglers(self.kernel, failed=self._did_not_pass)
        finally:
            patched.__exit__(None, None, None)
        complaints += verdict(self.kernel, failed=self._did_not_pass)
        if complaints:
            self.fail("\n".join(complaints))
