"""The functions of libudev: src/libudev/libudev.sym and libudev.h of systemd 252."""

from __future__ import annotations

__all__ = ["SIGNATURES"]

# Name, arguments > result; the letters are those of libudev_abi.Functions.
ROWS = """
udev_new:  > p
udev_ref: o > p
udev_unref: * > p
udev_get_userdata: o > n
udev_set_userdata: ou > n
udev_get_log_priority: * > n
udev_set_log_priority: *i > n
udev_set_log_fn: ou > n
udev_list_entry_get_next: * > p
udev_list_entry_get_by_name: *s > p
udev_list_entry_get_name: o > s
udev_list_entry_get_value: o > s
udev_device_ref: o > p
udev_device_unref: * > n
udev_device_get_udev: o > p
udev_device_new_from_syspath: *s > p
udev_device_new_from_devnum: *cu > p
udev_device_new_from_subsystem_sysname: *ss > p
udev_device_new_from_device_id: *s > p
udev_device_new_from_environment: * > p
udev_device_get_parent: o > p
udev_device_get_parent_with_subsystem_devtype: osz > p
udev_device_get_devpath: o > s
udev_device_get_subsystem: o > s
udev_device_get_devtype: o > s
udev_device_get_syspath: o > s
udev_device_get_sysname: o > s
udev_device_get_sysnum: o > s
udev_device_get_devnode: o > s
udev_device_get_is_initialized: o > n
udev_device_get_devlinks_list_entry: o > p
udev_device_get_properties_list_entry: o > p
udev_device_get_tags_list_entry: o > p
udev_device_get_current_tags_list_entry: o > p
udev_device_get_sysattr_list_entry: o > p
udev_device_get_property_value: os > s
udev_device_get_driver: o > s
udev_device_get_devnum: o > n
udev_device_get_action: o > s
udev_device_get_seqnum: o > n
udev_device_get_usec_since_initialized: o > n
udev_device_get_sysattr_value: os > s
udev_device_set_sysattr_value: osz > i
udev_device_has_tag: os > n
udev_device_has_current_tag: os > n
udev_monitor_ref: o > p
udev_monitor_unref: * > n
udev_monitor_get_udev: o > p
udev_monitor_new_from_netlink: *z > p
udev_monitor_enable_receiving: o > i
udev_monitor_set_receive_buffer_size: oi > i
udev_monitor_get_fd: o > n
udev_monitor_receive_device: o > p
udev_monitor_filter_add_match_subsystem_devtype: osz > i
udev_monitor_filter_add_match_tag: os > i
udev_monitor_filter_update: o > i
udev_monitor_filter_remove: o > i
udev_enumerate_new: * > p
udev_enumerate_ref: o > p
udev_enumerate_unref: * > n
udev_enumerate_get_udev: o > p
udev_enumerate_add_match_subsystem: oz > i
udev_enumerate_add_nomatch_subsystem: oz > i
udev_enumerate_add_match_sysattr: ozz > i
udev_enumerate_add_nomatch_sysattr: ozz > i
udev_enumerate_add_match_property: ozz > i
udev_enumerate_add_match_sysname: oz > i
udev_enumerate_add_match_tag: oz > i
udev_enumerate_add_match_parent: o* > i
udev_enumerate_add_match_is_initialized: o > i
udev_enumerate_add_syspath: oz > i
udev_enumerate_scan_devices: o > i
udev_enumerate_scan_subsystems: o > i
udev_enumerate_get_list_entry: o > p
udev_queue_new: * > p
udev_queue_ref: o > p
udev_queue_unref: * > n
udev_queue_get_udev: o > p
udev_queue_get_kernel_seqnum: o > n
udev_queue_get_udev_seqnum: o > n
udev_queue_get_udev_is_active: o > n
udev_queue_get_queue_is_empty: o > n
udev_queue_get_seqnum_is_finished: ou > n
udev_queue_get_seqnum_sequence_is_finished: ouu > n
udev_queue_get_queued_list_entry: o > p
udev_queue_get_fd: o > n
udev_queue_flush: o > i
udev_hwdb_new: * > p
udev_hwdb_ref: o > p
udev_hwdb_unref: * > n
udev_hwdb_get_properties_list_entry: osu > p
udev_util_encode_string: s*u > i
"""
SIGNATURES: dict[str, str] = {name: kinds for name, _, kinds in (row.partition(": ") for row in ROWS.split("\n")[1:-1])}
