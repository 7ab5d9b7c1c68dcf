"""What the pytest fixture ``kernel`` costs each test after the first: its set-up and its teardown."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from pykernel.tools.bench.measure import Row, python

__all__ = ["rows"]

SUITE = """
import contextlib, io, os, pathlib, statistics, tempfile, time, pytest

os.environ.pop("PYTEST_ADDOPTS", None)  # of whoever measures

TEXT = '''
import pytest
@pytest.mark.machine("dsa")
@pytest.mark.parametrize("n", range(200))
def test_it({arguments}): pass
'''
taken = {{}}

class Timer:
    def timed(self, item):
        start = time.perf_counter()
        try:
            return (yield)
        finally:
            taken[item.name] = taken.get(item.name, 0) + time.perf_counter() - start

    pytest_runtest_setup = pytest.hookimpl(wrapper=True)(timed)
    pytest_runtest_teardown = pytest.hookimpl(wrapper=True)(timed)

with tempfile.TemporaryDirectory() as where, contextlib.redirect_stdout(io.StringIO()):
    path = pathlib.Path(where, "test_it.py")
    path.write_text(TEXT)
    options = ["-q", "-s", "--disable-plugin-autoload", "-p", "no:cacheprovider"]
    options += ["-p", "pykernel.surfaces.pytest_plugin"]
    status = pytest.main([str(path), *options], plugins=[Timer()])
assert status == 0, status
print(statistics.median(list(taken.values())[1:]))
"""


def rows() -> Iterator[Row]:
    """A test that does nothing, with and without the fixture. None without pytest."""
    if importlib.util.find_spec("pytest") is None:
        return
    plain = "a test, set-up and teardown"
    yield Row(plain, python(SUITE.format(arguments="n"), times=3))
    yield Row(
        "a test with the fixture kernel, the same", python(SUITE.format(arguments="kernel, n"), times=3), 5e-3, plain
    )
