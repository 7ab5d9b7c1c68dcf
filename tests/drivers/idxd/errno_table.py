"""
What each attribute of the idxd driver answers, one row a check: attribute, state, input, answer.

The answers are those of drivers/dma/idxd/sysfs.c of Linux 6.1.192 and 6.12, and of the recorded runs of 6.1 and 7.2. A
row whose answer follows from reading alone and that no run has shown is marked uncertain.

States: fresh (loaded, nothing configured); device (bound, queue 0 configured: dedicated, 16 entries); wq (its queue
bound to `user`); shared (fresh, queue 0 has 16 entries, shared); limit (fresh, read_buffer_limit 10); engines (fresh,
engines 0 and 1 in group 0); fixed (cannot be configured); iax; v2 (a DSA of version 2); override (v2, tc_override=1).
"""

from __future__ import annotations

from typing import NamedTuple

ALL = ("linux-6.1", "linux-6.12", "linux-7.2")
NEWER = ("linux-6.12", "linux-7.2")
OLD = ("linux-6.1",)
LATEST = ("linux-7.2",)


class Row(NamedTuple):
    """Store *text* into *attr* in *state*: *want* is the errno's name, or what the attribute reads afterwards."""

    attr: str
    state: str
    text: str
    want: str
    profiles: tuple[str, ...] = ALL
    uncertain: bool = False


ROWS = (
    # device: read_buffer_limit_store(): parse, enabled, configurable, capability, range
    Row("dsa0/read_buffer_limit", "fresh", "x", "EINVAL"),
    Row("dsa0/read_buffer_limit", "fresh", "0x2", "EINVAL"),
    Row("dsa0/read_buffer_limit", "fresh", " 1", "EINVAL"),
    Row("dsa0/read_buffer_limit", "fresh", "1\n\n", "EINVAL"),
    Row("dsa0/read_buffer_limit", "fresh", "+1", "1\n"),
    Row("dsa0/read_buffer_limit", "fresh", "1\0junk", "1\n"),
    Row("dsa0/read_buffer_limit", "fresh", "96", "96\n"),
    Row("dsa0/read_buffer_limit", "fresh", "97", "EINVAL"),
    Row("dsa0/read_buffer_limit", "device", "x", "EINVAL"),
    Row("dsa0/read_buffer_limit", "device", "99999", "EPERM"),
    Row("dsa0/read_buffer_limit", "fixed", "x", "EINVAL"),
    Row("dsa0/read_buffer_limit", "fixed", "1", "EPERM"),
    Row("dsa0/token_limit", "fresh", "5", "5\n"),
    Row("dsa0/token_limit", "fresh", "97", "EINVAL"),
    # device: cmd_status_store() takes anything
    Row("dsa0/cmd_status", "fresh", "junk", "0x0\n"),
    Row("dsa0/cmd_status", "wq", "\n", "0x0\n"),
    # device: event_log_size_store(): parse, enabled, configurable, range
    Row("dsa0/event_log_size", "v2", "x", "EINVAL", NEWER),
    Row("dsa0/event_log_size", "v2", "63", "EINVAL", NEWER),
    Row("dsa0/event_log_size", "v2", "64", "64\n", NEWER),
    Row("dsa0/event_log_size", "v2", "65535", "65535\n", NEWER),
    Row("dsa0/event_log_size", "v2", "65536", "EINVAL", NEWER),
    Row("dsa0/event_log_size", "v2", "64", "ENOENT", OLD),
    Row("dsa0/event_log_size", "fresh", "64", "ENOENT"),
    # engine: engine_group_id_store(): parse, configurable, range; the state does not matter
    Row("engine0.0/group_id", "fresh", "x", "EINVAL"),
    Row("engine0.0/group_id", "fresh", "3", "3\n"),
    Row("engine0.0/group_id", "fresh", "4", "EINVAL"),
    Row("engine0.0/group_id", "fresh", "-1", "-1\n"),
    Row("engine0.0/group_id", "fresh", "-2", "EINVAL"),
    Row("engine0.0/group_id", "device", "1", "1\n"),
    Row("engine0.0/group_id", "wq", "1", "1\n"),
    Row("engine0.0/group_id", "fixed", "x", "EINVAL"),
    Row("engine0.0/group_id", "fixed", "99", "EPERM"),
    # group: group_use_read_buffer_limit_store(): parse, IAX, configurable, enabled, device limit
    Row("group0.0/use_read_buffer_limit", "fresh", "x", "EINVAL"),
    Row("group0.0/use_read_buffer_limit", "fresh", "0", "EPERM"),
    Row("group0.0/use_read_buffer_limit", "limit", "2", "1\n"),
    Row("group0.0/use_read_buffer_limit", "limit", "18446744073709551615", "1\n"),
    Row("group0.0/use_read_buffer_limit", "limit", "18446744073709551616", "EINVAL"),
    Row("group0.0/use_read_buffer_limit", "limit", "y", "EINVAL"),
    Row("group0.0/use_read_buffer_limit", "device", "99999", "EPERM"),
    Row("group0.0/use_token_limit", "limit", "1", "1\n"),
    Row("group0.0/use_read_buffer_limit", "iax", "1", "ENOENT"),
    # group: group_read_buffers_allowed_store(): ..., at least 4 an engine, at most reserved and free
    Row("group0.0/read_buffers_allowed", "fresh", "96", "96\n"),
    Row("group0.0/read_buffers_allowed", "fresh", "97", "EINVAL"),
    Row("group0.0/read_buffers_allowed", "fresh", "0", "0\n"),
    Row("group0.0/read_buffers_allowed", "engines", "7", "EINVAL"),
    Row("group0.0/read_buffers_allowed", "engines", "8", "8\n"),
    Row("group0.0/read_buffers_allowed", "device", "x", "EINVAL"),
    Row("group0.0/read_buffers_allowed", "device", "99999", "EPERM"),
    Row("group0.0/tokens_allowed", "fresh", "8", "8\n"),
    # group: group_read_buffers_reserved_store(): as allowed, at most what is free
    Row("group0.0/read_buffers_reserved", "fresh", "96", "96\n"),
    Row("group0.0/read_buffers_reserved", "fresh", "97", "EINVAL"),
    Row("group0.0/read_buffers_reserved", "device", "99999", "EPERM"),
    Row("group0.0/tokens_reserved", "fresh", "2", "2\n"),
    # group: group_traffic_class_a_store(): parse, configurable, enabled, version, range
    Row("group0.0/traffic_class_a", "fresh", "x", "EINVAL"),
    Row("group0.0/traffic_class_a", "fresh", "99", "EPERM"),
    Row("group0.0/traffic_class_b", "fresh", "0", "EPERM"),
    Row("group0.0/traffic_class_a", "override", "8", "EINVAL", uncertain=True),
    Row("group0.0/traffic_class_a", "override", "7", "7\n", uncertain=True),
    Row("group0.0/traffic_class_b", "override", "-1", "EINVAL", uncertain=True),
    # group: group_desc_progress_limit_store(): parse, range; hidden without the capability
    Row("group0.0/desc_progress_limit", "fresh", "1", "ENOENT"),
    Row("group0.0/desc_progress_limit", "v2", "3", "3\n"),
    Row("group0.0/desc_progress_limit", "v2", "4", "EINVAL"),
    Row("group0.0/batch_progress_limit", "v2", "-1", "EINVAL"),
    # wq: wq_group_id_store(): parse, configurable, queue, range
    Row("wq0.0/group_id", "fresh", "3", "3\n"),
    Row("wq0.0/group_id", "fresh", "4", "EINVAL"),
    Row("wq0.0/group_id", "fresh", "-0", "0\n"),
    Row("wq0.0/group_id", "device", "1", "1\n"),
    Row("wq0.0/group_id", "wq", "99", "EPERM"),
    Row("wq0.0/group_id", "wq", "x", "EINVAL"),
    Row("wq0.0/group_id", "fixed", "99", "EPERM"),
    # wq: wq_mode_store(): configurable, queue, text
    Row("wq0.0/mode", "fresh", "dedicated\n", "dedicated\n"),
    Row("wq0.0/mode", "fresh", "Dedicated", "EINVAL"),
    Row("wq0.0/mode", "fresh", "shared\n\n", "EINVAL"),
    Row("wq0.0/mode", "device", "shared", "shared\n"),
    Row("wq0.0/mode", "wq", "foo", "EPERM"),
    Row("wq0.0/mode", "fixed", "foo", "EPERM"),
    # wq: wq_size_store(): parse, configurable, device, sum
    Row("wq0.0/size", "fresh", "128", "128\n"),
    Row("wq0.0/size", "fresh", "129", "EINVAL"),
    Row("wq0.0/size", "fresh", "0", "0\n"),
    Row("wq0.0/size", "device", "x", "EINVAL"),
    Row("wq0.0/size", "device", "9999", "EPERM"),
    # wq: wq_priority_store(): parse, configurable, queue, range
    Row("wq0.0/priority", "fresh", "0", "0\n"),
    Row("wq0.0/priority", "fresh", "15", "15\n"),
    Row("wq0.0/priority", "fresh", "16", "EINVAL"),
    Row("wq0.0/priority", "device", "5", "5\n"),
    Row("wq0.0/priority", "wq", "99", "EPERM"),
    # wq: wq_block_on_fault_store(): capability, configurable, queue (ENXIO), parse
    Row("wq0.0/block_on_fault", "fresh", "on", "1\n"),
    Row("wq0.0/block_on_fault", "fresh", "true", "1\n"),
    Row("wq0.0/block_on_fault", "fresh", "o", "EINVAL"),
    Row("wq0.0/block_on_fault", "fresh", "1\n\n", "1\n"),
    Row("wq0.0/block_on_fault", "fresh", "enable", "EINVAL", ("linux-6.1", "linux-6.12")),
    Row("wq0.0/block_on_fault", "fresh", "enable", "1\n", LATEST),
    Row("wq0.0/block_on_fault", "wq", "x", "ENXIO"),
    Row("wq0.0/block_on_fault", "fixed", "x", "EPERM"),
    # wq: wq_threshold_store(): parse (any base), range, configurable, queue (ENXIO), mode
    Row("wq0.0/threshold", "shared", "0x10", "16\n"),
    Row("wq0.0/threshold", "shared", "020", "16\n"),
    Row("wq0.0/threshold", "shared", "17", "EINVAL"),
    Row("wq0.0/threshold", "shared", "0", "EINVAL"),
    Row("wq0.0/threshold", "shared", "0b1", "EINVAL"),
    Row("wq0.0/threshold", "device", "1", "EINVAL"),
    Row("wq0.0/threshold", "wq", "9999", "EINVAL"),
    Row("wq0.0/threshold", "wq", "1", "ENXIO"),
    Row("wq0.0/threshold", "fixed", "1", "EPERM"),
    # wq: wq_type_store(): queue, text
    Row("wq0.0/type", "fresh", "user\n", "user\n"),
    Row("wq0.0/type", "fresh", "mdev", "EINVAL"),
    Row("wq0.0/type", "fresh", "user ", "EINVAL"),
    Row("wq0.0/type", "wq", "foo", "EPERM"),
    Row("wq0.0/type", "fixed", "user", "user\n"),
    # wq: wq_name_store(): queue, length
    Row("wq0.0/name", "fresh", "  b c  \n", "b c\n"),
    Row("wq0.0/name", "fresh", "a" * 1024, "a" * 1024 + "\n"),
    Row("wq0.0/name", "fresh", "a" * 1025, "EINVAL"),
    Row("wq0.0/name", "fresh", "x\0y", "x\n"),
    Row("wq0.0/name", "fresh", "\0", "EINVAL"),
    Row("wq0.0/name", "wq", "a" * 2000, "EPERM"),
    # wq: wq_driver_name_store(): queue, length
    Row("wq0.0/driver_name", "fresh", "user", "ENOENT", OLD),
    Row("wq0.0/driver_name", "fresh", " user\n", "user\n", NEWER),
    Row("wq0.0/driver_name", "fresh", "a" * 128, "a" * 128 + "\n", NEWER),
    Row("wq0.0/driver_name", "fresh", "a" * 129, "EINVAL", NEWER),
    Row("wq0.0/driver_name", "wq", "a" * 2000, "EPERM", NEWER),
    # wq: wq_max_transfer_size_store(): configurable, queue, parse (any base, not 0, rounded up), range
    Row("wq0.0/max_transfer_size", "fresh", "3", "4\n"),
    Row("wq0.0/max_transfer_size", "fresh", "0", "EINVAL"),
    Row("wq0.0/max_transfer_size", "fresh", "2147483648", "2147483648\n"),
    Row("wq0.0/max_transfer_size", "fresh", "2147483649", "EINVAL"),
    Row("wq0.0/max_transfer_size", "fresh", "9223372036854775808", "EINVAL"),
    Row("wq0.0/max_transfer_size", "fresh", "9223372036854775809", "1\n"),
    Row("wq0.0/max_transfer_size", "wq", "0", "EPERM"),
    Row("wq0.0/max_transfer_size", "fixed", "0", "EPERM"),
    # wq: wq_max_batch_size_store(): the same checks
    Row("wq0.0/max_batch_size", "fresh", "1000", "1024\n"),
    Row("wq0.0/max_batch_size", "fresh", "1025", "EINVAL"),
    Row("wq0.0/max_batch_size", "fresh", "18446744073709551615", "1\n"),
    Row("wq0.0/max_batch_size", "wq", "0", "EPERM"),
    Row("wq0.0/max_batch_size", "iax", "2", "ENOENT"),
    # wq: wq_ats_disable_store(): queue, (6.1: capability; later: configurable), parse
    Row("wq0.0/ats_disable", "fresh", "off", "0\n"),
    Row("wq0.0/ats_disable", "fresh", "2", "EINVAL"),
    Row("wq0.0/ats_disable", "wq", "x", "EPERM"),
    Row("wq0.0/ats_disable", "fixed", "1", "1\n", OLD, uncertain=True),
    Row("wq0.0/ats_disable", "fixed", "x", "EPERM", NEWER),
    # wq: wq_prs_disable_store(): queue, configurable, parse
    Row("wq0.0/prs_disable", "fresh", "1", "ENOENT"),
    Row("wq0.0/prs_disable", "v2", "1", "ENOENT", OLD),
    Row("wq0.0/prs_disable", "v2", "1", "1\n", NEWER),
    Row("wq0.0/prs_disable", "v2", "x", "EINVAL", NEWER),
    # wq: wq_enqcmds_retries_store(): mode, parse with the parser's own errno; more than 64 means 64
    Row("wq0.0/enqcmds_retries", "fresh", "65", "64\n"),
    Row("wq0.0/enqcmds_retries", "fresh", "0x10", "EINVAL"),
    Row("wq0.0/enqcmds_retries", "fresh", "4294967296", "ERANGE"),
    Row("wq0.0/enqcmds_retries", "device", "x", "EOPNOTSUPP"),
    # wq: wq_op_config_store(): queue, parse, inside OPCAP
    Row("wq0.0/op_config", "fresh", "1", "ENOENT"),
    Row("wq0.0/op_config", "v2", "zz", "EINVAL"),
    Row("wq0.0/op_config", "v2", "0x1", "EINVAL"),
    Row("wq0.0/op_config", "v2", "123456789", "EOVERFLOW"),
    Row("wq0.0/op_config", "v2", "1,0,0,0,0,0,0,0,0", "EOVERFLOW"),
    Row("wq0.0/op_config", "v2", "80000000,0,0,0,0,0,0,0", "EINVAL"),
    Row("wq0.0/op_config", "v2", "\n", ",".join(["00000000"] * 8) + "\n"),
    Row("wq0.0/op_config", "v2", "1,,9", ",".join(["00000000"] * 6 + ["00000001", "00000009"]) + "\n"),
    # files without a store
    *(
        Row(f"dsa0/{attr}", "fresh", "1", "EACCES")
        for attr in ("version", "state", "op_cap", "clients", "errors", "cdev_major")
    ),
    *(Row(f"wq0.0/{attr}", "fresh", "1", "EACCES") for attr in ("clients", "state", "cdev_minor", "occupancy")),
    *(Row(f"group0.0/{attr}", "fresh", "1", "EACCES") for attr in ("work_queues", "engines")),
)
