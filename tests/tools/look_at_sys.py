"""All below the given directories as JSON: path -> mode, size, nlink, uid, gid, and text, content or errno."""

import json
import os
import stat
import sys

# another file system, other machines' state, a file whose reading makes a device, ports of a device
SKIPPED = ("/sys/fs", "/sys/kernel/mm", "/sys/kernel/tracing", "/sys/kernel/debug", "/sys/kernel/btf")


def row(path: str, device: int) -> "list | None":
    st = os.lstat(path)
    if st.st_dev != device:
        return None
    found: list = [oct(st.st_mode), st.st_size, st.st_nlink, st.st_uid, st.st_gid]
    name = path.rpartition("/")[2]
    if stat.S_ISLNK(st.st_mode):
        return [*found, os.readlink(path)]
    if not stat.S_ISREG(st.st_mode) or name == "hot_add" or (name.startswith("resource") and name != "resource"):
        return [*found, None]
    try:
        with open(path, "rb", buffering=0) as f:
            return [*found, b"".join(iter(lambda: f.read(4096), b"")).hex()]
    except OSError as e:
        return [*found, e.errno]


def main() -> None:
    seen = {}
    for top in sys.argv[1:]:
        device = os.lstat("/sys").st_dev
        for where, dirs, files in os.walk(top):
            dirs[:] = [d for d in dirs if f"{where}/{d}" not in SKIPPED and os.lstat(f"{where}/{d}").st_dev == device]
            for name in dirs + files:
                found = row(f"{where}/{name}", device)
                if found is not None:
                    seen[f"{where}/{name}"] = found
    json.dump(seen, sys.stdout)


main()
