"""Our layouts and numbers against the C header of the host."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from struct import Struct

import pytest

from pykernel.surfaces.process import fuse_abi as abi

# our name -> the struct's; "" where ours is the beginning only (INIT_IN), or an attr follows (counted below)
STRUCTS = {n: v for n, v in vars(abi).items() if isinstance(v, Struct)}
NAMES = {"INIT_IN": "", "SETXATTR_IN": "", "ENTRY_OUT": "", "ATTR_OUT": ""}
CONSTANTS = {
    "FUSE_KERNEL_VERSION": abi.KERNEL_VERSION,
    "FUSE_ROOT_ID": abi.ROOT_ID,
    "FUSE_GETATTR_FH": abi.GETATTR_FH,
    "FUSE_READ_LOCKOWNER": abi.READ_LOCKOWNER,
    "FUSE_POLL_SCHEDULE_NOTIFY": abi.POLL_SCHEDULE_NOTIFY,
    "FUSE_COMPAT_SETXATTR_IN_SIZE": abi.SETXATTR_IN.size,
    "sizeof(struct fuse_entry_out)": abi.ENTRY_OUT.size + abi.ATTR.size,
    "sizeof(struct fuse_attr_out)": abi.ATTR_OUT.size + abi.ATTR.size,
    **{f"FUSE_{op.name}": op.value for op in abi.Op},
    **{f"FUSE_NOTIFY_{n.name}": n.value for n in abi.Notify},
    **{f"FATTR_{f.name}": f.value for f in abi.FATTR},
    **{f"FUSE_{f.name}": f.value for f in abi.INIT},
    **{n: v for n, v in vars(abi).items() if n.startswith("FOPEN_")},
    **{f"sizeof(struct fuse_{NAMES.get(n, n.lower())})": s.size for n, s in STRUCTS.items() if NAMES.get(n, n)},
}


def test_the_table_is_the_headers(tmp_path: Path) -> None:
    """Each size and number, as the compiler sees it."""
    if not (shutil.which("cc") and Path("/usr/include/linux/fuse.h").exists()):
        (pytest.fail if os.environ.get("CI") else pytest.skip)(
            "no C compiler or no fuse.h: apt-get install gcc linux-libc-dev"
        )
    source = tmp_path / "t.c"
    rows = "".join(f'printf("%lld\\n", (long long)({name}));\n' for name in CONSTANTS)
    source.write_text(f"#include <stdio.h>\n#include <linux/fuse.h>\nint main(void) {{\n{rows}return 0; }}\n")
    subprocess.run(["cc", "-o", tmp_path / "t", source], check=True)
    out = subprocess.run([tmp_path / "t"], capture_output=True, text=True, check=True).stdout.split()
    assert dict(zip(CONSTANTS, map(int, out), strict=True)) == CONSTANTS
