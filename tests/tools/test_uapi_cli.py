"""``pykernel uapi``: what is printed, and the exit statuses."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pykernel.tools.uapi import command
from pykernel.tools.uapi.names import complete, complete_header
from pykernel.uapi import catalog


@pytest.fixture
def uapi():
    """``uapi("show", "x")`` runs the command in this process."""

    def call(*argv: str):
        done = CliRunner().invoke(command, argv, standalone_mode=False)
        if done.exception and not isinstance(done.exception, click.ClickException):
            raise done.exception
        return done

    return call


def sentence(done) -> str:
    """What the user is told when something is wrong."""
    assert done.exception is not None
    return done.exception.format_message()


@pytest.fixture(scope="session")
def written(tmp_path_factory) -> Path:
    """Our own headers, of Linux 7.3, with one word wrong in one of them."""
    where = tmp_path_factory.mktemp("headers")
    CliRunner().invoke(command, ["header", "-o", str(where)], catch_exceptions=False)
    (where / "linux/version.h").write_text(f"#define LINUX_VERSION_CODE {9 << 16}\n")
    path = where / "linux/eventfd.h"
    path.write_text(path.read_text().replace("EFD_SEMAPHORE (1 << 0)", "EFD_SEMAPHORE (1 << 1)"))
    return where


@pytest.mark.usefixtures("kernel_headers_here")
class TestCheck:
    def test_installed_headers_agree(self, pykernel):
        """The first line says which headers, the last how many facts; the exit status is 0."""
        done = pykernel("uapi", "check")

        first, *rows, last = done.stdout.splitlines()
        assert re.fullmatch(r"Linux \d+\.\d+(\.\d+)?, headers in the places where cc looks", first)
        assert [row.split()[0] for row in rows] == [
            next(iter(catalog.headers(m)), catalog.title(m)) for m in catalog.header_modules()
        ]
        assert re.fullmatch(r"\d+ headers, \d+ facts agree, 0 differences", last)
        assert (done.returncode, done.stderr) == (0, "")

    def test_a_difference_is_named_and_is_exit_status_1(self, pykernel, written):
        done = pykernel("uapi", "check", "--headers", str(written), "eventfd")

        assert done.stdout.splitlines() == [
            f"Linux 9.0, headers in {written}",
            "linux/eventfd.h  2 facts agree, 1 DIFFERENCE",
            "    EFD_SEMAPHORE: value is 0x2 in the header, 0x1 here",
            "1 header, 2 facts agree, 1 difference",
        ]
        assert (done.returncode, done.stderr) == (1, "")

    def test_names_that_are_newer_are_absent_and_listed_when_asked(self, uapi, tmp_path):
        """linux/eventpoll.h of 6.8, which had no ioctls."""
        (tmp_path / "linux").mkdir()
        text = uapi("header", "eventpoll").output
        old = re.sub(
            r"__extension__ struct epoll_params.*?};|#define EP(OLL_IOC|IOC)\w+.*?\n", "", text, flags=re.DOTALL
        )
        (tmp_path / "linux/eventpoll.h").write_text(old)

        asked = ("check", "--headers", str(tmp_path), "--kernel", "6.8", "eventpoll")
        done, told = uapi(*asked), uapi(*asked, "-v")
        assert done.output.splitlines()[1] == "linux/eventpoll.h  31 facts agree, 4 names absent (newer than 6.8)"
        assert told.output.splitlines()[2:-1] == [
            "    epoll_params: since Linux 6.9",
            "    EPOLL_IOC_TYPE: since Linux 6.9",
            "    EPIOCSPARAMS: since Linux 6.9",
            "    EPIOCGPARAMS: since Linux 6.9",
        ]
        assert done.return_value == 0

    def test_absent_header_is_an_error_when_named_and_when_its_age_is_no_excuse(self, uapi, tmp_path):
        """iommu.h was last in 6.8, vfio.h is older than 6.12, and vduse.h came with 5.15."""
        none = uapi("check", "--headers", str(tmp_path), "--kernel", "6.12")
        assert re.fullmatch(rf"none of \d+ headers is in {tmp_path}", sentence(none))
        assert none.output.count("not among these headers") > 3

        (tmp_path / "linux").mkdir()
        (tmp_path / "linux/eventfd.h").write_text(uapi("header", "eventfd").output)
        done = uapi("check", "--headers", str(tmp_path), "--kernel", "6.12")
        assert re.search(
            r"^linux/vfio\.h +not among these headers, 1 DIFFERENCE\n"
            r"    kernels of this age have it: \d+ of its names are known here$",
            done.output,
            re.MULTILINE,
        )
        assert re.search(r"^linux/iommu\.h +not among these headers$", done.output, re.MULTILINE)
        assert done.return_value == 1
        old = uapi("check", "--headers", str(tmp_path), "--kernel", "5.14")
        assert re.search(r"^linux/vduse\.h +not among these headers$", old.output, re.MULTILINE)

        named = uapi("check", "--headers", str(tmp_path), "--kernel", "6.1", "idxd")
        assert sentence(named) == f"no header linux/idxd.h in {tmp_path}"

    def test_header_that_linux_never_had_is_compared_with_its_own(self, uapi):
        done = uapi("check", "rfc/ioasid.h")
        row = done.output.splitlines()[1]
        assert re.fullmatch(
            r"rfc/ioasid\.h  never in Linux: nothing to compare with; "
            r"\d+ facts agree with the header that uapi header writes",
            row,
        )

    def test_header_that_does_not_compile_is_said_in_its_row(self, uapi, tmp_path):
        (tmp_path / "linux").mkdir()
        (tmp_path / "linux/idxd.h").write_text("struct {\n")
        done = uapi("check", "--headers", str(tmp_path), "--kernel", "6.1", "idxd")
        assert re.fullmatch(r"linux/idxd\.h  does not compile: .*expected.*", done.output.splitlines()[1])
        assert done.return_value == 1

    def test_names_of_later_kernels_are_counted_and_listed_when_asked(self, uapi, tmp_path):
        """pci_regs is made from 6.12."""
        (tmp_path / "linux").mkdir()
        (tmp_path / "linux/pci_regs.h").write_text(uapi("header", "pci_regs").output + "#define PCI_FROM_LATER 1\n")
        asked = ("check", "--headers", str(tmp_path), "--kernel", "7.9", "pci_regs")
        assert re.search(r"facts agree, .*1 name not known here$", uapi(*asked).output.splitlines()[1])
        assert "    PCI_FROM_LATER: newer than what is known here" in uapi(*asked, "-v").output.splitlines()

    def test_header_named_twice_is_one(self, uapi):
        assert uapi("check", "eventfd", "linux/eventfd.h").output.splitlines()[-1].startswith("1 header, ")

    def test_header_with_bytes_that_are_no_text_is_compared(self, uapi, tmp_path):
        (tmp_path / "linux").mkdir()
        (tmp_path / "linux/eventfd.h").write_bytes(
            uapi("header", "eventfd").output.encode() + b'#define EFD_NAME "\xe9\xff" /* \xe9 */\n'
        )
        done = uapi("check", "--headers", str(tmp_path), "--kernel", "6.12", "eventfd")
        assert done.output.splitlines()[1:3] == [
            "linux/eventfd.h  3 facts agree, 1 DIFFERENCE",
            "    EFD_NAME: only in the header",
        ]

    def test_directory_where_programs_do_not_run_is_said(self, uapi, monkeypatch, tmp_path):
        """TMPDIR on a file system mounted noexec: execve() gives EACCES."""
        run = subprocess.run

        def noexec(argv, *args, **kwargs):
            if str(argv[0]).endswith("/facts"):
                raise PermissionError(13, "Permission denied", argv[0])
            return run(argv, *args, **kwargs)

        monkeypatch.setattr(subprocess, "run", noexec)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        said = sentence(uapi("check", "eventfd"))
        assert said == f"programs in {tmp_path} cannot be run (noexec?): set TMPDIR to another directory"

    def test_json_has_a_header_a_line(self, uapi, written):
        done = uapi("check", "--headers", str(written), "--json", "eventfd", "idxd")
        eventfd, idxd = map(json.loads, done.output.splitlines())
        assert (eventfd["header"], eventfd["agree"], eventfd["kernel"]) == ("linux/eventfd.h", 2, "9.0")
        assert [d["subject"] for d in eventfd["differences"]] == ["EFD_SEMAPHORE"]
        assert (idxd["state"], idxd["differences"]) == ("compared", [])

    @pytest.mark.parametrize(
        ("argv", "said"),
        [
            (["--headers", "/no/such"], "/no/such: no such directory"),
            (
                ["vfio", "--headers", "."],
                ". has no linux/version.h: say of which kernel the headers are; --kernel VERSION does",
            ),
            (["vfoi"], "no header 'vfoi': did you mean vfio?; pykernel uapi list has them all"),
            (["idxd.hh"], "no header 'idxd.hh': did you mean idxd?; pykernel uapi list has them all"),
            (["--cc", "/no/cc"], "no C compiler: /no/cc: No such file or directory"),
        ],
    )
    def test_what_goes_wrong_is_a_sentence(self, uapi, argv, said):
        assert sentence(uapi("check", *argv)) == said

    def test_headers_without_version_are_asked_about(self, uapi, tmp_path):
        said = sentence(uapi("check", "--headers", str(tmp_path)))
        assert said == f"{tmp_path} has no linux/version.h: say of which kernel the headers are; --kernel VERSION does"


@pytest.fixture
def kernel_headers_here():
    """linux-libc-dev and a compiler; CI must have them."""
    if not Path("/usr/include/linux/version.h").exists():
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no kernel headers here")


class TestShow:
    def test_struct(self, pykernel):
        """As pahole draws it, then byte by byte, then how it grew; plain text when nobody looks."""
        done = pykernel("uapi", "show", "vfio_device_info")

        assert done.stdout == (
            "/* linux/vfio.h */\n"
            "struct vfio_device_info {\n"
            "\t__u32                      argsz;                /*     0     4 */\n"
            "\t__u32                      flags;                /*     4     4 */\n"
            "\t__u32                      num_regions;          /*     8     4 */\n"
            "\t__u32                      num_irqs;             /*    12     4 */\n"
            "\t__u32                      cap_offset;           /*    16     4 */ /* since Linux 5.10 */\n"
            "\t__u32                      pad;                  /*    20     4 */ /* since Linux 6.6 */\n"
            "\n"
            "\t/* size: 24, cachelines: 1, members: 6 */\n"
            "\t/* last cacheline: 24 bytes */\n"
            "};\n"
            "\n"
            "       0       1       2       3       4       5       6       7\n"
            "    0 |argsz                          |flags                          |\n"
            "    8 |num_regions                    |num_irqs                       |\n"
            "   16 |cap_offset                     |pad                            |\n"
            "\n"
            "size by kernel: 16 bytes before Linux 5.10, 20 since 5.10, 24 since 6.6\n"
        )

    def test_struct_of_an_older_kernel(self, uapi):
        lines = uapi("show", "vfio_device_info", "--kernel", "6.1").output.splitlines()
        assert "\t/* size: 20, cachelines: 1, members: 5 */".expandtabs(8) in [line.expandtabs(8) for line in lines]
        assert not any("pad;" in line for line in lines)

    @pytest.mark.parametrize(
        ("name", "line"),
        [
            ("EPOLLET", "EPOLLET = 0x80000000 (2147483648)  /* linux/eventpoll.h */"),
            ("EPOLLIN", "EPOLLIN = 1  /* linux/eventpoll.h */"),
            (
                "DSA_OPCODE_DIX_GEN",
                "DSA_OPCODE_DIX_GEN = 0x17 (23)  /* enum dsa_opcode, linux/idxd.h, since Linux 6.4 */",
            ),
            ("PCI_EXT_CAP_ID", "#define PCI_EXT_CAP_ID(x) ((x) & 0xffff)  /* linux/pci_regs.h */"),
            ("struct vfio_device_info", "struct vfio_device_info {"),
            ("enum dsa_opcode", "enum dsa_opcode {  /* linux/idxd.h */"),
            ("VHOST_SET_OWNER", "0xaf01 = 44801 = _IO(0xaf, 0x1)"),
        ],
    )
    def test_every_kind_of_name(self, uapi, name, line):
        assert line in uapi("show", name).output.splitlines()

    @pytest.mark.parametrize(
        ("argv", "said"),
        [
            (["vfio_device_inof"], "no header has 'vfio_device_inof': did you mean vfio_device_info"),
            (["qqqqqq"], "no header has 'qqqqqq'"),
            (["epoll_params", "--kernel", "6.1"], "epoll_params is not in Linux 6.1: it came with Linux 6.9"),
            (
                ["iommu_fault", "--kernel", "6.12"],
                "iommu_fault is not in Linux 6.12: Linux 6.8 was the last with it",
            ),
            (["iommu_fault_type", "--kernel", "6.12"], "iommu_fault_type is not in Linux 6.12: Linux 6.8 was the last"),
            (["epoll_params", "--kernel", "six"], "Invalid value for '--kernel': 'six' is no kernel version"),
        ],
    )
    def test_what_goes_wrong_is_a_sentence_with_what_was_meant(self, uapi, argv, said):
        assert sentence(uapi("show", *argv)).startswith(said)

    def test_json(self, uapi):
        row = json.loads(uapi("show", "--json", "vfio_device_info").output)
        assert (row["c"], row["size"], row["sizes"]) == ("struct vfio_device_info", 24, {"": 16, "5.10": 20, "6.6": 24})
        assert [(f["cname"], f["offset"], f["size"]) for f in row["fields"]][-1] == ("pad", 20, 4)
        assert json.loads(uapi("show", "--json", "EPOLLET").output)["value"] == 1 << 31
        assert json.loads(uapi("show", "--json", "dsa_opcode").output)["values"]["DSA_OPCODE_MEMMOVE"] == 3

    def test_every_name_of_every_header_can_be_shown(self):
        """Nothing that the tables hold makes show fail."""
        from pykernel.tools.uapi.show import _as_json, _lines
        from pykernel.uapi.history import AGELESS

        for module in catalog.header_modules():
            for entry in catalog.entries(module):
                if catalog.kind(entry) in ("struct", "enum", "macro"):
                    assert len([str(line) for line in _lines(entry, AGELESS)]) > 0
                assert json.dumps(_as_json(entry, AGELESS))


class TestDecode:
    def test_number_as_strace_prints_it(self, uapi):
        first, second, users, *rest = uapi("decode", "0x4028af11").output.splitlines()
        assert users.startswith("  type       0xaf: linux/vhost.h has 55")
        assert [first, second, *rest] == [
            "0x4028af11 = 1076408081 = _IOW(0xaf, 0x11, 40)",
            "  direction  write: the kernel reads the argument",
            "  nr         0x11 (17)",
            "  size       40",
            "",
            "VHOST_SET_VRING_ADDR  linux/vhost.h",
            "  argument   struct vhost_vring_addr: 40 bytes",
        ]

    @pytest.mark.parametrize("nr", ["0x3b6b", "15211", "VFIO_DEVICE_GET_INFO", "0o35553"])
    def test_number_in_any_base_and_by_name(self, uapi, nr):
        assert (
            "VFIO_DEVICE_GET_INFO  linux/vfio.h\n  argument   struct vfio_device_info: 16 bytes before"
            in uapi("decode", nr).output
        )

    def test_unknown_number_is_still_taken_apart(self, uapi):
        lines = uapi("decode", "0xc0105a07").output.splitlines()
        assert lines[0] == "0xc0105a07 = 3222297095 = _IOWR('Z', 0x7, 16)"
        assert lines[-1] == "no header here has it"

    def test_another_size_has_its_neighbours(self, uapi):
        lines = uapi("decode", "0x4020af11").output.splitlines()
        assert lines[-3:] == [
            "no header here has it with this direction and size; near it:",
            "  VHOST_SET_VRING_ADDR  0x4028af11 _IOW(0xaf, 0x11, 40), linux/vhost.h",
            "Another size is often a struct of another kernel, another direction a typing error.",
        ]

    def test_ioctl_of_every_file(self, uapi):
        assert uapi("decode", "0x541b").output.splitlines()[-1] == "FIONREAD  asm-generic/ioctls.h: every file has it"

    def test_json(self, uapi):
        row = json.loads(uapi("decode", "--json", "0xaf01").output)
        assert row["parts"] == {"direction": 0, "type": 0xAF, "nr": 1, "size": 0}
        assert [match["name"] for match in row["matches"]] == ["VHOST_SET_OWNER"]

    @pytest.mark.parametrize("nr", ["-1071622399", "0xffffffffc0205701", "0xc0205701"])
    def test_negative_and_sign_extended_numbers_are_those_of_int(self, uapi, nr):
        """What Python's fcntl and a C int make of a number with bit 31."""
        assert uapi("decode", nr).output.splitlines()[0] == f"0xc0205701 = {0xC0205701} = _IOWR('W', 0x1, 32)"

    def test_number_that_is_too_long_is_no_ioctl(self, uapi):
        said = "99999999999999999999999 has more than 32 bits, and an ioctl number has 32"
        assert sentence(uapi("decode", "99999999999999999999999")) == said
        assert sentence(uapi("decode", "--jsn")).startswith("No such option")

    def test_unknown_name_is_a_sentence(self, uapi):
        said = sentence(uapi("decode", "VHOST_SET_OWNRE"))
        assert said.startswith("'VHOST_SET_OWNRE' is no number and no ioctl of a header: did you mean VHOST_SET_OWNER")


class TestHeader:
    def test_printed_header_compiles(self, uapi, require_program):
        text = uapi("header", "linux/vhost.h").output
        assert uapi("header", "vhost").output == text
        argv = [require_program("cc"), "-fsyntax-only", "-x", "c", "-"]
        done = subprocess.run(argv, input=uapi("header", "idxd").output, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")

    def test_directory_gets_every_header(self, written):
        names = {str(path.relative_to(written)) for path in written.rglob("*.h")} - {"linux/version.h"}
        assert names == {next(iter(catalog.headers(m)), catalog.title(m)) for m in catalog.header_modules()}

    def test_what_cannot_be_written_is_a_sentence(self, uapi, tmp_path):
        (tmp_path / "file").write_text("")
        assert (
            sentence(uapi("header", "-o", str(tmp_path / "file"), "idxd")) == f"{tmp_path}/file/linux: Not a directory"
        )
        assert sentence(uapi("header")) == "give one NAME, or -o DIR to write several headers"


def test_list_has_a_header_a_line(uapi):
    rows = [json.loads(line) for line in uapi("list", "--json").output.splitlines()]
    assert [row["header"] for row in rows] == [catalog.title(m) for m in catalog.header_modules()]
    eventpoll = next(row for row in rows if row["header"] == "linux/eventpoll.h")
    # two structs, EPIOC[GS]PARAMS; 12 events, 5 ways to wait, 3 operations, EPOLL_CLOEXEC, EPOLL_IOC_TYPE
    assert [eventpoll[k] for k in ("structs", "enums", "ioctls", "constants", "macros")] == [2, 0, 2, 22, 0]
    drawn = uapi("list").output.splitlines()
    assert len(drawn) == 1 + len(rows)
    assert all(line.endswith(row["what"]) and line == line.rstrip() for line, row in zip(drawn[1:], rows, strict=True))
    assert all(line.startswith(row["header"]) for line, row in zip(drawn[1:], rows, strict=True))


def test_shell_completes_names():
    assert complete(None, None, "vfio_device_info") == ["vfio_device_info", "vfio_device_info_cap_pci_atomic_comp"]  # type: ignore[arg-type]
    assert complete_header(None, None, "linux/idx") == ["linux/idxd.h"]  # type: ignore[arg-type]
