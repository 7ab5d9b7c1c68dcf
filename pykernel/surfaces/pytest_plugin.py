"""
The pytest plugin: a fixture ``kernel`` with a booted machine that the test, unmodified, sees as its own.

    @pytest.mark.kernel(machine="dsa", profile="linux-6.12")
    def test_queue(kernel):
        assert open("/sys/bus/dsa/devices/wq0.0/state").read() == "disabled\\n"

The marker's arguments are those of ``pykernel.boot`` (machine, profile, seed, clock, config) and of ``kernel.patched``
(real_files, uid, gid, modules); beside pyfakefs' fixture ``fs`` real_files is False. The test fails when the kernel had
an oops or when something that the test took was not given back; a failing test's report has the kernel's log. Nothing
of the kernel is imported before a test asks for the fixture.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["kernel"]

BOOT = ("machine", "profile", "seed", "clock", "config")
PATCHED = ("real_files", "uid", "gid", "modules")
FAKES = frozenset(("fs", "fs_class", "fs_module", "fs_session"))  # pyfakefs' fixtures: real_files=False
MARKER = (
    "kernel(machine='full', profile='linux-6.1', seed=0, clock='virtual', config=(), real_files=True, uid=None, "
    "gid=None, modules=()): what the fixture 'kernel' boots and how the test sees it"
)
_KERNEL = pytest.StashKey[Any]()
_FAILED = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    """The marker is known."""
    config.addinivalue_line("markers", MARKER)


@pytest.fixture
def kernel(request: pytest.FixtureRequest) -> Generator[Kernel, None, None]:
    """A kernel whose /sys, /dev and /proc files the test sees as its own."""
    from pykernel.surfaces.unfaked import unfaked

    options = _options(request.node)
    options.setdefault("real_files", FAKES.isdisjoint(request.fixturenames))
    with unfaked():
        from pykernel.kernel import Leak
        from pykernel.start import boot

        made = boot(**{k: v for k, v in options.items() if k in BOOT})
        patched = made.patched(**{k: v for k, v in options.items() if k in PATCHED})
    request.node.stash[_KERNEL] = made
    made.track_origins = True  # a leak is told with the line that took it
    with patched:
        yield made
    failed = request.node.stash.get(_FAILED, False)
    # a failed test's traceback keeps its local variables alive: what they hold is no leak of the test
    with suppress(Leak) if failed else _fail_on(Leak):
        made.shutdown()
    if made.oopses:
        pytest.fail("the kernel had an oops: " + "; ".join(_sentence(e) for e in made.oopses), pytrace=False)


def _options(node: pytest.Item) -> dict[str, Any]:
    marker = node.get_closest_marker("kernel")
    if marker is None:
        return {}
    unknown = set(marker.kwargs) - {*BOOT, *PATCHED}
    if unknown or marker.args:
        raise pytest.UsageError(
            f"pytest.mark.kernel takes the keywords {', '.join((*BOOT, *PATCHED))}, "
            f"not {marker.args or sorted(unknown)}"
        )
    return dict(marker.kwargs)


class _fail_on:
    """An exception of that kind is the test's failure, without a traceback of ours."""

    def __init__(self, kind: type[BaseException]) -> None:
        self._kind = kind

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, e: BaseException | None, _traceback: object) -> None:
        if isinstance(e, self._kind):
            pytest.fail(str(e), pytrace=False)


def _sentence(e: BaseException) -> str:
    return f"{type(e).__name__}: {e}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The kernel's log goes into a failing report."""
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
        made = item.stash.get(_KERNEL, None)
        if made is not None:
            report.sections.append(("dmesg", made.log.human()))
    return report
