"""
The pytest plugin: a booted machine that the test, unmodified, sees as its own.

    @pytest.mark.kernel(machine="dsa", profile="linux-6.12")
    def test_queue(kernel):
        assert open("/sys/bus/dsa/devices/wq0.0/state").read() == "disabled\\n"

Fixtures: ``kernel``; ``kernel_process``, a process of it on the direct surface; ``kernel_run``, which runs unmodified
programs against it; ``kernel_faults``, which makes each allocation or copy fail once; ``kernel_machine``,
``kernel_profile``, ``kernel_seed``, what was booted.

The test fails when the kernel had an oops or when something that was taken was not given back; a failing test's report
has the kernel's log and its last events. Nothing of the kernel is imported before a test asks for a fixture.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from pykernel.surfaces.testkit import marks
from pykernel.surfaces.unfaked import unfaked

if TYPE_CHECKING:
    from pykernel.kernel import Kernel
    from pykernel.surfaces.testkit.faults import Faults
    from pykernel.surfaces.testkit.program import KernelRun
    from pykernel.syscalls import Process

__all__ = ["kernel", "kernel_faults", "kernel_process", "kernel_run"]

pytest_plugins = ("pykernel.surfaces.pytest_explore",)  # @explore

_STARTED = pytest.StashKey[Any]()
_FAILED = pytest.StashKey[bool]()
_INTERRUPTED = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--kernel-profile`` and its like."""
    marks.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """The markers are known, and the options make sense."""
    marks.check_options(config)
    for line in marks.MARKERS:
        config.addinivalue_line("markers", line)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Several machines, profiles or seeds: the test is made once for each."""
    if "kernel" in metafunc.fixturenames:
        marks.parametrize(metafunc)


@pytest.fixture
def kernel_machine(request: pytest.FixtureRequest) -> Any:
    """The machine that the fixture ``kernel`` boots."""
    return marks.boot_options(request)["machine"]


@pytest.fixture
def kernel_profile(request: pytest.FixtureRequest) -> str:
    """The name of the profile that the fixture ``kernel`` boots."""
    profile: str = marks.boot_options(request)["profile"]
    return profile


@pytest.fixture
def kernel_seed(request: pytest.FixtureRequest) -> int:
    """The seed of the fixture ``kernel``."""
    seed: int = marks.boot_options(request)["seed"]
    return seed


@pytest.fixture
def kernel(
    request: pytest.FixtureRequest, kernel_machine: Any, kernel_profile: str, kernel_seed: int
) -> Generator[Kernel, None, None]:
    """A kernel whose /sys, /dev and /proc files the test sees as its own."""
    with unfaked():
        from pykernel.surfaces.testkit import life

    chosen = {"machine": kernel_machine, "profile": kernel_profile, "seed": kernel_seed}
    options = {**marks.boot_options(request), **chosen}
    started = life.try_to_start(**options)
    if isinstance(started, str):
        pytest.fail(started, pytrace=False)
    made, patched, ring = started
    request.node.stash[_STARTED] = made, patched, ring, options
    with patched:
        yield made
        failed = request.node.stash.get(_FAILED, False)
        complaints = life.stragglers(made, failed=failed)
    complaints += life.verdict(made, failed=failed, hint=lambda: marks.order_hint(request.node))
    if complaints and not request.node.stash.get(_INTERRUPTED, False):
        pytest.fail("\n".join(complaints), pytrace=False)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> None:
    """pyfakefs' fixture, asked for when the kernel is there already, would take away the kernel's files."""
    started = request.node.stash.get(_STARTED, None)
    if started is not None and fixturedef.argname in marks.FAKES and started[3]["real_files"]:
        pytest.fail(
            f"the fixture {fixturedef.argname!r} hides the emulated files of 'kernel', which did not know of it: "
            f"name it among the test's arguments, or in usefixtures",
            pytrace=False,
        )


@pytest.fixture
def kernel_process(request: pytest.FixtureRequest, kernel: Kernel) -> Process:
    """A process of the fixture ``kernel`` on the direct surface, with the marker's uid and gid."""
    options = request.node.stash[_STARTED][3]
    return kernel.process(uid=options.get("uid") or 0, gid=options.get("gid") or 0)


@pytest.fixture
def kernel_run(request: pytest.FixtureRequest, kernel: Kernel) -> KernelRun:
    """``kernel_run("accel-config", "list")`` runs a program, unmodified, against the fixture ``kernel``."""
    with unfaked():
        from pykernel.surfaces.testkit.program import KernelRun

    run = KernelRun(kernel, request.node.stash[_STARTED][1])
    if why := run.why_not():
        _cannot(f"kernel_run: {why}")
    return run


@pytest.fixture
def kernel_faults(kernel: Kernel) -> Faults:
    """``for fault in kernel_faults.each("alloc"):`` runs its body until each allocation of it failed once."""
    with unfaked():
        from pykernel.surfaces.testkit.faults import Faults

    return Faults(kernel)


def _cannot(sentence: str) -> None:
    """Skip; where CI is set, what a test needs must be there."""
    import os

    (pytest.fail if os.environ.get("CI") else pytest.skip)(sentence)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Ctrl-C and pytest.exit() end all: nobody reports what this test did wrong."""
    try:
        return (yield)
    except BaseException:
        item.stash[_FAILED] = item.stash[_INTERRUPTED] = True
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The kernel's log and last events go into a failing report, and into JUnit's as properties."""
    report = yield
    if call.excinfo is not None:  # also a skip or an expected failure in the middle of a test
        item.stash[_FAILED] = True
    started = item.stash.get(_STARTED, None)
    if report.failed and started is not None:
        from pykernel.surfaces.testkit import life

        made, _, ring, options = started
        sections = life.report(made, ring, options)
        report.sections += sections
        if not {*sections} & {*item.user_properties}:  # the kernel's is there when the test failed before
            item.user_properties += sections
        report.user_properties[:] = item.user_properties  # JUnit's are those of the last report, the teardown's
    return report
