"""
libvfio-user's test suite (test/py, of June 2026): which of its cases are mirrored here, and why the others are not.

libvfio-user is VFIO's ABI over a socket, for devices in user space: cases of the socket, of its library's functions and
of scatter-gather lists have nothing in Linux's ioctls that they could be asked of.
"""

from __future__ import annotations

import ast
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

# file: its functions, both without "test_"
CASES = {
    "destroy": "destroy_ctx",
    "device_get_info": "device_get_info",
    "device_get_irq_info": """
        device_get_irq_info_setup device_get_irq_info_bad_in device_get_irq_info device_get_irq_info_cleanup""",
    "device_get_region_info": """
        device_get_region_info_setup device_get_region_info_short_write device_get_region_info_bad_argsz
        device_get_region_info_bad_index device_get_region_info_larger_argsz
        device_get_region_info_small_argsz_caps device_get_region_info_caps device_get_region_info_cleanup
        device_get_pci_config_space_info_implicit_pci_init
        device_get_pci_config_space_info_implicit_no_pci_init device_get_region_info_32bit_bar_size_detection
        64bit_bar_size_detection_protocol""",
    "device_get_region_info_zero_size": "device_get_region_info_setup device_get_region_info_zero_sized_region",
    "device_get_region_io_fds": """
        device_get_region_io_fds_setup device_get_region_io_fds_bad_flags device_get_region_io_fds_bad_count
        device_get_region_io_fds_buffer_too_small device_get_region_io_fds_buffer_too_large
        device_get_region_io_fds_no_fds device_get_region_io_fds_no_regions_setup
        device_get_region_io_fds_region_no_mmap device_get_region_io_fds_region_out_of_range
        device_get_region_io_fds_fds_read_write device_get_region_io_fds_full
        device_get_region_io_fds_fds_read_write_nothing device_get_region_io_fds_fds_read_write_dupe_fd
        device_get_region_io_fds_ioeventfd_invalid_size device_get_region_info_cleanup
        device_get_region_io_fds_invalid_fd""",
    "device_set_irqs": """
        device_set_irqs_setup device_set_irqs_no_irq_set device_set_irqs_short_write device_set_irqs_bad_argsz
        device_set_irqs_bad_index device_set_irqs_bad_flags_MASK_and_UNMASK
        device_set_irqs_bad_flags_DATA_NONE_and_DATA_BOOL device_set_irqs_bad_start_count_range
        device_set_irqs_bad_start_count_range2 device_set_irqs_bad_start_count_range3
        device_set_irqs_bad_action_for_err_irq device_set_irqs_bad_action_for_req_irq
        device_set_irqs_bad_start_count_range_for_err_irq device_set_irqs_bad_start_count_range_for_req_irq
        device_set_irqs_bad_start_for_count_0 device_set_irqs_bad_action_for_count_0
        device_set_irqs_bad_action_and_data_type_for_count_0 device_set_irqs_bad_fds_for_DATA_BOOL
        device_set_irqs_bad_fds_for_DATA_NONE device_set_irqs_bad_fds_for_count_2 device_set_irqs_disable
        device_set_irqs_enable device_set_irqs_trigger_bool_too_small device_set_irqs_trigger_bool_too_large
        device_set_irqs_enable_update device_set_irqs_enable_trigger_none device_set_irqs_enable_trigger_bool
        irq_state device_set_irqs_cleanup""",
    "dirty_pages": """
        dirty_pages_setup setup_migration dirty_pages_start_zero_pgsize dirty_pages_start
        dirty_pages_start_different_pgsize dirty_pages_get_unmodified dirty_pages_get_modified
        dirty_pages_invalid_arguments dirty_pages_stop dirty_pages_cleanup dirty_pages_uninitialised_dma
        dirty_pages_ctx_no_stop""",
    "dma_map": """
        dma_region_too_big dma_region_too_many dma_map_busy dma_map_reply_fail dma_map_busy_reply_fail""",
    "dma_unmap": """
        dma_unmap_short_write dma_unmap_bad_argsz dma_unmap_bad_argsz2 dma_unmap_dirty_bad_argsz
        dma_unmap_dirty_not_tracking dma_unmap_invalid_flags dma_unmap dma_unmap_invalid_addr dma_unmap_async
        dma_unmap_all dma_unmap_all_invalid_addr dma_unmap_all_invalid_flags""",
    "irq_trigger": """
        irq_trigger_setup irq_trigger_bad_subindex irq_trigger_no_interrupt irq_trigger irq_trigger_cleanup""",
    "migration": """
        migration_setup migration_shortest_state_transition_paths migration_stop_copy_to_pre_copy_rejected
        migration_nonexistent_state migration_failed_callback migration_get_state handle_mig_data_read
        handle_mig_data_read_too_long handle_mig_data_read_failed_callback handle_mig_data_read_short_write
        handle_mig_data_write handle_mig_data_write_invalid_state handle_mig_data_write_too_long
        handle_mig_data_write_failed_callback handle_mig_data_write_short_write device_feature_migration_get
        device_feature_short_write device_feature_unsupported_operation device_feature_bad_argsz_probe
        device_feature_bad_argsz_get_migration device_feature_bad_argsz_get_dma device_feature_bad_argsz_set
        device_feature_probe migration_cleanup""",
    "negotiate": """
        server_setup short_write long_write bad_command invalid_major invalid_json_missing_NUL
        invalid_json_missing_closing_brace invalid_json_missing_closing_quote
        invalid_json_bad_capabilities_object invalid_json_bad_max_fds invalid_json_bad_max_fds2
        invalid_json_bad_max_fds3 invalid_json_bad_migration_object invalid_json_bad_pgsize
        invalid_json_bad_pgsize2 valid_negotiate_no_json valid_negotiate_empty_json valid_negotiate_json
        destroying""",
    "pci_caps": """
        pci_cap_bad_flags pci_cap_no_cb pci_cap_unknown_cap pci_cap_bad_pos add_caps pci_cap_write_px
        pci_cap_write_msi pci_cap_write_msix pci_cap_write_pxdc2 pci_cap_write_pxlc2""",
    "pci_ext_caps": """
        pci_ext_cap_conventional pci_ext_cap_setup pci_ext_cap_unknown_cap pci_ext_cap_bad_pos add_ext_caps
        find_ext_caps pci_ext_cap_write_hdr pci_ext_cap_readonly pci_ext_cap_callback pci_ext_cap_write_dsn
        pci_ext_cap_write_vendor pci_ext_cap_cleanup""",
    "quiesce": """
        device_quiesced_no_quiesce_requested device_quiesce_error device_quiesce_error_after_busy
        allowed_funcs_in_quiesced_dma_register allowed_funcs_in_quiesced_dma_unregister
        allowed_funcs_in_quiesced_dma_register_busy allowed_funcs_in_quiesced_dma_unregister_busy
        allowed_funcs_in_quiesced_migration allowed_funcs_in_quiesced_migration_busy
        allowed_funcs_in_quiesced_reset allowed_funcs_in_quiesced_reset_busy flr""",
    "request_errors": """
        too_small too_large unsolicited_reply bad_command no_payload bad_request_closes_fds
        disconnected_socket disconnected_socket_quiesce_busy reply_fail_quiesce_busy""",
    "setup_region": """
        setup_region_setup setup_region_bad_flags setup_region_bad_mmap_areas setup_region_bad_index
        setup_region_bad_pci setup_region_64bit_bar_odd_indices setup_region_64bit_even_then_odd_fails
        setup_region_64bit_odd_then_even_fails setup_region_cfg_always_cb_nocb setup_region_cfg_always_cb
        region_offset_overflow access_region_zero_count access_region_large_count region_offset_too_short
        setup_region_large_64bit_bar_sizes setup_region_cleanup""",
    "sgl_get_put": """
        dma_sg_size sgl_get_with_invalid_region sgl_get_without_fd get_multiple_sge sgl_put
        sgl_get_put_cleanup""",
    "sgl_read_write": """
        dma_read_write dma_read_write_large dma_read_write_error dma_read_write_bad_flags
        dma_read_write_bad_sg_count""",
    "shadow_ioeventfd": "shadow_ioeventfd_none shadow_ioeventfd",
    "vfu_create_ctx": """
        vfu_create_ctx_bad_trans vfu_create_ctx_bad_flags vfu_create_ctx_bad_dev_type vfu_create_ctx_default""",
    "vfu_realize_ctx": """
        vfu_realize_ctx_twice vfu_unrealized_ctx vfu_realize_ctx_default vfu_realize_ctx_pci_bars
        vfu_realize_ctx_irqs vfu_realize_ctx_caps""",
}

FIXTURE = "makes or ends what the cases of its file share: fixtures here"
TRANSPORT = "about messages on a socket: too short, too long, lost, with descriptors beside them"
LIBRARY = "about how a device in user space calls the library, which builds the device: silicon is given here"
QUIESCE = "a device of the library may ask its client to wait; an ioctl of Linux returns when it is done"
SGL = "the library's lists of pieces of its client's memory; Linux has vfio_pin_pages() and vfio_dma_rw()"
IO_FDS = "a message of vfio-user only: descriptors that stand for parts of a region"

# "file:function", with wildcards: why there is no such test
NOT_HERE = {
    "*:*_setup": FIXTURE,
    "*:setup_*": FIXTURE,
    "*:*_cleanup": FIXTURE,
    "negotiate:*": TRANSPORT,
    "request_errors:*": TRANSPORT,
    "migration:handle_mig_data_*_short_write": TRANSPORT,
    "device_set_irqs:device_set_irqs_bad_fds_for_DATA_*": TRANSPORT,
    "setup_region:region_offset_too_short": TRANSPORT,
    "dma_map:*_reply_fail": TRANSPORT,
    "destroy:*": LIBRARY,
    "vfu_create_ctx:*": LIBRARY,
    "vfu_realize_ctx:*": LIBRARY,
    "pci_caps:pci_cap_bad_*": LIBRARY,
    "pci_caps:pci_cap_no_cb": LIBRARY,
    "pci_caps:pci_cap_unknown_cap": LIBRARY,
    "pci_caps:add_caps": LIBRARY,
    "pci_ext_caps:pci_ext_cap_conventional": LIBRARY,
    "pci_ext_caps:pci_ext_cap_unknown_cap": LIBRARY,
    "pci_ext_caps:pci_ext_cap_bad_pos": LIBRARY,
    "pci_ext_caps:pci_ext_cap_callback": LIBRARY,
    "pci_ext_caps:*_ext_caps": LIBRARY,
    "setup_region:setup_region_bad_*": LIBRARY,
    "setup_region:setup_region_64bit_*": LIBRARY,
    "setup_region:setup_region_cfg_always_*": LIBRARY,
    "quiesce:*": QUIESCE,
    "dma_map:dma_map_busy": QUIESCE,
    "dma_unmap:dma_unmap_async": QUIESCE,
    "sgl_get_put:*": SGL,
    "sgl_read_write:dma_read_write_bad_*": SGL,
    "device_get_region_io_fds:*": IO_FDS,
    "shadow_ioeventfd:*": IO_FDS,
}
# what begins as a fixture does and is a case
MIRRORED_ANYWAY = ("setup_region_large_64bit_bar_sizes",)


def here():
    """The names of the tests of the modules beside this one."""
    modules = Path(__file__).parent.glob("test_libvfio_user_*.py")
    trees = [ast.parse(path.read_text()) for path in modules]
    return {
        node.name.removeprefix("test_")
        for tree in trees
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


HERE = here()
ALL = [f"{file}:{name}" for file, names in CASES.items() for name in names.split()]


def reasons(case):
    name = case.partition(":")[2]
    return [] if name in MIRRORED_ANYWAY else [why for row, why in NOT_HERE.items() if fnmatchcase(case, row)]


@pytest.mark.parametrize("case", ALL)
def test_every_case_is_mirrored_or_listed(case):
    """Not both."""
    assert (case.partition(":")[2] in HERE) != bool(reasons(case))


@pytest.mark.parametrize("row", NOT_HERE)
def test_every_row_is_about_a_case(row):
    """None is left over from a case that went."""
    assert any(fnmatchcase(case, row) for case in ALL)


def test_every_mirrored_case_has_an_original():
    """A test beside this one with another name says by its beginning whose variant it is."""
    names = {case.partition(":")[2] for case in ALL}
    strangers = {name for name in HERE - names if not any(name.startswith(f"{known}_") for known in names)}
    assert strangers == set()
