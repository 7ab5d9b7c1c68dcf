"""/dev/vfio/vfio: the table of what a container answers in each state, and its life (drivers/vfio/container.c)."""

from __future__ import annotations

import stat
from errno import EACCES, EBUSY, EINVAL, ENODEV, ENOTTY, EPERM, ESPIPE
from types import SimpleNamespace

import pytest
from errnos import errno_of
from vfiotoy import EXTENSION, add_mappings, add_toy, get_device_fd, open_group, set_container, usable

from pykernel.errors import err
from pykernel.uapi.linux import vfio as v
from pykernel.vfio.main import vfio_unregister_group_dev

SET_IOMMU, CHECK = v.VFIO_SET_IOMMU, v.VFIO_CHECK_EXTENSION


@pytest.fixture
def w(vfio_kernel):
    """A toy device, the test's own IOMMU driver, a client."""
    log = []
    driver = add_mappings(vfio_kernel, log)
    toy = add_toy(vfio_kernel, log=log)
    return SimpleNamespace(kernel=vfio_kernel, driver=driver, toy=toy, log=log, proc=vfio_kernel.process())


def state(w, name):
    """A container that is empty, has a group, or has an IOMMU."""
    c = w.proc.open("/dev/vfio/vfio", 2)
    if name != "empty":
        set_container(w.proc, open_group(w.proc, w.toy), c)
    if name == "iommu":
        w.proc.ioctl(c, SET_IOMMU, EXTENSION)
    return c


def answer(w, c, cmd, arg):
    """The result, or minus the errno."""
    try:
        return w.proc.ioctl(c, cmd, arg)
    except OSError as e:
        return -(e.errno or 0)


# drivers/vfio/container.c:vfio_fops_unl_ioctl(), vfio_ioctl_set_iommu()
TABLE = [
    ("empty", v.VFIO_GET_API_VERSION, 0, 0),
    ("empty", CHECK, EXTENSION, 2),
    ("empty", CHECK, 1000, 0),
    ("empty", SET_IOMMU, EXTENSION, -EINVAL),
    ("empty", v.VFIO_IOMMU_MAP_DMA, 0, -EINVAL),
    ("empty", v.VFIO_GROUP_GET_STATUS, 0, -EINVAL),
    ("group", v.VFIO_GET_API_VERSION, 0, 0),
    ("group", CHECK, EXTENSION, 2),
    ("group", SET_IOMMU, 1000, -ENODEV),
    ("group", SET_IOMMU, EXTENSION, 0),
    ("group", v.VFIO_IOMMU_MAP_DMA, 0, -EINVAL),
    ("iommu", v.VFIO_GET_API_VERSION, 0, 0),
    ("iommu", CHECK, EXTENSION, 3),
    ("iommu", CHECK, v.VFIO_TYPE1v2_IOMMU, 0),
    ("iommu", SET_IOMMU, EXTENSION, -EINVAL),
    ("iommu", v.VFIO_IOMMU_MAP_DMA, 0, -ENOTTY),
    ("iommu", v.VFIO_DEVICE_GET_INFO, 0, -ENOTTY),
]


@pytest.mark.parametrize(("where", "cmd", "arg", "result"), TABLE, ids=lambda x: str(x))
def test_what_a_container_answers(w, where, cmd, arg, result):
    assert answer(w, state(w, where), cmd, arg) == result


def test_without_an_iommu_every_driver_is_asked(w):
    """Type 1 is loaded with vfio (MODULE_SOFTDEP), so an empty container has its extensions, too."""
    c = state(w, "empty")
    assert [answer(w, c, CHECK, n) for n in (1, 3, 9)] == [1, 1, 1]


def test_the_node_is_for_everybody(w):
    st = w.proc.stat("/dev/vfio/vfio")
    assert (stat.S_IMODE(st.st_mode), stat.S_ISCHR(st.st_mode)) == (0o666, True)
    assert w.proc.read_text("/sys/class/misc/vfio/dev") == "10:196\n"
    # recorded from Linux 6.1.0-42
    assert w.proc.read_text("/sys/class/misc/vfio/uevent") == "MAJOR=10\nMINOR=196\nDEVNAME=vfio/vfio\nDEVMODE=0666\n"
    assert w.kernel.process(uid=1000).open("/dev/vfio/vfio", 2) == 0


def test_a_container_has_no_position_no_read_no_mapping(w):
    c = state(w, "empty")
    assert errno_of(w.proc.lseek, c, 0, 0) == ESPIPE
    assert errno_of(w.proc.read, c, 1) == EINVAL
    assert errno_of(w.proc.write, c, b"x") == EINVAL


def test_the_last_drivers_error_is_set_iommus(w):
    """All candidates fail: what the last one said is the answer, and the container stays without an IOMMU."""
    c = state(w, "group")
    w.driver.fails = err(EPERM)
    assert answer(w, c, SET_IOMMU, EXTENSION) == -EPERM
    assert w.log == [("iommu open", EXTENSION), ("iommu release",)]
    w.driver.fails = None
    assert answer(w, c, SET_IOMMU, EXTENSION) == 0


def test_several_groups_are_attached_all_or_none(w):
    """A group that cannot be attached takes those before it out again."""
    other = add_toy(w.kernel, "toy1")
    c = w.proc.open("/dev/vfio/vfio", 2)
    for toy in (w.toy, other):
        set_container(w.proc, open_group(w.proc, toy), c)
    attached, wanted = [], w.driver.attach_group

    def attach(data, group, type):
        if attached:
            raise err(EBUSY)
        attached.append(group)
        wanted(data, group, type)

    w.driver.attach_group = attach
    assert answer(w, c, SET_IOMMU, EXTENSION) == -EBUSY
    assert w.log[-1] == ("iommu release",)  # of a set, from which each group that is in was removed


def test_a_group_that_joins_is_attached_at_once(w):
    c = state(w, "iommu")
    other = add_toy(w.kernel, "toy1")
    group = open_group(w.proc, other)
    w.driver.fails = err(EBUSY)
    assert errno_of(set_container, w.proc, group, c) == EBUSY
    w.driver.fails = None
    assert errno_of(set_container, w.proc, group, c) == 0


def test_the_iommu_goes_with_the_last_group(w):
    """The container is as if new: SET_IOMMU is needed again."""
    c, g = usable(w.proc, w.toy)
    w.proc.ioctl(g, v.VFIO_GROUP_UNSET_CONTAINER)
    assert w.log == [("iommu open", EXTENSION), ("iommu release",)]
    assert answer(w, c, v.VFIO_IOMMU_MAP_DMA, 0) == -EINVAL
    set_container(w.proc, g, c)
    assert answer(w, c, SET_IOMMU, EXTENSION) == 0


def test_groups_keep_a_container_whose_file_is_closed(w):
    """Linux 6.1 tells the IOMMU driver that it is."""
    c, g = usable(w.proc, w.toy)
    w.proc.close(c)
    closed = ("container closed",)
    assert (closed in w.log) == w.kernel.profile.name.endswith("6.1")
    d = get_device_fd(w.proc, g, "toy0")
    w.proc.close(g)
    assert w.proc.pread(d, 2, 1) == b"\1\2"
    w.proc.close(d)
    assert w.log[-1] == ("iommu release",)


@pytest.mark.parametrize("how", ["exit", "dup", "fork"])
def test_the_last_descriptor_counts_whoever_has_it(w, how):
    _c, g = usable(w.proc, w.toy)
    if how == "dup":
        twin = w.proc.dup(g)
        w.proc.close(g)
        assert ("iommu release",) not in w.log
        w.proc.close(twin)
    elif how == "fork":
        child = w.proc.fork()
        w.proc.close(g)
        assert ("iommu release",) not in w.log
        child.exit(9)
    else:
        w.proc.exit(9)
    assert w.log[-1] == ("iommu release",)


def test_descriptors_count_as_references_of_the_module(w):
    """lsmod's number, as Linux 6.1.0-56 has it: one of a container and of a device, two of a group (cdev and fops)."""
    module = w.kernel.modules.loaded["vfio"]
    before = module.refcnt
    c, g = usable(w.proc, w.toy)
    d = get_device_fd(w.proc, g, "toy0")
    assert module.refcnt == before + 4
    assert errno_of(w.kernel.modules.rmmod, "vfio")
    for fd, left in ((d, 3), (g, 1), (c, 0)):
        w.proc.close(fd)
        assert module.refcnt == before + left


def test_a_device_holds_the_module_since_it_has_an_inode(boot_vfio):
    """One reference of a mount, however many devices there are: Linux 6.12.95 has one more than Linux 6.1.0-56."""
    for profile, held in (("linux-6.1", 0), ("linux-6.12", 1)):
        kernel = boot_vfio(profile)
        module = kernel.modules.loaded["vfio"]
        before = module.refcnt
        toys = [add_toy(kernel), add_toy(kernel, "toy1")]
        assert module.refcnt == before + held
        for toy in toys:
            vfio_unregister_group_dev(toy)
        assert module.refcnt == before


def test_the_trace_names_an_ioctl_as_its_file_does(w):
    """0x3b6f and up mean one thing to a container and another to a device."""
    c = state(w, "group")
    w.proc.ioctl(c, SET_IOMMU, EXTENSION)
    w.driver.rows = (v.VFIO_IOMMU_GET_INFO,)
    events = w.kernel.trace.record()
    assert answer(w, c, v.VFIO_IOMMU_GET_INFO, 0) == -ENOTTY
    names = [e.fields["name"] for e in events if e.name == "ioctl"]
    assert names == ["VFIO_IOMMU_GET_INFO"]


# ---- no IOMMU: CONFIG_VFIO_NOIOMMU


@pytest.fixture(params=["linux-6.1", "linux-6.12"])
def noiommu(request, boot_vfio):
    """A kernel with the option on, a device without an IOMMU, root and somebody else."""
    from vfiotoy import Toy

    from pykernel.base.core import Device
    from pykernel.vfio.main import vfio_register_group_dev

    kernel = boot_vfio(request.param, args="enable_unsafe_noiommu_mode=1", config=("VFIO_NOIOMMU",))
    dev = Device(kernel, "toy0")
    dev.register()
    toy = Toy(dev, [])
    vfio_register_group_dev(toy)
    user = kernel.process(uid=1000)
    return SimpleNamespace(kernel=kernel, toy=toy, proc=kernel.process(), user=user)


def test_debians_kernels_have_no_unprotected_mode(vfio_kernel):
    """Recorded: neither has the parameter."""
    assert "parameters" not in vfio_kernel.process().listdir("/sys/module/vfio")


def test_an_unprotected_device_without_the_option_is_refused(boot_vfio):
    from vfiotoy import Toy

    from pykernel.base.core import Device
    from pykernel.vfio.main import vfio_register_group_dev

    kernel = boot_vfio(config=("VFIO_NOIOMMU",))
    dev = Device(kernel, "toy0")
    dev.register()
    assert errno_of(vfio_register_group_dev, Toy(dev, [])) == EINVAL
    assert kernel.process().listdir("/dev/vfio") == ["vfio"]


def test_an_unprotected_group_taints(noiommu):
    w = noiommu
    assert "noiommu-0" in w.proc.listdir("/dev/vfio")
    assert w.proc.read_text("/sys/kernel/iommu_groups/0/name") == "vfio-noiommu\n"
    assert w.proc.read_text("/proc/sys/kernel/tainted") == "64\n"
    assert "Adding kernel taint for vfio-noiommu group on device" in w.kernel.log.human()
    assert w.toy.the_device.devt == 0  # no node of its own (device_cdev.c)


def test_an_unprotected_container_has_one_type(noiommu):
    w = noiommu
    c = w.proc.open("/dev/vfio/vfio", 2)
    assert answer(w, c, CHECK, v.VFIO_NOIOMMU_IOMMU) == 1
    set_container(w.proc, open_group(w.proc, w.toy), c)
    assert answer(w, c, CHECK, v.VFIO_TYPE1_IOMMU) == 0  # only its own driver may be asked
    assert answer(w, c, SET_IOMMU, v.VFIO_TYPE1_IOMMU) == -ENODEV
    assert answer(w, c, SET_IOMMU, v.VFIO_NOIOMMU_IOMMU) == 0
    assert answer(w, c, SET_IOMMU, v.VFIO_NOIOMMU_IOMMU) == -EINVAL
    assert answer(w, c, CHECK, v.VFIO_NOIOMMU_IOMMU) == 1
    w.proc.write_text("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "0")
    assert answer(w, c, CHECK, v.VFIO_NOIOMMU_IOMMU) == 0
    assert answer(w, c, v.VFIO_IOMMU_MAP_DMA, 0) == -ENOTTY


def test_an_unprotected_device_is_for_who_may_do_raw_io(noiommu):
    w = noiommu
    w.proc.chmod("/dev/vfio/noiommu-0", 0o666)
    assert errno_of(w.user.open, "/dev/vfio/noiommu-0", 2) == EPERM
    c, g = w.proc.open("/dev/vfio/vfio", 2), open_group(w.proc, w.toy)
    set_container(w.proc, g, c)
    w.proc.ioctl(c, SET_IOMMU, v.VFIO_NOIOMMU_IOMMU)
    get_device_fd(w.proc, g, "toy0")
    assert f"vfio-noiommu device opened by user (test:{w.proc.pid})" in w.kernel.log.human()


def test_real_groups_and_unprotected_ones_do_not_mix(noiommu):
    w = noiommu
    real = add_toy(w.kernel, "toy1")
    for first, second in ((w.toy, real), (real, w.toy)):
        c = w.proc.open("/dev/vfio/vfio", 2)
        groups = [open_group(w.proc, first), open_group(w.proc, second)]
        set_container(w.proc, groups[0], c)
        assert errno_of(set_container, w.proc, groups[1], c) == EPERM
        for fd in (*groups, c):
            w.proc.close(fd)


def test_root_only_opens_a_group(w):
    assert errno_of(w.kernel.process(uid=1000).open, f"/dev/vfio/{w.toy.the_group.name}", 2) == EACCES
