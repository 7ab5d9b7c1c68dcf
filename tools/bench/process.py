"""A compiled client on the process surface, on the host's own file systems, and under peers that are installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pykernel
from pykernel.tools.bench.measure import Row

__all__ = ["rows"]

# argv: file to read, file to store to or "-"; prints one JSON object: microseconds a call, medians of 21 blocks
CLIENT = r"""
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BLOCKS = 21, CALLS = 300 };
static char buf[4096];

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static int compare(const void *a, const void *b)
{
    double d = *(const double *)a - *(const double *)b;
    return (d > 0) - (d < 0);
}

static int load(const char *path)
{
    int fd = open(path, O_RDONLY);
    int bad = fd < 0 || read(fd, buf, sizeof buf) < 0;
    return close(fd) || bad;
}

static int store(const char *path)
{
    int fd = open(path, O_WRONLY);
    int bad = fd < 0 || write(fd, "8\n", 2) != 2;
    return close(fd) || bad;
}

static double median(int (*call)(const char *), const char *path)
{
    double taken[BLOCKS];
    for (int b = 0; b < BLOCKS; b++) {
        double start = now();
        for (int i = 0; i < CALLS; i++)
            if (call(path)) {
                perror(path);
                exit(1);
            }
        taken[b] = (now() - start) / CALLS;
    }
    qsort(taken, BLOCKS, sizeof *taken, compare);
    return taken[BLOCKS / 2];
}

int main(int argc, char **argv)
{
    (void)argc;
    printf("{\"read\": %.3f, ", median(load, argv[1]));
    printf("\"store\": %.3f}\n", strcmp(argv[2], "-") ? median(store, argv[2]) : 0.0);
    return 0;
}
"""
DEVICES = "/sys/bus/dsa/devices"
# plain text that the driver keeps; and one that is computed from registers or lists at each read
PLAIN, COMPUTED, STORED = f"{DEVICES}/wq0.0/name", f"{DEVICES}/dsa0/errors", f"{DEVICES}/wq0.0/size"
FLOOR = "open+read+close, C, tmpfs"


def compile_client(where: Path) -> Path | None:
    """The client, built by cc; None where there is no compiler."""
    cc = shutil.which("cc")
    if cc is None:
        return None
    source, client = where / "client.c", where / "client"
    source.write_text(CLIENT)
    subprocess.run([cc, "-O2", "-Wall", "-o", client, source], check=True)
    return client


def measure(argv: list[str], out: Path) -> dict[str, float]:
    """Run a client whose stdout is *out*; its figures in seconds."""
    with out.open("w") as f:
        subprocess.run(argv, check=True, stdout=f)
    return _figures(out)


def _figures(out: Path) -> dict[str, float]:
    return {name: value / 1e6 for name, value in json.loads(out.read_text()).items()}


def _emulated(client: Path, out: Path, path: str) -> dict[str, float]:
    from pykernel.surfaces.process import run

    kernel = pykernel.boot("dsa", clock="monotonic")
    status = run(kernel, ["/bin/sh", "-c", 'exec "$0" "$1" "$2" >"$3"', str(client), path, STORED, str(out)])
    if status:
        raise RuntimeError(f"the client on the process surface ended with status {status}")
    return _figures(out)


def _umockdev(client: Path, out: Path, where: Path) -> Iterator[Row]:
    # a wrapped client sees /sys/... below UMOCKDEV_DIR; attributes are static files there
    if shutil.which("umockdev-wrapper") is None:
        return
    attr = Path(f"{where}/testbed{STORED}")
    attr.parent.mkdir(parents=True)
    attr.write_text("16\n")
    argv = ["env", f"UMOCKDEV_DIR={where}/testbed", "umockdev-wrapper", str(client), STORED, "-"]
    yield Row("open+read+close, C, umockdev (a static file)", measure(argv, out)["read"], None, FLOOR)


def rows() -> Iterator[Row]:
    """The floor, the process surface, and peers."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="pykernel-bench-") as tmp:
        where = Path(tmp)
        where.chmod(0o755)
        client = compile_client(where)
        if client is None:
            return
        out = where / "out.json"
        (where / "file").write_text("16\n")
        floor = measure([str(client), f"{where}/file", f"{where}/file"], out)
        yield Row(FLOOR, floor["read"])
        yield Row("open+write+close, C, tmpfs", floor["store"])
        if os.access("/sys/kernel/profiling", os.R_OK):
            real = measure([str(client), "/sys/kernel/profiling", "-"], out)
            yield Row("open+read+close, C, the host's own sysfs", real["read"], None, FLOOR)
        plain, computed = _emulated(client, out, PLAIN), _emulated(client, out, COMPUTED)
        yield Row("open+read+close, C, process surface, plain", plain["read"], 40e-6, FLOOR)
        yield Row("open+read+close, C, process surface, computed", computed["read"], None, FLOOR)
        yield Row("open+write+close, C, process surface", plain["store"], 60e-6, "open+write+close, C, tmpfs")
        yield from _umockdev(client, out, where)
