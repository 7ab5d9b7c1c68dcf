"""Programs that were written for the real headers: with ours they compile, lay out the same and run the same."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from pykernel.uapi import catalog, emit, history
from pykernel.uapi.compiler import Compiler
from pykernel.uapi.linux import eventpoll, idxd
from pykernel.uapi.shape import is_inline
from pykernel.uapi.struct import Struct, cname, layout

VRING = """
#include <stdio.h>
#include <stdlib.h>
#include <linux/virtio_ring.h>
static unsigned int calls;
static unsigned int once(unsigned int n) { calls++; return n; }
int main(void)
{
    struct vring vr;
    static char memory[16384] __attribute__((aligned(4096)));
    vring_desc_t *desc;
    vring_used_elem_t *elem;
    vring_init(&vr, 8, memory, 4096);
    desc = vr.desc;
    desc[7].addr = 0x1000;
    vr.avail->ring[vr.avail->idx % vr.num] = 3;
    vring_used_event(&vr) = 5;
    vring_avail_event(&vr) = 6;
    elem = &vr.used->ring[7];
    elem->len = 9;
    printf("%ld %ld %ld %ld\\n", (long)((char *)vr.avail - memory), (long)((char *)vr.used - memory),
           (long)((char *)&vring_used_event(&vr) - memory), (long)((char *)&vring_avail_event(&vr) - memory));
    printf("%u %d %d %d\\n", vring_size(once(8), 4096), vring_need_event(4, 5, 3), vring_need_event(4, 4, 3),
           vring_need_event(0xffff, 0, 0xffff));
    printf("%u %zu %zu\\n", calls, sizeof(vring_avail_t), _Alignof(vring_desc_t));
    for (unsigned int i = 0; i < sizeof memory; i++)
        if (memory[i]) printf("%u:%d ", i, memory[i]);
    return 0;
}
"""

VFIO = """
#include <stdio.h>
#include <sys/ioctl.h>
#include <linux/vfio.h>
int main(void)
{
    struct vfio_device_info info = { .argsz = sizeof(info) };
    struct vfio_iommu_type1_dma_map map = { .argsz = sizeof(map), .flags = VFIO_DMA_MAP_FLAG_READ, .vaddr = 1 };
    __u64 bits[2] = { 0 };
    struct vfio_bitmap bitmap = { .pgsize = 4096, .size = sizeof(bits), .data = bits };
    int a = ioctl(-1, VFIO_DEVICE_GET_INFO, &info), b = ioctl(-1, VFIO_IOMMU_MAP_DMA, &map);
    bitmap.data[1] = 7;
    printf("%d %d %x %x %llu\\n", a, b, (unsigned)VFIO_DEVICE_GET_INFO, (unsigned)VFIO_IOMMU_MAP_DMA, bits[1]);
    return 0;
}
"""

VIRTIO = """
#include <stdio.h>
#include <string.h>
#include <linux/virtio_net.h>
#include <linux/virtio_pci.h>
#include <linux/vduse.h>
struct device { int msix_enabled; };
int main(void)
{
    struct vduse_dev_config config;
    struct device dev = { 1 };
    virtio_net_ctrl_ack ack = VIRTIO_NET_ERR;
    struct virtio_net_hdr hdr;
    __virtio16 length = 10;
    memset(&config, 0, sizeof config);
    hdr.hdr_len = length;
    strncpy(config.name, "vdpa0", sizeof(config.name) - 1);
    printf("%s %d %d %zu %d\\n", config.name, VIRTIO_PCI_CONFIG(&dev), hdr.hdr_len, sizeof ack, ack);
    return 0;
}
"""

POLL = """
#include <linux/idxd.h>
int wait_for(struct %s *record) { while (record->status == 0) ; return record->status; }
"""


@pytest.fixture(scope="session")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("emitted")
    emit.write(where, catalog.header_modules())
    return where


@pytest.mark.usefixtures("kernel_headers")
@pytest.mark.parametrize("source", [VRING, VFIO, VIRTIO], ids=["vring", "vfio", "virtio"])
def test_program_says_the_same_with_both_headers(source: str, ours: Path, cc: str, tmp_path: Path) -> None:
    """Pointers of a ring, its inline functions and events, char names, ioctls, macros that take a device."""
    said = []
    for flags in ([], ["-I", str(ours)]):
        program = str(tmp_path / f"program{len(flags)}")
        argv = [cc, "-Wall", "-Wextra", "-Werror", "-Wno-stringop-truncation", *flags, "-x", "c", "-o", program, "-"]
        done = subprocess.run(argv, input=source, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        said.append(subprocess.run([program], capture_output=True, text=True, check=True).stdout)
    assert said[0] == said[1] != ""


@pytest.mark.usefixtures("kernel_headers")
def test_program_in_cpp_compiles(ours: Path, require_program: Callable[[str], str]) -> None:
    """The real header of a ring is no C++, ours is; char arrays are char arrays."""
    source = (
        "#include <cstring>\n#include <linux/vduse.h>\n#include <linux/virtio_ring.h>\n"
        "void f(vduse_dev_config *c, vring *vr, void *p)\n"
        '{ strncpy(c->name, "x", 2); vring_init(vr, 8, p, 4096); vr->desc[0].len = 1; }\n'
    )
    argv = [require_program("c++"), "-Wall", "-Werror", "-I", str(ours), "-fsyntax-only", "-x", "c++", "-"]
    done = subprocess.run(argv, input=source, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("record", [idxd.dsa_completion_record.__name__, idxd.iax_completion_record.__name__])
def test_polling_loop_reads_the_status_again_and_again(record: str, ours: Path, cc: str, kernel_headers: None) -> None:
    """With and without our headers an optimizing compiler makes the same of it: a loop that loads."""
    code = []
    for flags in ([], ["-I", str(ours)]):
        argv = [cc, "-O2", "-S", *flags, "-x", "c", "-o", "-", "-"]
        code.append(subprocess.run(argv, input=POLL % record, capture_output=True, text=True, check=True).stdout)
    assert code[0] == code[1]
    assert "wait_for" in code[0]


ALIGNED_SINCE_6_7 = {"vfio_region_sparse_mmap_area", "vfio_region_info_cap_sparse_mmap"}


@pytest.fixture(scope="session")
def multiarch(cc: str) -> list[str]:
    """The flags that make 32-bit code of kernel headers; nothing is linked, so no 32-bit libraries are needed."""
    triple = subprocess.run([cc, "-print-multiarch"], capture_output=True, text=True, check=False).stdout.strip()
    flags = ["-m32", "-idirafter", f"/usr/include/{triple}"]
    argv = [cc, *flags, "-fsyntax-only", "-x", "c", "-"]
    if subprocess.run(argv, input="#include <linux/types.h>\n", capture_output=True, text=True, check=False).returncode:
        pytest.skip("the compiler makes no 32-bit code")
    return flags


@pytest.mark.usefixtures("kernel_headers")
@pytest.mark.parametrize("module", catalog.header_modules(), ids=catalog.title)
def test_32_bit_programs_see_the_same_layout(module: ModuleType, ours: Path, cc: str, multiarch: list[str]) -> None:
    """Size and offsets of each struct that the installed header has as we have it: __aligned_u64 counts here."""
    version, _ = Compiler(cc, None).version()
    path = next(iter(catalog.headers(module)), "")
    if module is eventpoll:
        pytest.skip("struct epoll_event is packed on x86_64 only, and the table is of that")
    if not path or not Path("/usr/include", path).exists():
        pytest.skip("not among the installed headers")
    skipped = ALIGNED_SINCE_6_7 if version < (6, 7) else set()
    skipped |= {name.partition(".")[0] for name in {**history.newer(module), **history.older(module)}}
    rows = []
    for entry in catalog.entries(module):
        if catalog.kind(entry) != "struct" or is_inline(entry.value) or entry.name in skipped:
            continue
        cls: type[Struct] = entry.value
        if history.at(cls, version) is cls:
            c = cname(cls)
            rows += [f"sizeof({c})", f"_Alignof({c})"]
            rows += [f"__builtin_offsetof({c}, {f.cname})" for f in layout(cls) if not f.bits]
    source = f"#include <{path}>\nunsigned facts[] = {{ {', '.join([*rows, '0'])} }};\n"
    argv = [cc, *multiarch, "-ffreestanding", "-S", "-x", "c", "-o", "-", "-"]
    code = [
        subprocess.run([*argv, *flags], input=source, capture_output=True, text=True, check=True).stdout
        for flags in ([], ["-I", str(ours)])
    ]
    assert code[0] == code[1]
