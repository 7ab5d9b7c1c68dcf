"""
The kernel's own selftest of IOMMUFD, compiled and run unmodified, where its source is: ``LINUX_SOURCE=/usr/src/linux``.

Of Linux 6.12; with a newer test than the headers, the names that it adds are given to the compiler.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HARNESS = Path(__file__).parent / "kselftest" / "kselftest_harness.h"
# newer than Linux 6.12: asking for a type of information, PASIDs of mock devices
NEWER = {
    "in_data_type": "out_data_type",
    "IOMMU_HW_INFO_TYPE_DEFAULT": "0",
    "IOMMU_HW_INFO_FLAG_INPUT_TYPE": "0",
    "MOCK_FLAGS_DEVICE_PASID": "0",
    "MOCK_PASID_WIDTH": "20",
}
# large pages of the host, which it may have none of; what is newer; descriptors that an ioctl makes
MAY_FAIL = re.compile(
    r"huge|access_domain_destory|get_hw_info|alloc_hwpt_nested|access_(pin|rw)|fork_(gone|present)|user_copy"
)
CASES = {
    "iommufd.": 11,
    "iommufd_ioas.no_domain.": 17,
    "iommufd_ioas.mock_domain.": 15,
    "iommufd_ioas.two_mock_domain.": 15,
    "iommufd_mock_domain.one_domain.": 6,
    "iommufd_mock_domain.two_domains.": 6,
    "iommufd_dirty_tracking.domain_dirty8k.": 5,
    "iommufd_dirty_tracking.domain_dirty320k.": 5,
    "vfio_compat_mock_domain.": 8,
}
MACHINE = '[iommu]\nsva = true\n\n[modules]\niommufd = ""\n'


@pytest.fixture(scope="module")
def binary(tmp_path_factory, require_program):
    source = os.environ.get("LINUX_SOURCE")
    if not source:
        pytest.skip("LINUX_SOURCE names no source of Linux")
    if not os.access("/dev/fuse", os.W_OK):
        pytest.skip("no /dev/fuse here")
    root, tree = tmp_path_factory.mktemp("selftests"), Path(source)
    tests, drivers = root / "tools/testing/selftests", root / "drivers/iommu/iommufd"
    shutil.copytree(tree / "tools/testing/selftests/iommu", tests / "iommu")
    shutil.copy(HARNESS, tests)
    drivers.mkdir(parents=True)
    shutil.copy(tree / "drivers/iommu/iommufd/iommufd_test.h", drivers)
    (root / "include/linux").mkdir(parents=True)
    for header in ("iommufd.h", "vfio.h"):
        shutil.copy(tree / "include/uapi/linux" / header, root / "include/linux")
    text = (root / "include/linux/iommufd.h").read_text()
    names = [f"-D{name}={value}" for name, value in NEWER.items() if name not in text]
    command = [require_program("cc"), "-O1", "-w", "-D__user=", f"-I{root / 'include'}", *names]
    subprocess.run([*command, "-o", root / "iommufd", tests / "iommu/iommufd.c"], check=True, timeout=120)
    (root / "machine.toml").write_text(MACHINE)
    return root


@pytest.mark.parametrize(("wanted", "good"), CASES.items(), ids=list(CASES))
def test_iommufd(binary, wanted, good):
    command = ["run", "--machine", str(binary / "machine.toml"), "-p", "linux-6.12", "--config", "IOMMUFD_TEST"]
    done = subprocess.run(
        [sys.executable, "-m", "pykernel.tools.cli", *command, "--", str(binary / "iommufd"), wanted],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.stderr == ""
    rows = re.findall(r"^(ok|not ok) (\S+)$", done.stdout, re.M)
    assert sum(row[0] == "ok" for row in rows) >= good, done.stdout
    assert [name for verdict, name in rows if verdict != "ok" and not MAY_FAIL.search(name)] == [], done.stdout
