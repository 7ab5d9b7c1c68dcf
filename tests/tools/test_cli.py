"""The command line as a whole: help, errors, exit statuses, speed of import."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module

import click
import pytest

import pykernel as package
from pykernel.machine import DRIVERS, built_in_names
from pykernel.profile import CONFIG, IOMMUFD_CONFIG
from pykernel.tools.cli import COMMANDS

PATH = "; or the path of a .py file"
KNOWN = f"known: {', '.join(sorted(DRIVERS))}"
WHAT = "give the name of a module, and its parameters"


def one_sentence(done: subprocess.CompletedProcess) -> str:
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.rstrip("\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_is_there_and_says_what_the_table_says(name):
    command = import_module(f"pykernel.tools.{COMMANDS[name][0]}").command

    assert isinstance(command, click.Command)
    assert COMMANDS[name][1].endswith(".")
    assert len((command.help or "").split()) > 5


@pytest.mark.parametrize("argv", [["--help"], ["-h"], []], ids=str)
def test_help_names_every_command_and_gives_examples(pykernel, argv):
    done = pykernel(*argv)

    text = done.stdout + done.stderr
    assert all(f"\n  {name}" in text for name in COMMANDS)
    assert "pykernel run -- accel-config list" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(pykernel, name):
    done = pykernel(name, "--help")

    assert done.returncode == 0
    assert done.stdout.startswith(f"Usage: pykernel {name}")


def test_version(pykernel):
    assert pykernel("--version").stdout == f"pykernel, version {package.__version__}\n"


@pytest.mark.parametrize(
    ("argv", "status", "sentence"),
    [
        (["nothing"], 2, "pykernel: No such command 'nothing'; see pykernel --help"),
        (["run"], 2, "pykernel run: Missing argument '-- CMD...'; see pykernel run --help"),
        (["run", "--", "/no/such/program"], 127, "pykernel: /no/such/program: No such file or directory"),
        (["run", "--", "/dev/null"], 126, "pykernel: /dev/null: Permission denied"),
        (
            ["dmesg", "--machine", "toaster"],
            1,
            f"pykernel: no machine 'toaster': one of {', '.join(built_in_names())}, or the path of a .toml file",
        ),
        (["dmesg", "-m", "/no/file.toml"], 1, "pykernel: /no/file.toml: No such file or directory"),
        (
            ["dmesg", "--profile", "linux-2.4"],
            1,
            "pykernel: no profile 'linux-2.4'; known: linux-6.1, linux-6.12, linux-7.2",
        ),
        (
            ["dmesg", "--config", "X=maybe"],
            1,
            "pykernel: --config 'X=maybe': give CONFIG_NAME to set it, or CONFIG_NAME=n to unset it",
        ),
        (["run", "--modprobe", "nope", "--", "true"], 1, f"pykernel: module nope: no such module; {KNOWN}{PATH}"),
        (["run", "--modprobe", " ", "--", "true"], 1, f"pykernel: --modprobe ' ': {WHAT}"),
        (
            ["run", "--modprobe", "idxd sva=zz", "--", "true"],
            1,
            "pykernel: module idxd: 'zz' is no bool for parameter 'sva'",
        ),
        (
            ["run", "--modprobe", "idxd  sav=0", "--", "true"],
            1,
            "pykernel: module idxd: no parameter 'sav'; known: sva, tc_override",
        ),
        (
            ["run", "--config", "foo", "--", "true"],
            1,
            f"pykernel: no configuration option CONFIG_foo; known: {', '.join(sorted(CONFIG - IOMMUFD_CONFIG))}",
        ),
        (["trace", "/no/trace"], 1, "pykernel: /no/trace: No such file or directory"),
        (["run", "--trace", "/no/dir/t", "--", "true"], 1, "pykernel: /no/dir/t: No such file or directory"),
        (["run", "--as", "Nobody!", "--", "true"], 125, "pykernel: no user 'Nobody!' on this host"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else None,
)  # fmt: skip
def test_what_goes_wrong_is_one_sentence(pykernel, argv, status, sentence):
    done = pykernel(*argv)

    if "run" in argv and "fuse" in done.stderr:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no /dev/fuse here")
    assert one_sentence(done) == sentence
    assert done.returncode == status


def test_an_unknown_option_is_named(pykernel):
    assert re.fullmatch(
        r"pykernel tree: No such option:? '?--frobnicate'?; see pykernel tree --help",
        one_sentence(pykernel("tree", "--frobnicate")),
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[cpu]\ncount = 2\nsocks = 1\n", ":3: cpu.socks: unknown key; known: count, movdir64b, enqcmd"),
        ('\n[[pci]]\nmodel = "dsa"\naddress = "6a"\n', ":4: pci.address: '6a' is no PCI address like \"0000:6a:01.0\""),
        ("[[pci]\n", ":1: not TOML: "),
    ],
    ids=["unknown key", "bad value", "not TOML"],
)
def test_a_bad_machine_file_is_named_with_its_line_and_key(pykernel, tmp_path, text, sentence):
    file = tmp_path / "bad.toml"
    file.write_text(text)

    assert one_sentence(pykernel("tree", "--machine", str(file))).startswith(f"pykernel: {file}{sentence}")


def test_no_output_after_the_reader_has_gone():
    """``pykernel dmesg | head -0``: no traceback, and the exit status tells."""
    with subprocess.Popen(
        [sys.executable, "-m", "pykernel.tools.cli", "ioctls", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as p:
        assert p.stdout is not None
        assert p.stderr is not None
        p.stdout.close()
        errors = p.stderr.read()

    assert errors == b""
    assert p.returncode == 1


def test_the_command_line_loads_nothing_that_it_does_not_use():
    """rich, structlog, pyfakefs and hypothesis cost tens of milliseconds: `run` must not pay for them."""
    code = (
        "import sys, pykernel, pykernel.tools.cli, pykernel.tools.run\n"
        "k = pykernel.boot('dsa'); k.up()\n"
        "print(sorted({'rich', 'structlog', 'pyfakefs', 'cffi', 'asyncio', 'pytest'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


VFIO = ("vfio", "iommufd", "mdev")
FULL = ("vfio.main", "vfio.pci.core", "iommufd", "drivers.mtty.device")  # what only a device of VFIO needs


@pytest.mark.parametrize(
    ("machine", "unused"),
    [("dsa", (*VFIO, "drivers.vfio_pci", "uapi.linux.vfio")), ("full", FULL)],
    ids=["dsa", "full"],
)
def test_a_machine_imports_vfio_when_a_device_is_given_to_it(machine, unused):
    """No code of VFIO for a machine without it, none of its devices where modules are loaded; no struct is laid out."""
    code = (
        f"import sys\nfrom pykernel.tools.cli import main\nsys.argv[1:] = ['run', '-m', {machine!r}, '--', 'true']\n"
        "try:\n    main()\nfinally:\n    print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    imported = done.stdout.split()
    assert "pykernel.drivers.idxd.init" in imported
    names = tuple(f"pykernel.{name}" for name in unused)
    assert [m for m in imported if m in names or m.startswith(tuple(f"{n}." for n in names))] == []
    assert {"cffi", "hashlib"}.isdisjoint(imported)


@pytest.mark.parametrize(("profile", "status"), [("linux-6.1", 1), ("linux-7.2", 0)])
def test_a_parameters_value_is_judged_as_that_kernel_does(pykernel, profile, status):
    """lib/kstrtox.c:kstrtobool() takes "e" and "d" in newer kernels only."""
    assert pykernel("dmesg", "--profile", profile, "--modprobe", "idxd sva=e").returncode == status
