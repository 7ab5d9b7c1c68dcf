"""Machine files: what they say, and one sentence with file, line and key for what is wrong in them."""

from __future__ import annotations

import subprocess
import sys

import pytest

import pykernel
from pykernel.machine import Cpu, IommuSpec, MachineError, PciSpec, built_in_names, load, parse


def test_all_keys():
    m = parse(
        """
name = "lab"
cmdline = "quiet"
memory = "512M"
[cpu]
count = 4
enqcmd = false
[iommu]
sva = false
pasid_bits = 8
[modules]
idxd = "sva=0"
[[pci]]
model = "dsa"
address = "0000:6a:01.0"
[[pci]]
model = "edu"
""",
        "x.toml",
    )
    assert (m.name, m.cmdline, m.cpus, m.cpu) == ("lab", "quiet", 4, Cpu(4, movdir64b=True, enqcmd=False))
    assert m.iommu == IommuSpec(enabled=True, sva=False, pasid_bits=8)
    assert (m.memory, parse("").memory) == (512 << 20, 4 << 30)
    assert m.modules == {"idxd": "sva=0"}
    assert [(s.model, s.address) for s in m.pci] == [("dsa", "0000:6a:01.0"), ("edu", "0000:6b:01.0")]
    assert m.pci[0] == PciSpec("dsa", "0000:6a:01.0", {}, 13)


def test_nothing_is_a_machine_too():
    m = parse("", "/some/where/empty.toml")
    assert (m.name, m.pci, m.cpus) == ("empty", (), 2)


BAD = [
    ("name = 5", "x.toml:1: name: must be a string, not 5"),
    ("\nnmae = 'x'", "x.toml:2: nmae: unknown key; known: name, cmdline, cpu, iommu, pci, modules"),
    ("memory = 4", "x.toml:1: memory: must be a string, not 4"),
    ("\nmemory = '4GB'", "x.toml:2: memory: must be 16M to 1T, as in \"4G\", not '4GB'"),
    ("memory = '15M'", "x.toml:1: memory: must be 16M to 1T, as in \"4G\", not '15M'"),
    ("memory = '2T'", "x.toml:1: memory: must be 16M to 1T, as in \"4G\", not '2T'"),
    ("memory = ''", "x.toml:1: memory: must be 16M to 1T, as in \"4G\", not ''"),
    ("[cpu]\n\ncount = true", "x.toml:3: cpu.count: must be a whole number, not True"),
    ("[cpu]\ncount = 0", "x.toml:2: cpu.count: must be 1 to 256"),
    ("[cpu]\nturbo = 1", "x.toml:2: cpu.turbo: unknown key; known: count, movdir64b, enqcmd"),
    ("[iommu]\nsva = 'yes'", "x.toml:2: iommu.sva: must be true or false, not 'yes'"),
    ("cpu = 3", "x.toml:1: cpu: must be a table, not 3"),
    ("pci = 'dsa'", "x.toml:1: pci: must be an array of tables, not 'dsa'"),
    ("pci = 3", "x.toml:1: pci: must be an array of tables, not 3"),
    ("name = 'x'\n[pci]\nmodel = 'dsa'", "x.toml:2: pci: must be an array of tables; write [[pci]]"),
    ("pci.model = 'dsa'", "x.toml:1: pci: must be an array of tables; write [[pci]]"),
    ("\n[[cpu]]\ncount = 1", "x.toml:2: cpu: must be a table, not [{'count': 1}]"),
    ("\n[name]", "x.toml:2: name: must be a string, not {}"),
    ("pci = ['dsa']", "x.toml:1: pci: must be a table: write [[pci]]"),
    ("[modules]\nidxd = 1", "x.toml:2: modules.idxd: must be a string, not 1"),
    ("[modules]\nidxd = ''\nnope = ''", "x.toml:3: modules.nope: no such module; known: idxd, idxd_bus"),
    ("[modules]\n\n'idxd' = 'sva=zz'", "x.toml:3: modules.idxd: 'zz' is no bool for parameter 'sva'"),
    ("[modules]\nidxd = 'sva='", "x.toml:2: modules.idxd: '' is no bool for parameter 'sva'"),
    ("[modules]\nidxd = 'sav=1'", "x.toml:2: modules.idxd: no parameter 'sav'; known: sva, tc_override"),
    ("[modules]\npci_stub = 'ids'", "x.toml:2: modules.pci_stub: '' is no charp for parameter 'ids'"),
    ("\nmodules.nope = ''", "x.toml:2: modules.nope: no such module"),
    ("\nmodules = {nope = ''}", "x.toml:2: modules.nope: no such module"),
    ("[[pci]]\nmodel = 3", "x.toml:2: pci.model: must be a string, not 3"),
    ("\npci = [{model = 3}]", "x.toml:2: pci.model: must be a string, not 3"),
    ("[[pci]]\naddress = '0000:6a:01.0'", 'x.toml:1: pci.model: is missing: which silicon, as in model = "dsa"'),
    ("[[pci]]\nmodel='dsa'\naddress='6a:1'", "x.toml:3: pci.address: '6a:1' is no PCI address like \"0000:6a:01.0\""),
    (
        "[[pci]]\nmodel='dsa'\naddress='0000:6a:01.0'\n[[pci]]  # two\nmodel='iax'\naddress='0000:6a:01.0'",
        "x.toml:6: pci.address: 0000:6a:01.0 is taken",
    ),
    ("a = = 1", "x.toml:1: not TOML"),
    ("[[pci]]\nmodel='toaster'", "x.toml:2: pci.model: "),
    ("[[pci]]\nmodel='dsa'\ngroups='many'", "x.toml:3: pci.groups: "),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_an_error_names_file_line_and_key(text, message):
    with pytest.raises(MachineError) as e:
        parse(text, "x.toml")
    assert str(e.value).startswith(message)
    assert "\n" not in str(e.value)


def test_files_and_built_in_names(tmp_path):
    path = tmp_path / "my.toml"
    path.write_text("cmdline = 'x'")
    assert (load(str(path)).name, load(str(path)).cmdline) == ("my", "x")
    for name in built_in_names():
        assert load(name).modules
    with pytest.raises(MachineError, match=r"none.toml: No such file"):
        load(str(tmp_path / "none.toml"))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(MachineError, match="not a text file in UTF-8"):
        load(str(path))
    with pytest.raises(MachineError, match=r"no machine 'nothing': one of .*dsa"):
        load("nothing")


def test_boot_takes_a_machine_object():
    k = pykernel.boot(parse("[[pci]]\nmodel='edu'\n"))
    p = k.process()
    assert p.listdir("/sys/bus/pci/devices") == ["0000:6a:01.0"]
    p.exit()
    k.shutdown()


@pytest.mark.parametrize("args", ["", "  ", "sva", "sva=N", "tc-override=1 sva=on", "async_probe dyndbg=+p", 'sva="1"'])
def test_arguments_that_modprobe_takes_are_taken(args):
    assert parse(f"[modules]\nidxd = {args!r}").modules == {"idxd": args}


def test_reading_a_machine_without_arguments_imports_no_driver():
    code = (
        "import sys; from pykernel.machine import parse\n"
        "parse('[modules]\\nidxd = \"\"')\n"
        "print(sorted(m for m in sys.modules if m.startswith('pykernel.drivers.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
