"""
PASIDs, shared address spaces, ENQCMD and their virtualisation: which test has which row of what is known of them.

Sections: 1 IOASIDs, 2 shared address spaces, 3 instructions, 4 translation by the processor, 5 the IOMMU, 6 from end to
end, 7 moving, 9 where sources disagree. A row that is deliberately not built has its reason in NOT_BUILT.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

FILES = {
    "ids": "iommu/test_ioasid.py",
    "allocators": "iommu/test_ioasid_allocators.py",
    "events": "iommu/test_ioasid_events.py",
    "user": "iommu/test_ioasid_user.py",
    "rows": "iommu/test_rows_ioasid.py",
    "gpasid": "iommu/test_gpasid.py",
    "gpasid races": "iommu/test_gpasid_races.py",
    "sva": "iommu/test_sva_rows.py",
    "vcmd driver": "iommu/test_vcmd.py",
    "requests": "iommu/test_vtd_page_requests.py",
    "tables": "iommu/test_vtd_tables.py",
    "decode": "cpu/test_decode.py",
    "enqcmd": "cpu/test_enqcmd.py",
    "msr": "cpu/test_pasid_msr.py",
    "cpu rows": "cpu/test_rows_enqcmd.py",
    "dmwr": "pci/test_dmwr.py",
    "dmwr dsa": "pci/test_dmwr_dsa.py",
    "swq": "hw/dsa/test_dsa_swq.py",
    "ims": "hw/dsa/test_dsa_ims.py",
    "idxd": "drivers/idxd/test_idxd_swq.py",
    "idxd rows": "drivers/idxd/test_rows_retries.py",
    "cdev": "drivers/idxd/test_idxd_cdev.py",
    "walk": "hw/vtd/test_vtd_walk.py",
    "faults": "hw/vtd/test_vtd_faults.py",
    "queue": "hw/vtd/test_vtd_queue.py",
    "prq": "hw/vtd/test_vtd_prq.py",
    "vcmd": "hw/vtd/test_vtd_vcmd.py",
    "vtd rows": "hw/vtd/test_rows_vtd.py",
    "kvm": "virt/test_kvm_pasid_rows.py",
    "gate": "virt/test_kvm_gate.py",
    "kvm rows": "virt/test_rows_kvm.py",
    "vdsa": "drivers/vdsa/test_vdsa_pasid.py",
    "portal": "drivers/vdsa/test_vdsa_portal.py",
    "moving": "drivers/vdsa/test_vdsa_migration.py",
    "vdsa rows": "drivers/vdsa/test_rows_vdsa.py",
    "viommu": "tools/test_vmm_viommu.py",
    "end to end": "tools/test_vmm_end_to_end.py",
    "machine": "tools/test_vmm_machine.py",
    "functions": "tools/test_vmm_vf.py",
    "vmm": "tools/test_rows_vmm.py",
    "migration": "tools/test_rows_migration.py",
    "migrating load": "tools/test_vmm_migration.py",
}

# row -> file: tests
ROWS: dict[str, str] = {
    # ---- 1: IOASIDs
    "0 constants": "rows: 0_constants; msr: numbers; kvm rows: 0_exit_reasons_and_directories",
    "1.1 system pool": "rows: 1_1_system_pool_starts_at_2_20_all_of_it_available",
    "1.1 set, id": "rows: 1_1_set_and_id_have_their_fields, 1_1_set_ids_are_used_again",
    "1.1 allocator data": "allocators: the_same_pair_joins_its_group_and_shares_the_ids",
    "1.1 pending nb entry": "events: register_notifier_mm_before_there_is_a_set_hears_the_first_id",
    "1.1 ordered workqueue": "rows: 1_1_ordered_workqueue_is_called_ioasid_wq; "
    "ids: queue_work_runs_in_order_and_flush_waits_for_all",
    "1.1 locking": "rows: 1_1_lookups_need_no_lock, 1_1_notifiers_are_called_with_the_lock_held",
    "1.2 set types": "rows: 1_2_set_types_null_1_mm_2_nr_3; ids: set_alloc_einval, set_alloc_eexist_is_one_set_an_mm",
    "1.3 states": "rows: 1_3_states, 1_3_life_patterns_end_free",
    "1.4 install_capacity": "ids: install_capacity_is_taken_once, install_capacity_keeps_what_sets_were_promised",
    "1.4 reserve_capacity": "ids: reserve_capacity; rows: 1_4_reserved_ids_are_in_no_sets_quota",
    "1.4 cancel_capacity": "ids: cancel_capacity, cancel_capacity_does_not_take_what_is_a_sets",
    "1.4 set_alloc": "ids: set_alloc_takes_the_quota_of_the_pool, set_alloc_quota_0_is_all_that_is_left, "
    "set_alloc_enomem",
    "1.4 set_free": "ids: set_free, set_free_ebusy_and_the_set_goes_with_its_last_id",
    "1.4 adjust_set": "ids: adjust_set; rows: 1_4_adjust_set_of_a_set_that_is_gone_is_einval",
    "1.4 find_mm_set, find_set": "ids: find_mm_set, find_set",
    "1.4 set_for_each_ioasid": "ids: set_for_each_ioasid; rows: 1_4_set_for_each_ioasid_holds_no_lock",
    "1.4 free_all_in_set": "ids: free_all_in_set_tells_each_that_is_used",
    "1.4 alloc": "ids: alloc_is_the_lowest_of_the_range_both_ends_included, alloc_begins_idle_with_one_reference, "
    "alloc_without_a_live_set, alloc_beyond_the_quota_is_told, alloc_without_memory",
    "1.4 free": "ids: free, free_of_another_sets_id_does_nothing, free_of_what_is_used_waits_for_the_last_put",
    "1.4 get": "ids: get, get_locked_needs_the_lock",
    "1.4 get_if_owned": "ids: get_if_owned",
    "1.4 put": "ids: put, the_last_put_frees_without_an_event",
    "1.4 find": "ids: find, find_also_what_is_being_freed",
    "1.4 attach_data, detach_data": "ids: attach_data, detach_data, detach_data_may_sleep",
    "1.4 attach_spid": "ids: attach_spid, attach_spid_wider_than_20_bits_is_refused_not_masked",
    "1.4 detach_spid": "ids: detach_spid; events: unbind_is_told_while_the_spid_is_still_there",
    "1.4 find_by_spid": "ids: find_by_spid, find_by_spid_of_a_dead_set",
    "1.4 register_notifier": "events: register_notifier_twice_is_eexist, unregister_notifier, unregister_may_sleep",
    "1.4 register_notifier_mm": "events: register_notifier_mm_ebusy, register_notifier_mm_enomem, "
    "register_notifier_mm_with_an_empty_set, unregister_notifier_mm, unregister_notifier_refuses_what_came_by_mm",
    "1.4 notify": "events: notify",
    "1.4 queue_work": "ids: queue_work_runs_in_order_and_flush_waits_for_all",
    "1.4 register_allocator": "allocators: register_enomem, custom_beats_default_and_is_active_at_once",
    "1.4 unknown ids": "rows: 1_4_free_and_get_by_the_wrong_kernel_object_change_nothing",
    "1.5 default allocator": "allocators: the_default_allocator_is_always_there",
    "1.5 precedence": "allocators: custom_beats_default_and_is_active_at_once",
    "1.5 first registration": "allocators: first_registration_is_eagain_while_the_default_has_outstanding_ids",
    "1.5 another pair": "allocators: a_new_pair_of_functions_waits_at_the_tail",
    "1.5 same pair": "allocators: the_same_pair_joins_its_group_and_shares_the_ids",
    "1.5 same object": "allocators: the_same_object_again_is_eexist",
    "1.5 what core stores": "allocators: a_failed_store_gives_the_id_back, what_the_allocator_gives_twice_is_refused",
    "1.5 unregister": "allocators: the_last_one_makes_way_for_the_default, "
    "ids_whose_allocator_went_are_told_and_never_given_out_again_while_they_live",
    "1.5 guest use": "vcmd driver: allocate_and_free",
    "1.5 range check": "vcmd driver: range_check_in_guest_allocator, free_of_an_active_id_is_refused",
    "1.6 events": "events: values, which_chain_hears_which_event, other_sets_hear_nothing",
    "1.6 level-sensitive": "events: free_is_told_once_and_only_when_somebody_has_it; "
    "gpasid: several_devices_make_one_bind_and_one_unbind",
    "1.6 priorities": "events: priorities_within_a_chain; vmm: 1_6_kvm_hears_before_the_device_driver; "
    "rows: 1_6_iommu_listens_on_the_chain_of_all_with_the_priority_of_version_4; "
    "kvm rows: 1_6_kvm_is_on_the_sets_chain_with_the_cpus_priority; "
    "vdsa rows: 1_6_device_driver_is_on_the_sets_chain_with_the_devices_priority",
    "1.6 context": "events: a_notifier_must_not_sleep_nor_cause_events, a_notifier_queues_what_must_wait, "
    "a_notifier_may_take_and_drop_references_by_the_locked_calls",
    "1.7 normal": "events: reference_life_cycle; gate: references_of_the_normal_life_cycle; "
    "vmm: 1_7_references_of_a_real_machine",
    "1.7 abnormal": "gpasid: free_before_unbind, free_before_unbind_with_several_devices; "
    "vmm: 1_7_free_before_unbind_in_a_real_machine",
    "1.7 hard rules": "vdsa rows: 1_7_lazy_clearing_holds_a_reference_until_the_hardware_is_clean; "
    "gate: references_are_dropped_when_the_machine_goes_first; vmm: 1_7_when_the_vmm_dies_first_all_references_go",
    "1.7 native": "sva: pasid_lifetime, exit",
    "1.8 node, open": "user: node, open_makes_an_mm_set_of_quota_1000_and_the_second_open_is_ebusy; "
    "rows: 1_8_open_without_memory_is_enomem_and_without_ids_enospc",
    "1.8 close": "user: close_frees_the_ids_and_the_set, close_while_an_id_is_used_leaves_the_set_until_the_last_put",
    "1.8 ioctls": "user: get_api_version, get_info, request_alloc_einval, request_free, unknown_ioctl_is_einval, "
    "request_alloc_gives_the_lowest_of_the_range_both_ends_included",
    "1.8 cgroup": "rows: 1_8_cgroup_ioasids_charges_each_id_of_a_process; ids: cgroup_charges_mm_sets_only",
    # ---- 2: shared address spaces
    "2 API": "sva: api_and_refcounts",
    "2 one process, one PASID": "sva: one_process_one_pasid",
    "2 lifetime": "sva: pasid_lifetime, a_pasid_stays_its_own_while_a_device_is_bound",
    "2 initial value": "sva: initial_value",
    "2 errors of allocation": "sva: alloc_errors_overflow, alloc_errors_no_id, alloc_errors_no_memory",
    "2 errors of VT-d": "sva: vt_d_bind_errors",
    "2 SVM-capable": "sva: svm_capable_check",
    "2 fork, clone, exec": "sva: fork_clone_exec; msr: a_child_has_no_pasid_and_no_portal, "
    "a_new_thread_begins_with_a_clear_register_and_the_same_pasid, exec_takes_the_pasid_and_the_state",
    "2 exit": "sva: exit",
    "2 lazy load": "msr: the_first_enqcmd_of_a_thread_loads_the_register, without_a_pasid_a_gp_is_sigsegv, "
    "once_per_task",
    "2 register after unbind": "msr: the_register_stays_valid_after_unbind",
    "2 init optimisation": "msr: the_init_optimisation",
    "2 kernel code": "enqcmd: the_kernel_must_not_execute_enqcmd; dmwr: kernel_submissions_are_enqcmds",
    "2 portal": "cdev: a_child_has_the_descriptor_but_not_the_right; idxd: user_mapping_always_uses_the_limited_portal",
    # ---- 3: instructions
    "3.1 opcodes": "decode: what_the_assembler_makes_is_what_is_decoded, prefix_0f_38_f8; "
    "cpu rows: 3_1_address_size_and_segment_prefixes_do_not_make_it_another",
    "3.1 operands": "enqcmd: the_source_is_an_ordinary_load_of_any_alignment, movdir64b_is_raw_and_leaves_no_status",
    "3.1 PASID, PRIV": "enqcmd: enqcmd_image_is_the_msrs_pasid_with_priv_zero_and_the_sources_rest, "
    "enqcmds_image_is_the_source",
    "3.2 image": "cpu rows: 3_2_the_image_byte_by_byte",
    "3.3 flags": "enqcmd: zf_is_retry_and_the_others_are_clear, "
    "a_target_that_is_no_enqueue_register_is_zf_1_and_nothing_is_written; "
    "cpu rows: 3_3_retry_leaves_the_queue_and_the_source_alone",
    "3.4 #UD": "enqcmd: ud_without_the_cpuid_bit; decode: ud_for_a_register_as_source_and_for_lock",
    "3.4 #GP": "enqcmd: gp_when_the_linear_address_is_no_multiple_of_64, gp_when_the_msr_is_not_valid, "
    "gp_when_bits_31_to_0_of_the_source_are_not_zero, gp_for_enqcmds_outside_of_privilege_level_0, "
    "gp_for_an_address_that_is_not_canonical",
    "3.4 #PF": "enqcmd: pf_on_the_source, pf_on_the_destination",
    "3.4 order": "enqcmd: the_order_of_checks",
    "3.5 ordering": "cpu rows: 3_5_what_was_stored_before_is_what_arrives",
    "3.6 completions": "dmwr: completion_codes, a_full_queue_is_a_retry, "
    "what_is_no_enqueue_register_is_an_unsupported_request",
    "3.6 capabilities": "dmwr: device_capabilities_2_of_a_completer, device_3_of_a_port, a_dsa_completes_them",
    "3.6 path": "dmwr: the_path_rule, every_port_on_the_way_is_asked_from_the_top; dmwr dsa: below_one_that_does_not",
    "3.7 depth": "swq: queue_depth_is_managed_by_hardware_full_means_retry_and_nothing_is_lost",
    "3.7 threshold": "swq: threshold_is_filled_through_a_limited_portal_and_the_rest_by_the_privileged",
    "3.7 portals": "swq: portals_4_pages_unlimited_limited_and_the_same_for_ims",
    "3.7 guest mapping": "portal: shared_queue_is_always_mapped_limited_and_with_ims, "
    "page_1_of_a_dedicated_queue_is_limited_and_others_ask_for_unlimited",
    "3.7 retries": "idxd: enqcmds_retries_cap_64_default_32, write_to_a_full_queue_is_eagain_after_the_retries; "
    "idxd rows: 3_7_retries_are_latched_at_entry",
    "3.7 fairness": "swq: retry_carries_no_reason",
    # ---- 4: translation by the processor
    "4.1 when": "kvm: when_the_control_is_1_and_the_instruction_runs_in_non_root_mode",
    "4.1 control 0": "kvm: control_0_sends_the_number_as_it_is_so_it_is_on_with_empty_tables",
    "4.1 selection, vectors": "kvm: selection_by_bit_19_then_9_and_10_bits",
    "4.1 directory, table": "kvm: directory_is_512_entries_of_8_bytes_present_and_address, "
    "table_is_1024_entries_of_4_bytes_pasid_and_valid, coverage_is_exactly_20_bits",
    "4.1 memory": "kvm: memory_is_2_pages_and_one_for_each_populated_block",
    "4.1 addresses": "kvm: addresses_in_the_vmcs_are_aligned_and_below_maxphyaddr",
    "4.1 scope": "kvm: scope_is_the_vm_one_pair_for_all_vmcss",
    "4.2 sequence": "kvm: sequence_replaces_bits_19_0_and_nothing_else, "
    "sequence_translates_before_the_address_is_looked_up; kvm rows: 4_2_rflags_are_untouched_by_the_exit_itself",
    "4.3 reasons": "kvm: reasons_72_enqcmd_73_enqcmds",
    "4.3 causes": "kvm: causes_not_present_not_valid_reserved, causes_each_reserved_bit_of_a_directory, "
    "causes_each_reserved_bit_of_a_table",
    "4.3 kind": "kvm: kind_is_fault_like_with_the_instruction_length",
    "4.3 qualification": "kvm: exit_qualification_reads_as_0",
    "4.3 handler": "kvm: talks_handler_sets_the_failure_flag_and_skips",
    "4.3 alternative": "kvm: alternative_of_tdx_is_gp_for_enqcmd_and_ud_for_enqcmds",
    "4.3 hazard": "kvm: hazard_of_endless_retries_is_counted_for_each_vm",
    "4.3 benefit": "kvm: benefit_the_window_between_bind_and_the_table_is_a_retry",
    "4.4 MSR": "kvm: msr_passthrough_between_two_runs_it_is_the_guests; "
    "enqcmd: in_nonroot_operation_only_ia32_pasid_passes_through",
    "4.4 XSS": "kvm: xss_bit_10_is_the_guests_and_does_not_exit",
    "4.4 needs": "kvm: needs_cpuid_xsaves_control_and_the_component_in_the_vcpus_state",
    "4.4 upstream": "kvm: upstream_status_no_ioctl_of_linux_is_missing_or_added",
    "4.5 rule": "gate: no_stale_translation_is_delivered_after_unbind_returned, mutants_deliver_stale_translations",
    "4.5 BIND, UNBIND": "kvm rows: 4_5_bind_allocates_a_page_and_unbind_frees_the_empty_one",
    "4.5 destroy": "kvm rows: 4_5_vm_destroy_frees_the_pages_and_drops_the_references",
    "4.5 kick": "gate: kick_cost_is_linear_in_processors_in_guest_mode, a_burst_is_one_update, "
    "a_halted_processor_or_one_in_user_space_is_not_kicked; "
    "kvm rows: 4_5_entry_gate_alone_stops_a_processor_in_user_space",
    "4.6 portal gate": "vdsa rows: 4_6_portal_is_blocked_until_kvm_confirms_that_it_translates",
    # ---- 5: the IOMMU
    "5.1 walk": "walk: a_pasid_is_split_14_to_6, lower_and_upper_half_of_a_bus; tables: split_of_a_pasid",
    "5.1 context entry": "walk: pdts_is_how_large_the_directory_is; tables: scalable_context_entry; "
    "vtd rows: 5_1_rid_priv_makes_requests_without_a_pasid_the_supervisors, "
    "5_1_context_bits_of_newer_revisions_are_reserved",
    "5.1 PASID entry": "faults: pasid_entries_that_no_unit_takes; vtd rows: 5_1_pgtt_1_to_4_and_no_other, "
    "5_1_snoop_and_memory_type_bits_change_no_address, 5_1_host_page_table_fields_of_newer_revisions_are_reserved; "
    "walk: supervisor_requests, extended_accessed_flag, second_stage_marks_with_ssade, five_levels_of_first_stage",
    "5.1 requests": "walk: first_stage_is_va_to_hpa, second_stage_is_iova_to_hpa, nested_is_gva_to_gpa_to_hpa, "
    "pass_through_is_identity, a_request_without_pasid_is_one_of_pasid_0_without_rps, "
    "a_request_without_pasid_is_one_of_rid_pasid_with_rps, pasids_are_blocked_with_pasid_enable_clear",
    "5.2 fault codes": "faults: reasons_of_scalable_mode, reserved_ttm, a_pasid_in_legacy_mode; "
    "vtd rows: 5_2_reason_43_context_entry_says_what_the_unit_has_not",
    "5.2 FPD": "faults: fpd_on_the_way_is_silence",
    "5.3 types": "vtd rows: 5_3_types_1_to_9_and_no_other; queue: narrow_descriptors_in_scalable_mode",
    "5.3 granularities": "vtd rows: 5_3_granularities; queue: iotlb_of_first_stage, the_pasid_cache",
    "5.3 teardown": "tables: teardown_order, teardown_of_two_stages; queue: linuxs_order_of_teardown",
    "5.3 drain": "requests: drain; gpasid: order_of_bind_and_unbind",
    "5.4 descriptor": "prq: the_descriptor",
    "5.4 response": "prq: the_response_ends_the_request; requests: no_response_unless_the_last_of_its_group, "
    "response_because_of_private_data",
    "5.4 checks": "requests: checks, unknown_pasid, address_spaces_that_have_no_such_page, "
    "guests_requests_are_their_owners",
    "5.4 ATS": "queue: a_device_remembers_until_it_is_told, a_device_tlb_before_the_iotlb_is_too_early",
    "5.5 who writes what": "walk: the_same_pasid_on_two_devices_is_two_entries; "
    "vtd rows: 5_5_one_pasid_on_a_second_function_needs_an_entry_of_its_own",
    "5.6 ADI": "vdsa rows: 5_6_adi_is_told_apart_by_pasid_under_the_functions_requester_id",
    "5.6 DWQ, SWQ": "vdsa: guest_pasid_is_translated_and_programmed, shared_queue_is_not_touched_by_binds; "
    "vdsa rows: 5_6_users_of_a_shared_queue_have_no_hard_limit",
    "5.6 interrupts": "ims: descriptor_of_another_pasid_is_refused_and_sends_nothing; "
    "vdsa: ims_entry_carries_the_host_pasid_of_msix_perm",
    "5.6 default PASID": "vdsa: without_a_guest_pasid_the_default_one_of_the_device_is_programmed, "
    "two_devices_have_two_default_pasids",
    "5.6 type 5": "functions: each_machine_has_a_function_with_a_dedicated_queue",
    "5.6 type 6, 8": "end to end: a_dedicated_queue_the_virtual_device_translates, "
    "a_shared_queue_the_processor_translates",
    # ---- 6: from end to end
    "6.1 setup": "end to end: a_shared_queue_the_processor_translates",
    "6.2 registers": "vcmd: allocate_and_free, a_command_in_progress, commands_that_are_not_there; "
    "vcmd driver: registers_since_3_3, registers_before_3_3",
    "6.2 status": "vcmd driver: status_no_pasid_available, status_undefined_command, status_invalid_pasid_of_free",
    "6.3 bind": "gpasid: bind_refuses, bind_efault, bind_needs_a_device_with_20_bits, bind_twice_is_ebusy, "
    "bind_of_another_processs_id_is_eacces, bind_programs_two_stages",
    "6.3 invalidate": "gpasid: cache_invalidate_einval, cache_invalidate",
    "6.3 page response": "gpasid: page_requests_are_answered_by_group, page_response_einval",
    "6.4 submission": "end to end: a_shared_queue_the_processor_translates; "
    "vmm: 6_4_device_and_iommu_never_see_the_guests_number",
    # ---- 7: moving
    "7 only vPASIDs": "migration: 7_only_the_guests_pasids_are_state; moving: stream_has_no_pasid_of_the_host",
    "7 identity": "vmm: 7_identity_cannot_move",
    "7 table rebuilt, window": "migration: 7_table_is_rebuilt_before_the_first_entry; "
    "migrating load: the_oracle_sees_tables_that_come_after_the_entry",
    "7 range": "migration: 7_range_a_host_without_enough_ids_is_refused",
    "7 mixed devices": "functions: a_mediated_device_and_a_function_are_not_for_one_machine",
    "7 DWQ": "moving: guest_goes_on_at_the_destination_with_its_own_pasid, running_again_programs_the_pasid_again",
    "7 quiesce": "moving: stop_waits_for_what_was_submitted_and_clears_the_hardware, "
    "stopped_shared_device_drains_its_pasids_and_lets_nothing_through",
    "7 in flight": "migrating load: processes_on_a_shared_queue, a_process_on_a_dedicated_queue, "
    "the_oracle_sees_work_that_was_not_waited_for",
    "7 vCPU state": "migration: 7_vcpu_state_ia32_pasid_moves_with_the_thread",
    "7 vIOMMU state": "migration: 7_viommu_state_the_guest_binds_and_unbinds_as_before",
    "7 dirty tracking": "migration: 7_dirty_tracking_has_what_the_device_wrote",
    "7 pending page requests": "migrating load: work_that_waits_for_pages",
    "7 rollback": "migration: 7_rollback_at_each_step, 7_host_pasids_of_the_source_are_free_afterwards; "
    "migrating load: a_move_that_fails_at_any_step_leaves_all_as_it_was",
    # ---- 9: where sources disagree
    "9.1 CF or ZF": "enqcmd: zf_is_retry_and_the_others_are_clear; kvm: talks_handler_sets_the_failure_flag_and_skips",
    "9.2 priorities": "events: values, priorities_within_a_chain; "
    "kvm rows: 9_2_whoever_else_listens_to_the_set_hears_after_kvm",
    "9.3 chains": "events: the_chain_of_all_comes_first_whatever_the_priorities",
    "9.4 KVM and FREE": "kvm rows: 9_4_kvm_hears_bind_and_unbind_but_not_free",
    "9.5 atomic": "gate: notify_without_sleeping_changes_come_with_the_work, mutants_deliver_stale_translations; "
    "gpasid races: without_the_flush_it_is_not_so, with_one_work_for_both_halves_it_is_not_so",
    "9.6 splits": "vtd rows: 5_1_split_is_not_that_of_the_processors_table",
    "9.7 inclusive": "rows: 0_constants; ids: alloc_never_gives_0_nor_more_than_20_bits",
    "9.8 31 bits": "user: get_info, request_alloc_einval; ids: attach_spid_wider_than_20_bits_is_refused_not_masked; "
    "walk: a_pasid_of_other_than_20_bits_is_not_another; tables: pasids_of_more_than_20_bits_are_refused; "
    "kvm rows: 9_8_a_number_of_more_than_20_bits_never_reaches_the_table; "
    "cpu rows: 9_8_the_test_vectors_are_on_the_wire_as_they_are_in_the_register",
    "9.9 source bits": "enqcmd: gp_when_bits_31_to_0_of_the_source_are_not_zero",
    "9.10 ZF": "kvm rows: 9_10_a_full_queue_and_an_unknown_pasid_look_the_same_to_the_guest; "
    "kvm: hazard_of_endless_retries_is_counted_for_each_vm",
    "9.11 VCMD": "vcmd: allocate_and_free; vcmd driver: registers_before_3_3",
    "9.12 a, b": "ids: a_failed_store_gives_invalid_and_not_the_freed_id, "
    "b_free_all_in_set_leaves_what_is_pending_to_be_found",
    "9.12 c, d, e": "ids: c_the_quota_comes_back_when_the_set_goes, "
    "d_no_spid_for_what_is_being_freed_and_none_replaced, e_find_by_spid_takes_no_reference_on_what_is_being_freed",
    "9.12 f, g, h": "user: f_request_free_of_what_is_not_the_callers_is_einval; "
    "gpasid: g_bind_fails_when_the_spid_cannot_be_attached; ids: h_what_is_refused_is_not_charged",
    "9.12 i, j": "allocators: i_the_first_of_a_group_may_go, j_who_is_not_the_first_of_a_group_is_known_too",
    "9.13 PASID 0": "kvm rows: 9_13_pasid_0_is_translated_as_any_other; ids: alloc_never_gives_0_nor_more_than_20_bits",
    "9.14 reuse": "kvm rows: 9_14_unbind_is_complete_before_the_same_guest_pasid_is_bound_again; "
    "vmm: 9_14_the_same_guest_pasid_again_is_another_process_of_the_guest",
    "9.15 late": "gate: a_late_machine_finds_what_it_missed; events: register_notifier_mm_ebusy",
    "9.16 untranslated": "portal: no_address_for_a_guest_whose_pasids_nobody_translates",
    "9.17 threads": "cpu rows: 9_17_each_thread_takes_one_gp; vmm: 9_17_each_thread_of_the_guest_takes_one_gp",
    "9.18 unbind": "msr: the_register_stays_valid_after_unbind; vdsa rows: 9_18_a_command_after_unbind_reaches_nothing",
    "9.19 both ways": "vdsa rows: 9_19_dedicated_and_shared_yield_the_same_host_pasid",
    "9.20 no FREE": "rows: 1_6_free_of_an_id_with_one_reference_sends_nothing",
}

NOT_BUILT = {
    "1.4 ioasid_set_get, ioasid_set_put": "version 4 dropped them: how many IDs a set has is its reference count",
    "1.4 stubs of a kernel without IOASIDs": "they are always there; who lacks an IOMMU has ENODEV",
    "2 alloc errors of impossible ranges": "no caller can pass them; the range is the driver's own",
    "2 EBUSY of linear address masking": "no machine of ours has it",
    "2 eager loading of IA32_PASID (5.10 to 5.12)": "declared broken and switched off by Linux",
    "3.1 16-bit destination registers, 3.4 #SS and segment limits": "programs run in flat 64-bit mode",
    "3.5 weak ordering": "processors execute in order; a missing SFENCE is not found out",
    "3.6 DMWr of 128 bytes": "DSA completes 64 bytes only, and says so",
    "4.6 KVM_MAP_PASID, /dev/iommu of 2021": "never merged, its numbers are others' by now; its portal gate is built",
    "5.1 host page tables (EPTR, HPTE)": "reserved in this revision: refused, never ignored",
    "5.6 type 7": "KVM's translation is always on; a function's machine has identity entries instead",
    "6.3 layout of 5.7 to 5.9": "5.10 replaced it, and no kernel of ours is that old",
}


@cache
def named_in(name: str) -> frozenset[str]:
    """Names of the tests in a file, without ``test_``."""
    text = (TESTS / FILES[name]).read_text()
    return frozenset(re.findall(r"^def test_(\w+)\(", text, re.MULTILINE))


@pytest.mark.parametrize("row", ROWS)
def test_row_has_its_tests(row: str) -> None:
    """Each file that is named has each test that is named."""
    for part in ROWS[row].split("; "):
        name, _, tests = part.partition(": ")
        missing = {test.strip() for test in tests.split(", ")} - named_in(name)
        assert not missing, f"{FILES[name]} has no {missing}"


@pytest.mark.parametrize(
    ("section", "parts"),
    [
        ("1", [f"1.{n}" for n in range(1, 9)]),
        ("3", [f"3.{n}" for n in range(1, 8)]),
        ("4", [f"4.{n}" for n in range(1, 7)]),
        ("5", [f"5.{n}" for n in range(1, 7)]),
        ("6", [f"6.{n}" for n in range(1, 5)]),
        ("9", [f"9.{n}" for n in range(1, 21)]),
    ],
)
def test_each_part_of_a_section_has_rows(section: str, parts: list[str]) -> None:
    found = {row.partition(" ")[0] for row in ROWS if row.startswith(section)}
    assert set(parts) <= found


def test_weak_spots_a_to_j_have_a_test_each() -> None:
    """Of the posted code: ten of them, none copied."""
    letters = [m[1] for row, tests in ROWS.items() if row.startswith("9.12") for m in re.finditer(r" ([a-j])_", tests)]
    assert letters == list("abcdefghij")


def test_rows_of_tests_are_all_in_the_sheet() -> None:
    """A test that was written for a row is listed there."""
    listed = "; ".join(ROWS.values())
    for name, path in FILES.items():
        if "test_rows_" in path:
            unlisted = {test for test in named_in(name) if test not in listed}
            assert not unlisted, f"{path}: {unlisted}"


def test_what_is_not_built_has_a_reason() -> None:
    assert all(reason and not reason.endswith(".") for reason in NOT_BUILT.values())
    assert not set(NOT_BUILT) & set(ROWS)
