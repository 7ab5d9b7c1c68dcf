"""
Which kernel a test wants: its marks, the closest first, then the command line, then the configuration file.

``@pytest.mark.kernel(machine="dsa", profile="linux-6.12", seed=7)``, and short ones that may name several values:
``@pytest.mark.profile("linux-6.1", "linux-6.12")`` runs the test once with each.
"""

from __future__ import annotations

import inspect
import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

__all__ = [
    "BOOT",
    "MANY",
    "MARKERS",
    "PATCHED",
    "Said",
    "add_options",
    "boot_options",
    "check_options",
    "order_hint",
    "parametrize",
    "said",
]

BOOT = ("machine", "profile", "seed", "clock", "config")
PATCHED = ("real_files", "uid", "gid", "modules")
MANY = ("machine", "profile", "seed")  # have a marker, an option and a fixture of their own
TYPES = {"machine": str, "profile": str, "seed": int}
DEFAULTS: dict[str, Any] = {"machine": "full", "profile": "linux-6.1", "seed": 0}
PLUGINS = ("_pytest.", "pytest_", "pykernel.", "pyfakefs.")  # modules whose fixtures are not the tests' own
FAKES = frozenset(("fs", "fs_class", "fs_module", "fs_session"))  # pyfakefs' fixtures: real_files=False
KEYWORDS = (
    "machine='full', profile='linux-6.1', seed=0, clock='virtual', config=(), real_files=True, uid=None, gid=None, "
    "modules=()"
)
MARKERS = (
    f"kernel({KEYWORDS}): what the fixture 'kernel' boots and how the test sees it",
    "machine(name, ...): the fixture 'kernel' boots this machine; several: the test runs once with each",
    "profile(name, ...): the fixture 'kernel' boots this kernel; several: the test runs once with each",
    "seed(number, ...): the seed of the fixture 'kernel'; several: the test runs once with each",
)


@dataclass(frozen=True, slots=True)
class Said:
    """The values of one option, and what said them: a mark on a node, or in words what else."""

    values: tuple[Any, ...]
    owner: Any
    mark: pytest.Mark | None = None

    @property
    def where(self) -> str:
        """``FILE:LINE`` of the mark; looked for when somebody asks."""
        return str(self.owner) if self.mark is None else _where(self.owner, self.mark)


_SAID = pytest.StashKey[dict[str, Said]]()


def add_options(parser: pytest.Parser) -> None:
    """``--kernel-machine`` and its like, and ``kernel_machine`` and its like in the configuration file."""
    group = parser.getgroup("pykernel")
    for name in MANY:
        what = f"{name} of the fixture 'kernel' where no mark says it; several with commas: each test runs with each"
        group.addoption(f"--kernel-{name}", metavar="VALUE[,...]", help=f"The {what}.")
        parser.addini(f"kernel_{name}", f"The {what} (default: {DEFAULTS[name]})")


def said(node: pytest.Item | pytest.Collector) -> dict[str, Said]:
    """What was said about the kernel of *node*, by option. Fails with a sentence: a mark that means nothing."""
    if _SAID in node.stash:
        return node.stash[_SAID]
    found: dict[str, Said] = {}
    for owner, mark in node.iter_markers_with_node():
        if mark.name == "kernel":
            _check_keywords(owner, mark)
            for name, value in mark.kwargs.items():
                found.setdefault(name, Said((value,), owner, mark))
        elif mark.name in MANY:
            found.setdefault(mark.name, Said(_values(owner, mark), owner, mark))
    for name in MANY:
        if name not in found:
            found[name] = _configured(node.config, name)
    node.stash[_SAID] = found
    return found


def _configured(config: pytest.Config, name: str) -> Said:
    option = config.getoption(f"kernel_{name}")
    text, where = (option, f"--kernel-{name}") if option else (config.getini(f"kernel_{name}"), f"ini kernel_{name}")
    if not text:
        return Said((DEFAULTS[name],), "the default")
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise pytest.UsageError(f"{where}: a value is missing in {text!r}")
    try:
        return Said(tuple(TYPES[name](word) for word in words), where)
    except ValueError:
        raise pytest.UsageError(f"{where}: {text!r} is not a number") from None


def check_options(config: pytest.Config) -> None:
    """Raises pytest.UsageError: the command line or the configuration file has a value of the wrong form."""
    for name in MANY:
        _configured(config, name)


def _check_keywords(owner: Any, mark: pytest.Mark) -> None:
    unknown = sorted(set(mark.kwargs) - {*BOOT, *PATCHED})
    if unknown or mark.args:
        what = repr(mark.args[0]) if mark.args else unknown[0]
        _refuse(owner, mark, f"takes the keywords {', '.join((*BOOT, *PATCHED))}, not {what}")


def _values(owner: Any, mark: pytest.Mark) -> tuple[Any, ...]:
    wanted = TYPES[mark.name]
    if mark.kwargs or not mark.args:
        _refuse(owner, mark, f"takes one value or several, as in {mark.name}({DEFAULTS[mark.name]!r})")
    for value in mark.args:
        if type(value) is not wanted and not (mark.name == "machine" and _is_machine(value)):
            _refuse(owner, mark, f"takes values of type {wanted.__name__}, not {value!r}")
    return mark.args


def _is_machine(value: Any) -> bool:
    return isinstance(value, os.PathLike) or hasattr(value, "modules")


def _refuse(owner: Any, mark: pytest.Mark, why: str) -> None:
    pytest.fail(f"{_where(owner, mark)}: pytest.mark.{mark.name} {why}", pytrace=False)


def _where(owner: Any, mark: pytest.Mark) -> str:
    """``FILE:LINE`` of a mark: its line in the source of what it marks, as far as that can be found."""
    path = getattr(owner, "path", None)
    obj = getattr(owner, "obj", None)
    if obj is None or path is None:
        return owner.nodeid or "the configuration"
    try:
        lines, first = inspect.getsourcelines(inspect.unwrap(obj))
    except (OSError, TypeError):
        return str(path)
    here = not isinstance(owner, pytest.Module)  # a module's marks come after this name, others where they start
    for n, line in enumerate(lines, first or 1):
        here = here or "pytestmark" in line
        if here and f"mark.{mark.name}" in line:
            return f"{path}:{n}"
    return f"{path}:{first or 1}"


def parametrize(metafunc: pytest.Metafunc) -> None:
    """An option with several values: the test is made once for each. What is wrong is told when the test runs."""
    try:
        sayings = said(metafunc.definition)
    except pytest.fail.Exception:
        return
    for name, one in sayings.items():
        fixture = f"kernel_{name}"
        if len(one.values) > 1 and fixture in metafunc.fixturenames:
            given = [m for m in metafunc.definition.iter_markers("parametrize") if fixture in str(m.args[:1])]
            if not given:
                metafunc.parametrize(fixture, one.values, ids=[str(value) for value in one.values])


def boot_options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """
    The keywords of ``start()`` for a test: what its marks and parameters say.

    Fails with a sentence: several values where the test cannot be made several times.
    """
    item = request.node
    chosen = getattr(getattr(item, "callspec", None), "params", {})
    options: dict[str, Any] = {"real_files": FAKES.isdisjoint(request.fixturenames)}
    sayings = said(item)
    options["place_of"] = lambda name: sayings[name].where if name in sayings else name
    for name, one in sayings.items():
        if f"kernel_{name}" in chosen:
            options[name] = chosen[f"kernel_{name}"]
        elif len(one.values) == 1:
            options[name] = one.values[0]
        else:
            pytest.fail(
                f"{one.where}: several values of {name} need a test that names the fixture 'kernel' among its "
                f"arguments or by usefixtures, and is no method of a unittest.TestCase",
                pytrace=False,
            )
    options["machine"] = _beside(options["machine"], Path(item.path))
    return options


def order_hint(item: pytest.Item) -> str:
    """What to say with a leak when fixtures of *item* end after the fixture 'kernel', which they do not take."""
    info: Any = getattr(item, "_fixtureinfo", None)
    if info is None:
        return ""
    defs: dict[str, Any] = {name: found[-1] for name, found in info.name2fixturedefs.items()}
    before = itertools.takewhile(lambda name: name != "kernel", info.names_closure)
    older = [name for name in before if name in defs and _ends_late(name, defs)]
    if not older:
        return ""
    return (
        f"\n(Fixtures that are older than 'kernel' end after it: {', '.join(older)}. "
        f"One that gives back what the test took has to take 'kernel'.)"
    )


def _ends_late(name: str, defs: dict[str, Any]) -> bool:
    """Whether a fixture of the tests' own does something at its end, and nothing holds the fixture 'kernel' for it."""
    fixture = defs[name]
    has_end = inspect.isgeneratorfunction(fixture.func) or inspect.isasyncgenfunction(fixture.func)
    if not has_end or fixture.scope != "function" or fixture.func.__module__.startswith(PLUGINS):
        return False
    taken, todo = set[str](), [name]
    while todo:
        more = {arg for arg in getattr(defs.get(todo.pop()), "argnames", ()) if arg not in taken}
        taken |= more
        todo += more
    return "kernel" not in taken


def _beside(machine: Any, test: Path) -> Any:
    """A machine's file may lie beside the test that names it."""
    is_file = isinstance(machine, os.PathLike) or (isinstance(machine, str) and machine.endswith(".toml"))
    if is_file and not Path(machine).exists():
        near = test.parent / machine
        return near if near.exists() else machine
    return machine
