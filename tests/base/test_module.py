"""Modules: loading with what they need, parameters, references, removal, /sys/module and /proc/modules."""

from __future__ import annotations

import re
from errno import EBUSY, EEXIST, EINVAL, EIO, ENOENT, ENOSPC, EPERM, ERANGE, EWOULDBLOCK
from pathlib import Path

import pytest

from pykernel.base.module import Module, Param
from pykernel.base.params import next_arg
from pykernel.errors import err
from pykernel.machine import Machine
from pykernel.start import boot

RECORDED = Path(__file__).parents[1] / "conformance/data"


class Lower(Module):
    name_ = "lower"
    size = 4096


class Upper(Module):
    name_ = "upper"
    depends = ("lower",)
    version = "1.2"
    params = (
        Param("flag", "bool", default=False, mode=0o644),
        Param("fixed", "bool", default=True),
        Param("hidden", "int", 5, 0),
        Param("limit", "uint", 65535, 0o644),
        Param("name", "charp", "x", 0o644),
        Param("small", "byte", 0, 0o644),
    )
    log: tuple[str, ...] = ()

    def init(self):
        self.log = ("init",)

    def exit(self):
        self.log += ("exit",)


class Second(Upper):
    name_ = "second"


class Broken(Module):
    name_ = "broken"
    depends = ("lower",)

    def init(self):
        raise err(EIO)


def finder(cls):
    return lambda: cls


def prepared(profile="linux-6.1"):
    kernel = boot(Machine("bare"), profile)
    kernel.up()
    for cls in (Lower, Upper, Second, Broken):
        kernel.modules.add(cls.name_, finder(cls))
    return kernel


@pytest.fixture
def kernel():
    return prepared()


def errno_of(fn, *args):
    with pytest.raises(OSError, match="Errno") as e:
        fn(*args)
    return e.value.errno


def said(kernel):
    return kernel.log.records[-1].level, kernel.log.records[-1].text


def rows(kernel):
    return [r for r in kernel.process().read_text("/proc/modules").splitlines() if not r.startswith("pci_stub")]


def test_modprobe_loads_what_a_module_needs(kernel):
    upper = kernel.modules.modprobe("upper")
    p = kernel.process()
    assert (upper.state, upper.log) == ("live", ("init",))
    assert p.readlink("/sys/module/lower/holders/upper") == "../../upper"
    assert p.read_text("/sys/module/lower/refcnt") == "1\n"
    assert kernel.modules.modprobe("upper", "flag=1") is upper
    assert upper.param["flag"] is False, "a loaded module is left as it is"
    assert errno_of(kernel.modules.init_module, "upper") == EEXIST
    assert errno_of(kernel.modules.modprobe, "nothing") == ENOENT


def test_modprobe_and_rmmod_are_a_first_look_at_the_machine():
    """The machine boots, and then there are modules."""
    kernel = boot("mdev")
    assert kernel.modules.modprobe("vfio_pci").state == "live"
    kernel = boot("mdev")
    kernel.modules.rmmod("mtty")
    assert kernel.is_up
    assert "mtty" not in kernel.process().listdir("/sys/module")


def test_parameters_as_keywords(kernel):
    upper = kernel.modules.modprobe("upper", "limit=2 flag=0", flag=True, name="a b", limit=3)
    assert (upper.param["flag"], upper.param["name"], upper.param["limit"]) == (True, "a b", 3)


def test_a_command_line_is_no_name_and_the_note_says_what_to_write(kernel):
    with pytest.raises(FileNotFoundError) as e:
        kernel.modules.modprobe("upper limit=3")
    assert e.value.__notes__ == ['no module \'upper limit=3\': its arguments come second: modprobe("upper", "limit=3")']


def test_proc_modules_lists_last_loaded_first(kernel):
    """kernel/module/procfs.c:m_show(); source_list has the newest user first."""
    kernel.modules.modprobe("upper")
    kernel.modules.modprobe("second")
    assert rows(kernel) == [
        "second 16384 0 - Live 0x0000000000000000",
        "upper 16384 0 - Live 0x0000000000000000",
        "lower 4096 2 second,upper, Live 0x0000000000000000",
    ]


def test_proc_modules_names_states(kernel, monkeypatch):
    seen = {}

    def look(key):
        return lambda self: seen.update({key: (rows(kernel)[0].split()[4], self.state)})

    monkeypatch.setattr(Lower, "init", look("init"))
    monkeypatch.setattr(Lower, "exit", look("exit"))
    kernel.modules.modprobe("lower")
    kernel.modules.rmmod("lower")
    assert seen == {"init": ("Loading", "coming"), "exit": ("Unloading", "going")}


def test_directory_of_a_module(kernel):
    kernel.modules.modprobe("upper")
    p = kernel.process()
    assert sorted(p.listdir("/sys/module/upper")) == sorted(
        [
            "coresize",
            "holders",
            "initsize",
            "initstate",
            "notes",
            "parameters",
            "refcnt",
            "sections",
            "srcversion",
            "taint",
            "uevent",
            "version",
        ]
    )
    assert [
        p.read_text(f"/sys/module/upper/{n}") for n in ("coresize", "initsize", "initstate", "taint", "version")
    ] == [
        "16384\n",
        "0\n",
        "live\n",
        "\n",
        "1.2\n",
    ]
    assert re.fullmatch(r"[0-9A-F]{23}\n", p.read_text("/sys/module/upper/srcversion"))
    assert p.read_text("/sys/module/upper/sections/.text") == "0x0000000000000000\n"
    assert sorted(p.listdir("/sys/module/lower")) == sorted(
        ["coresize", "holders", "initsize", "initstate", "notes", "refcnt", "sections", "taint", "uevent"]
    )


def test_uevents_of_a_module(kernel, request):
    from pykernel.base.uevent import Uevents

    found = []
    kernel.sub(Uevents).subscribe(lambda _a, _p, env: found.append((env["ACTION"], env["DEVPATH"], env["SUBSYSTEM"])))
    kernel.modules.modprobe("lower")
    kernel.process().write_text("/sys/module/lower/uevent", "change")
    kernel.modules.rmmod("lower")
    assert found == [(a, "/module/lower", "module") for a in ("add", "change", "remove")]


def test_rmmod_refusals(kernel):
    m = kernel.modules
    upper = m.modprobe("upper")
    assert errno_of(m.rmmod, "nothing") == ENOENT
    assert errno_of(m.rmmod, "lower") == EWOULDBLOCK
    upper.get_ref()
    assert errno_of(m.rmmod, "upper") == EWOULDBLOCK
    upper.put_ref()
    m.rmmod("upper")
    assert upper.log == ("init", "exit")
    m.rmmod("lower")
    assert rows(kernel) == []
    assert not {"upper", "lower"} & set(kernel.process().listdir("/sys/module"))


def test_a_module_that_is_going_is_ebusy(kernel, monkeypatch):
    codes = []
    monkeypatch.setattr(Lower, "exit", lambda _self: codes.append(errno_of(kernel.modules.rmmod, "lower")))
    kernel.modules.modprobe("lower")
    kernel.modules.rmmod("lower")
    assert codes == [EBUSY]


def test_loading_and_unloading_need_cap_sys_module(kernel):
    kernel.modules.modprobe("lower")
    user = kernel.process(uid=1000)
    with kernel.as_task(user.task):
        assert errno_of(kernel.modules.rmmod, "lower") == EPERM
        assert errno_of(kernel.modules.modprobe, "upper") == EPERM


def test_a_module_whose_init_fails_is_not_there_but_what_it_needs_is(kernel):
    assert errno_of(kernel.modules.modprobe, "broken") == EIO
    assert rows(kernel) == ["lower 4096 0 - Live 0x0000000000000000"]
    assert kernel.process().listdir("/sys/module/lower/holders") == []
    kernel.modules.rmmod("lower")


def test_parameters_at_load(kernel):
    upper = kernel.modules.modprobe("upper", 'flag limit=0x10 name="a b"  fixed=n hidden=-3')
    assert upper.param == {"flag": True, "fixed": False, "hidden": -3, "limit": 16, "name": "a b", "small": 0}
    p = kernel.process()
    assert sorted(p.listdir("/sys/module/upper/parameters")) == ["fixed", "flag", "limit", "name", "small"]
    assert oct(p.stat("/sys/module/upper/parameters/fixed").st_mode & 0o777) == "0o444"


def test_options_come_before_arguments_and_for_needed_modules_too(kernel):
    kernel.modules.options["upper"] = "limit=1 name=opt"
    upper = kernel.modules.modprobe("upper", "limit=2")
    assert (upper.param["limit"], upper.param["name"]) == (2, "opt")


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ("limit=x", EINVAL, "upper: `x' invalid for parameter `limit'"),
        ("limit", EINVAL, "upper: `' invalid for parameter `limit'"),
        ("limit=4294967296", ERANGE, "upper: `4294967296' invalid for parameter `limit'"),
        ("small=256", ERANGE, "upper: `256' invalid for parameter `small'"),
        ("flag=2", EINVAL, "upper: `2' invalid for parameter `flag'"),
        ("name=" + "n" * 1025, ENOSPC, "upper: `" + "n" * 1025 + "' too large for parameter `name'"),
    ],
)
def test_a_refused_value_ends_the_load(kernel, args, code, message):
    """kernel/params.c:parse_args()."""
    assert errno_of(kernel.modules.modprobe, "upper", args) == code
    assert said(kernel) == (3, message)
    assert "upper" not in kernel.process().listdir("/sys/module")


def test_unknown_parameters_are_warned_of_but_not_those_of_the_core(kernel):
    kernel.modules.modprobe("upper", "async_probe=1 dyndbg=+p fl-ag=1 nope=1 flag=1")
    assert [r.text for r in kernel.log.records if "unknown parameter" in r.text] == [
        "upper: unknown parameter 'fl-ag' ignored",
        "upper: unknown parameter 'nope' ignored",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("  a  b=1 ", [("a", None), ("b", "1")]),
        ('a="x y" b', [("a", "x y"), ("b", None)]),
        ('"a=x y" b', [("a", "x y"), ("b", None)]),
        ('"a b"', [("a b", None)]),
        ("=x", [("=x", None)]),
        ("a==b", [("a", "=b")]),
        ('a=x" y"', [("a", 'x" y"')]),
    ],
)
def test_next_arg(text, words):
    """lib/cmdline.c:next_arg(), traced by hand."""
    assert list(next_arg(text)) == words


def recorded(version, name):
    text = (RECORDED / f"driver-core-linux-{version}.txt").read_text("utf-8")
    return re.findall(rf"^\d+ {name} <- ('.*?'|\".*?\")(?: \(\d+\))?: (.*)$", text, re.MULTILINE)


@pytest.mark.parametrize("version", ["6.1", "6.12"])
@pytest.mark.parametrize(("file", "parameter"), [("allow_unsafe_interrupts", "flag"), ("dma_entry_limit", "limit")])
def test_stores_answer_as_recorded(version, file, parameter):
    """vfio_iommu_type1's parameters of a real kernel: each write's count or errno, and what the file shows then."""
    kernel = prepared(f"linux-{version}")
    kernel.modules.modprobe("upper")
    p = kernel.process()
    path = f"/sys/module/upper/parameters/{parameter}"
    cases = recorded(version, file)
    assert len(cases) > 25
    for text, answer in cases:
        data = eval(text).encode("latin-1")
        fd = p.open(path, 1)
        try:
            count = p.write(fd, data)
        except OSError as e:
            import errno

            got = repr(errno.errorcode[e.errno or 0])
        else:
            shown = p.read_text(path)
            got = f"({count}, {shown!r})" if answer.startswith("(") else repr(count)
        p.close(fd)
        assert got == answer, text


def test_a_string_keeps_its_newline(kernel):
    """kernel/params.c:param_set_charp() copies what it is given."""
    kernel.modules.modprobe("upper")
    p = kernel.process()
    p.write_text("/sys/module/upper/parameters/name", "abc\n")
    assert p.read_text("/sys/module/upper/parameters/name") == "abc\n\n"
    with pytest.raises(OSError, match=f"Errno {ENOSPC}"):
        p.write_text("/sys/module/upper/parameters/name", "n" * 1025)
    assert said(kernel) == (3, "name: string parameter too long")


def test_dashes_in_names_are_underscores(kernel):
    kernel.modules.add("with-dash", lambda: Lower)
    assert kernel.modules.modprobe("with-dash").name == "lower"
