"""
The pytest side of :mod:`pykernel.surfaces.explore`: a test that is decorated runs once a seed, with fresh fixtures.

It counts as one test. The first seed that fails ends it; the report says which one that was and how to replay it:
``pytest path::test --kernel-seed=17``. A test that is expected to fail needs one seed to.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from pykernel.surfaces.explore import MARK, Explore

__all__ = ["FEED", "Explorer", "exploring"]

FEED = pytest.StashKey[Callable[["Explorer"], None]]()  # of the configuration: what runs the seeds instead of us
_SEED = pytest.StashKey[tuple[Explore, int]]()


def exploring(item: pytest.Item) -> Explore | None:
    """How *item* explores; None: it does not."""
    found = getattr(getattr(item, "obj", None), MARK, None)
    return found if isinstance(found, Explore) else None


class Explorer:
    """One test that runs once a seed: what its item was before the first, it is before each."""

    def __init__(self, item: pytest.Item, plan: Explore) -> None:
        self.item = item
        self.plan = plan
        self._stash = dict(item.stash._storage)
        self._properties = list(item.user_properties)
        self._markers = list(item.own_markers)

    def seeds(self) -> tuple[int, ...]:
        """Those of the decorator, unless the test's parameters or the command line say which."""
        given = getattr(getattr(self.item, "callspec", None), "params", {}).get("kernel_seed")
        if given is not None:
            return (int(given),)
        option = self.item.config.getoption("kernel_seed", None)
        return tuple(int(word) for word in option.split(",")) if option else self.plan.seeds

    def run(self, seed: int, nextitem: Any) -> list[pytest.TestReport]:
        """Set up, call and tear down with *seed*; the item's parent as *nextitem* keeps what is the module's."""
        item = self.item
        item.stash._storage = dict(self._stash)
        item.user_properties[:] = self._properties
        item.stash[_SEED] = (self.plan, seed)
        if isinstance(item.parent, pytest.Class):
            for name in ("_instance", "_obj"):  # a fresh instance of the class
                vars(item).pop(name, None)
        item.own_markers[:] = [pytest.mark.seed(seed).mark, *self._markers]
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        told = self.plan.told(seed, f"pytest {item.nodeid} --kernel-seed={seed}")
        for report in reports:
            if report.failed:
                report.sections.insert(0, ("explore", told))
        return reports

    def finish(self, nextitem: pytest.Item | None) -> list[pytest.TestReport]:
        """Tear down what was kept for the next seed, when there was none: a report if that fails."""
        item = self.item
        call = pytest.CallInfo.from_call(lambda: item.session._setupstate.teardown_exact(nextitem), "teardown")
        return [item.ihook.pytest_runtest_makereport(item=item, call=call)] if call.excinfo else []


def pytest_itemcollected(item: pytest.Item) -> None:
    """The decorator's boot options are those of the marker, where the test has none."""
    plan = exploring(item)
    if plan is not None and plan.boot and item.get_closest_marker("kernel") is None:
        item.add_marker(pytest.mark.kernel(**plan.boot))


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """A fixture that is a kernel explores from now on."""
    made = yield
    plan, seed = request.node.stash.get(_SEED, (None, 0))
    if plan is not None:
        from pykernel.kernel import Kernel

        if isinstance(made, Kernel):
            plan.start(made, seed)
    return made


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run a decorated test once a seed, and report once."""
    plan = exploring(item)
    if plan is None:
        return None
    explorer = Explorer(item, plan)
    feed = item.config.stash.get(FEED, None)
    if feed is not None:
        feed(explorer)
        explorer.finish(nextitem)
        return True
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports: list[pytest.TestReport] = []
    for seed in explorer.seeds():
        reports = explorer.run(seed, item.parent)
        if any(_ends(report) for report in reports):
            break
    for report in reports + explorer.finish(nextitem):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _ends(report: pytest.TestReport) -> bool:
    """Whether a seed failed, expected or not, or was skipped; that it passed though it should not ends nothing."""
    return report.skipped or (report.failed and not str(report.longrepr).startswith("[XPASS(strict)]"))
