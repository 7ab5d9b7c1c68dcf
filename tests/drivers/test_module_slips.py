"""A module that somebody is writing: what is wrong is told in one sentence, or is an oops; the kernel goes on."""

from __future__ import annotations

import sys
from errno import EIO, ENOENT

import pytest
from errnos import errno_of

import pykernel
from pykernel.machine import Machine, MachineError

MODULE = """
from errno import ENODEV
from pykernel.base.module import Module, Param
from pykernel.errors import err

class Card(Module):
    name_ = "my_card"
    params = (Param("who", "charp", "world"),)
    depends = ()

    def init(self):
        self.kernel.log.printk(6, f"hello {self.param['who']}")

    def exit(self):
        pass
"""
INIT = """self.kernel.log.printk(6, f"hello {self.param['who']}")"""


@pytest.fixture
def bare():
    """A kernel without devices."""
    kernel = pykernel.boot(Machine("bare"))
    kernel.up()
    return kernel


@pytest.fixture
def card(tmp_path):
    """``card(old, new)``: the path of the module with *new* in place of *old*."""

    def card(old: str = "", new: str = "") -> str:
        (tmp_path / "card.py").write_text(MODULE.replace(old, new))
        return str(tmp_path / "card.py")

    return card


@pytest.fixture
def package(tmp_path, monkeypatch):
    """``package(points, text)``: a package with these entry points, whose ``vendor_mod`` has *text*."""

    def package(points: str, text: str) -> None:
        meta = tmp_path / "vendor-1.dist-info"
        meta.mkdir()
        (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: vendor\nVersion: 1\n")
        (meta / "entry_points.txt").write_text(f"[pykernel.modules]\n{points}\n")
        (tmp_path / "vendor_mod.py").write_text(text)

    monkeypatch.syspath_prepend(tmp_path)
    yield package
    sys.modules.pop("vendor_mod", None)


@pytest.mark.parametrize(
    ("line", "oops"),
    [
        ("no_such_name", r"name 'no_such_name' is not defined"),
        ("return -ENODEV", r"^Card.init\(\) returned -19: raise err\(ENODEV\)$"),
        ("return self", r"^Card.init\(\) returned .*: it must return nothing$"),
        ("raise OSError('text')", r"^text$"),
        ("raise err(-ENODEV)", r"raise err\(ENODEV\)$"),
        ("raise SystemExit(3)", r"^3$"),
    ],
)
def test_a_slip_in_init_is_an_oops_and_the_module_is_not_loaded(bare, card, line, oops):
    assert errno_of(bare.modules.modprobe, card(INIT, line)) == EIO
    with pytest.raises(BaseException, match=oops):
        raise bare.oopses[0]
    assert bare.modules.loaded.keys() == {"pci_stub"}
    assert "my_card" not in bare.process().listdir("/sys/module")
    assert errno_of(bare.modules.modprobe, card()) == 0


def test_the_kernel_comes_up_when_a_module_of_the_machine_has_a_slip(tmp_path, card):
    card(INIT, "no_such_name")
    (tmp_path / "m.toml").write_text('[modules]\n"./card.py" = ""\nidxd = ""\n')
    kernel = pykernel.boot(str(tmp_path / "m.toml"))
    kernel.up()
    assert "idxd" in kernel.modules.loaded
    log = kernel.log.human()
    assert "card.py: Input/output error" in log
    assert "NameError: name 'no_such_name' is not defined" in log


@pytest.mark.parametrize("line", ["no_such_name", "return -ENODEV", "raise err(ENODEV)", "raise SystemExit(3)"])
def test_a_slip_in_exit_is_an_oops_and_the_module_goes(bare, card, line):
    bare.modules.modprobe(card("        pass", f"        {line}"))
    assert errno_of(bare.modules.rmmod, "my_card") == EIO
    assert len(bare.oopses) == 1
    assert "my_card" not in bare.process().read_text("/proc/modules")
    assert errno_of(bare.modules.rmmod, "my_card") == ENOENT
    assert errno_of(bare.modules.modprobe, card()) == 0


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('    name_ = "my_card"\n', "", r"Card\.name_ must be a string of letters, .*, not None$"),
        ('"my_card"', "None", r"Card\.name_ must be .*, not None$"),
        ('"my_card"', '"a/b"', r"Card\.name_ must be .*, not 'a/b'$"),
        ('"my_card"', '"idxd"', r"there is a module idxd already: give it another name"),
        (
            '(Param("who", "charp", "world"),)',
            'Param("who", "charp", "world")',
            r"Card\.params must be a tuple of Param",
        ),
        ('(Param("who", "charp", "world"),)', '("who",)', r"Card\.params must be a tuple of Param, not \('who',\)$"),
        ('"charp"', '"text"', r"Card\.params: who: no type 'text'; known: bool, charp, byte"),
        ("depends = ()", 'depends = "idxd"', r"Card\.depends must be a tuple of names"),
        ("depends = ()", 'depends = ("my-card",)', r"Card\.depends: a module cannot need itself$"),
    ],
)
def test_a_class_that_cannot_be_a_module_is_told_in_one_sentence(tmp_path, bare, card, old, new, said):
    path = card(old, new)
    bare.modules.modprobe("idxd")
    with pytest.raises(ValueError, match=rf"^{path}: .*{said}|^{path}: {said}"):
        bare.modules.modprobe(path)
    (tmp_path / "m.toml").write_text('[modules]\n"./card.py" = ""\n')
    with pytest.raises(
        MachineError, match=rf"m\.toml:2: modules.*card\.py: .*{said}|m\.toml:2: modules.*card\.py: {said}"
    ):
        pykernel.boot(str(tmp_path / "m.toml"))


def test_what_is_missing_is_named(tmp_path, card):
    card("depends = ()", 'depends = ("no_such",)')
    (tmp_path / "m.toml").write_text('[modules]\n"./card.py" = ""\n')
    kernel = pykernel.boot(str(tmp_path / "m.toml"))
    kernel.up()
    assert "card.py: needs module no_such: No such file or directory" in kernel.log.human()
    assert kernel.oopses == []


def test_modules_that_need_each_other(bare, tmp_path):
    for name, other in (("one", "two"), ("two", "one")):
        (tmp_path / f"{name}.py").write_text(MODULE.replace("my_card", name).replace("()\n", f'("{other}",)\n', 1))
        bare.modules.find(str(tmp_path / f"{name}.py"))
    with pytest.raises(ValueError, match=r"^module one needs itself: one -> two -> one$"):
        bare.modules.modprobe("one")
    assert bare.modules.loaded.keys() == {"pci_stub"}


def test_by_its_name_too_an_edited_module_is_the_new_one(bare, card):
    bare.modules.modprobe(card())
    bare.modules.rmmod("my_card")
    card("hello {", "good morning {")
    bare.modules.modprobe("my-card")
    assert "good morning world" in bare.log.human()


@pytest.mark.parametrize("name", ["ep-dash", "ep_dash"])
@pytest.mark.parametrize("point", ["ep-dash", "ep_dash"])
def test_an_entry_point_is_found_under_both_spellings(bare, package, point, name):
    package(f"{point} = vendor_mod:Card", MODULE.replace("my_card", "ep_dash"))
    bare.modules.modprobe(name)
    assert "ep_dash" in bare.modules.loaded
    assert "ep_dash" in bare.modules.names()
    bare.modules.rmmod("ep-dash")


def test_an_entry_point_may_have_another_name_than_its_module(bare, package):
    package("vendor = vendor_mod:Card", MODULE)
    assert bare.modules.modprobe("vendor") is bare.modules.modprobe("vendor")
    bare.modules.rmmod("my_card")
    assert "my_card" not in bare.modules.loaded


@pytest.mark.parametrize(
    ("point", "said"),
    [
        ("ep = no_such_mod:X", r"entry point ep = no_such_mod:X: ModuleNotFoundError: No module named 'no_such_mod'"),
        ("ep = vendor_mod:X", r"entry point ep = vendor_mod:X: AttributeError: .*'X'"),
        ("ep = vendor_mod:err", r"entry point ep: <function err.*> is no class that is a Module"),
    ],
)
def test_a_broken_entry_point_is_told_in_one_sentence(tmp_path, bare, package, point, said):
    package(point, MODULE)
    with pytest.raises(ValueError, match=f"^{said}"):
        bare.modules.modprobe("ep")
    (tmp_path / "m.toml").write_text('[modules]\nep = ""\n')
    with pytest.raises(MachineError, match=rf"m\.toml:2: modules\.ep: {said}"):
        pykernel.boot(str(tmp_path / "m.toml"))


SILICON = """
from pykernel.pci.function import PciFunction

class Card(PciFunction):
    def __init__(self) -> None:
        1 / 0
"""


def test_silicon_that_fails_is_told_with_both_lines(tmp_path):
    (tmp_path / "card.py").write_text(SILICON)
    (tmp_path / "m.toml").write_text('[[pci]]\nmodel = "./card.py"\n')
    with pytest.raises(
        MachineError, match=r"m\.toml:2: pci\.model: .*card\.py:6: ZeroDivisionError: division by zero$"
    ):
        pykernel.boot(str(tmp_path / "m.toml"))


def test_a_null_byte_is_told_with_its_line(tmp_path, bare):
    (tmp_path / "card.py").write_bytes(b"x = 1\ny = \0 2\n")
    with pytest.raises(ValueError, match=r"card\.py:2: a null byte$"):
        bare.modules.modprobe(str(tmp_path / "card.py"))
