"""Numbers of ioctls: whose they are, in any header and of any kernel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pykernel.uapi import catalog, lookup
from pykernel.uapi.ioctl import _IOR, Ioctl
from pykernel.uapi.struct import Struct, u64

# As strace prints them, from Linux's own headers on x86-64
KNOWN = [
    (0x3B64, "VFIO_GET_API_VERSION"),
    (0x3B6B, "VFIO_DEVICE_GET_INFO"),
    (0x3B71, "VFIO_IOMMU_MAP_DMA"),
    (0x8008AF00, "VHOST_GET_FEATURES"),
    (0x4028AF11, "VHOST_SET_VRING_ADDR"),
    (0xC008AF12, "VHOST_GET_VRING_BASE"),
    (0x40088A01, "EPIOCSPARAMS"),
    (0x3B81, "IOMMU_IOAS_ALLOC"),
]


@pytest.mark.parametrize(("number", "name"), KNOWN)
def test_known_number_has_its_name(number: int, name: str) -> None:
    assert name in [match.entry.name for match in lookup.matches(number)]
    assert name in [match.entry.name for match in lookup.matches(number | 1 << 32)]  # the kernel looks at 32 bits


@pytest.mark.usefixtures("kernel_headers")
def test_every_ioctl_is_found_by_the_number_of_the_c_macro(cc: str, tmp_path: Path) -> None:
    """vhost.h as installed says the number, the lookup the name."""
    names = [e.name for e in lookup.all_ioctls() if e.name.startswith("VHOST_")]
    lines = "".join(f'#ifdef {n}\nprintf("{n} %u\\n", (unsigned){n});\n#endif\n' for n in names)
    source = f"#include <linux/vhost.h>\n#include <stdio.h>\nint main(void) {{\n{lines} return 0; }}"
    subprocess.run([cc, "-x", "c", "-o", tmp_path / "numbers", "-"], input=source, text=True, check=True)
    output = subprocess.run([tmp_path / "numbers"], capture_output=True, text=True, check=True).stdout
    numbers = {name: int(number) for name, number in map(str.split, output.splitlines())}

    assert len(numbers) > 30
    for name, number in numbers.items():
        assert name in [match.entry.name for match in lookup.matches(number)], name


def test_number_that_several_rows_have_is_told_of_all() -> None:
    """By header and name; so no name can hide another."""
    by_number: dict[int, set[str]] = {}
    for entry in lookup.all_ioctls():
        by_number.setdefault(entry.value.nr, set()).add(entry.name)
    for number, names in by_number.items():
        assert {match.entry.name for match in lookup.matches(number)} >= names


def test_same_type_and_nr_with_another_size_is_a_candidate() -> None:
    """_IOW(0xaf, 0x11, 32 bytes): VHOST_SET_VRING_ADDR with a struct of another size."""
    assert lookup.matches(0x4020AF11) == []
    assert [match.entry.name for match in lookup.candidates(0x4020AF11)] == ["VHOST_SET_VRING_ADDR"]


def test_number_of_nobody_has_no_names() -> None:
    assert (lookup.matches(0x5401), lookup.candidates(0x5401)) == ([], [])  # TCGETS is in no header here


class grown(Struct):
    a: u64 = 0
    b: u64 = 0


GROWN = _IOR(ord("G"), 1, grown)
NEWER = {"grown.b": "6.5"}


def test_number_from_before_a_struct_grew_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """struct grown got its second half in 6.5: until then the size in the number was 8, so 2 << 30 | 8 << 16 | ..."""
    monkeypatch.setattr(catalog, "header_modules", lambda: [sys.modules[__name__]])

    (old,), (new,) = lookup.matches(0x80084701), lookup.matches(0x80104701)
    assert (old.entry.name, old.size, old.until) == ("GROWN", 8, "6.5")
    assert (new.entry.name, new.size, new.until) == ("GROWN", 0, "")
    assert lookup.candidates(0x80084701) == []


def test_every_ioctl_of_every_header_is_in_the_list() -> None:
    """The lookup reads the same modules as the checker."""
    found = {(entry.module.__name__, entry.name) for entry in lookup.all_ioctls()}
    assert found == {
        (module.__name__, name)
        for module in catalog.header_modules()
        for name, value in vars(module).items()
        if isinstance(value, Ioctl) and f"import {name}" not in catalog.source(module)
    }
