"""Every constant, enumerator, macro, struct, field and bit-field, compared with the installed C headers by cc."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pykernel.uapi import history
from pykernel.uapi.check import compare, facts, header_modules
from pykernel.uapi.compiler import Compiler
from pykernel.uapi.linux import idxd, pci_regs
from pykernel.uapi.struct import Struct, layout

ROOT = Path(__file__).parents[2]
MODULES = [module.__name__ for module in header_modules()]


@pytest.mark.usefixtures("kernel_headers")
@pytest.mark.parametrize("name", MODULES)
def test_module_says_what_the_installed_header_says(name: str, cc: str) -> None:
    """No value, place or size differs, and the header has no name that the module forgot."""
    module = importlib.import_module(name)
    (report,) = compare(None, [module], cc=cc)

    assert [str(d) for d in report.differences] == []
    if report.state == "absent":
        # only right when nothing of it can be there: the header is newer than these, or gone
        kernel, _ = Compiler(cc, None).version()
        new, gone = history.newer(module), history.older(module)
        for subject in {f.subject for f in facts(module)}:
            born, last = history.since(new, subject), history.since(gone, subject)
            assert (born and history.parse(born) > kernel) or (last and history.parse(last) < kernel), subject
    else:
        assert report.agree > 0


SUITES = {"trixie": (6, 12), "trixie-backports": (7, 0), "sid": (7, 0)}


@pytest.mark.parametrize("suite", SUITES)
def test_all_modules_say_what_the_headers_of_newer_kernels_say(suite: str, cc: str) -> None:
    """Those that get_headers.sh brought, of Debian's later suites."""
    where = ROOT / "build" / "headers" / suite
    if not where.is_dir():
        required = os.environ.get("CI") and "ID=debian" in Path("/etc/os-release").read_text()
        (pytest.fail if required else pytest.skip)(f"no {where}: tests/uapi/get_headers.sh build/headers brings it")
    assert Compiler(cc, where).version()[0] >= SUITES[suite]

    reports = list(compare(where, header_modules(), cc=cc))

    assert [str(d) for report in reports for d in report.differences] == []
    assert {report.state for report in reports} <= {"compared", "absent", "never"}
    assert sum(report.agree for report in reports) > 4000


def test_no_header_is_empty_to_the_checker() -> None:
    """The modules state so much: a checker that looks at nothing would pass everything."""
    assert {"pykernel.uapi.linux.eventfd", "pykernel.uapi.linux.eventpoll", idxd.__name__, pci_regs.__name__} <= set(
        MODULES
    )
    assert {f.subject for f in facts(pci_regs)} >= {"PCI_COMMAND", "PCI_PM_CAP_PME_D3hot", "PCI_EXT_CAP_ID"}
    subjects = {f.subject for f in facts(idxd)}
    assert {"DSA_OPCODE_MEMMOVE", "IDXD_OP_FLAG_CRAV", "dsa_hw_desc", "dsa_hw_desc.opcode"} <= subjects
    assert len(facts(pci_regs)) > 1000


# What 6.1's header cannot confirm; from the header of 6.12 (include/uapi/linux/idxd.h).
NEWER_FIELDS = [
    (idxd.dsa_hw_desc, "pattern_lower", 16, 8),
    (idxd.dsa_hw_desc, "transl_fetch_addr", 16, 8),
    (idxd.dsa_hw_desc, "region_size", 32, 4),
    (idxd.dsa_hw_desc, "pattern_upper", 40, 8),
    (idxd.dsa_hw_desc, "transl_fetch_res", 40, 8),
    (idxd.dsa_hw_desc, "region_stride", 48, 4),
    (idxd.dsa_hw_desc, "dix_gen_res", 40, 1),
    (idxd.dsa_hw_desc, "dest_dif_flags", 41, 1),
    (idxd.dsa_hw_desc, "dif_flags", 42, 1),
    (idxd.dsa_hw_desc, "dix_gen_res2", 43, 13),
    (idxd.dsa_hw_desc, "ref_tag_seed", 56, 4),
    (idxd.dsa_hw_desc, "app_tag_mask", 60, 2),
    (idxd.dsa_hw_desc, "app_tag_seed", 62, 2),
    (idxd.dsa_completion_record, "fault_info", 2, 1),
    (idxd.dsa_completion_record, "rsvd", 3, 1),
    (idxd.dsa_completion_record, "descs_completed", 4, 4),
    (idxd.dsa_completion_record, "dix_gen_res", 16, 8),
    (idxd.dsa_completion_record, "dix_ref_tag", 24, 4),
    (idxd.dsa_completion_record, "dix_app_tag_mask", 28, 2),
    (idxd.dsa_completion_record, "dix_app_tag", 30, 2),
    (idxd.iax_completion_record, "fault_info", 2, 1),
    (idxd.iax_completion_record, "rsvd", 3, 1),
]

NEWER_VALUES = {
    "IDXD_SCMD_DEV_EVL_ERR": 0x80120000,
    "IDXD_SCMD_WQ_NO_DRV_NAME": 0x80200000,
    "DSA_OPCODE_TRANSL_FETCH": 0x0A,
    "DSA_OPCODE_DIX_GEN": 0x17,
    "DSA_COMP_DRAIN_EVL": 0x26,
    "DSA_COMP_BATCH_EVL_ERR": 0x27,
}


@pytest.mark.parametrize(("cls", "field", "offset", "size"), NEWER_FIELDS, ids=lambda v: getattr(v, "__name__", str(v)))
def test_newer_fields_lie_where_6_12_has_them(cls: type[Struct], field: str, offset: int, size: int) -> None:
    """Fields that the installed header may lack."""
    assert (cls.offsetof(field), cls.offsetofend(field)) == (offset, offset + size)


def test_newer_values_are_those_of_6_12() -> None:
    """Enumerators that the installed header may lack."""
    assert {name: int(getattr(idxd, name)) for name in NEWER_VALUES} == NEWER_VALUES


def test_every_newer_name_has_a_row_above() -> None:
    """NEWER excuses a name from the check against the headers of 6.1: each such name must be checked here."""
    rows = {f"{cls.__name__}.{field}" for cls, field, _, _ in NEWER_FIELDS} | NEWER_VALUES.keys() | {"DSA_COMP_STATUS"}
    assert rows == {name for name, kernel in history.newer(idxd).items() if history.parse(kernel) >= (6, 4)}


def test_masking_a_status_takes_the_write_bit_away() -> None:
    """0x83 is a page fault on a write."""
    assert idxd.DSA_COMP_STATUS(0x83) == idxd.DSA_COMP_PAGE_FAULT_NOBOF


def test_fields_of_raw_views_cover_the_whole_record() -> None:
    """The word views are as long as what they view."""
    pairs: list[tuple[type[Struct], type[Struct]]] = [
        (idxd.dsa_raw_desc, idxd.dsa_hw_desc),
        (idxd.dsa_raw_completion_record, idxd.dsa_completion_record),
        (idxd.iax_raw_completion_record, idxd.iax_completion_record),
    ]
    for raw, cooked in pairs:
        assert raw.sizeof() == cooked.sizeof() == sum(f.size for f in layout(raw))


def test_importing_headers_does_not_load_cffi() -> None:
    """Who wants a constant pays for no C parser."""
    code = f"import sys, {', '.join(MODULES)}; print([m for m in ('cffi', 'pycparser') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
