"""For test suites that do not run under pytest: a TestCase with a kernel of its own for each test."""

from __future__ import annotations

import unittest
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import wraps
from inspect import iscoroutinefunction
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

    def __init__(self, methodName: str = "runTest") -> None:
        super().__init__(methodName)
        self._did_not_pass = False
        if hasattr(self, methodName):
            setattr(self, methodName, self._watched(getattr(self, methodName)))

    def _watched(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """The test, which notes that it did not pass: unittest has no way for a cleanup to ask."""

        @wraps(method)
        def call(*args: Any, **kw: Any) -> Any:
            with self._watch():
                return method(*args, **kw)

        @wraps(method)
        async def call_async(*args: Any, **kw: Any) -> Any:
            with self._watch():
                return await method(*args, **kw)

        return call_async if iscoroutinefunction(method) else call

    @contextmanager
    def _watch(self) -> Generator[None, None, None]:
        try:
            yield
        except BaseException:
            self._did_not_pass = True
            raise

    def setUp(self) -> None:
        """Boot."""
        super().setUp()
        self.kernel, patched, _ = start(**self.kernel_options)
        patched.__enter__()
        self.addCleanup(self._end, patched)

    def _end(self, patched: Patched) -> None:
        """After tearDown() and the cleanups that the test added."""
        try:
            complaints = stragglers(self.kernel, failed=self._did_not_pass)
        finally:
            patched.__exit__(None, None, None)
        complaints += verdict(self.kernel, failed=self._did_not_pass)
        if complaints:
            self.fail("\n".join(complaints))
