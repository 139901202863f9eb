"""The page of hooks: each hook, each function of the existing pilots' interface, and none that is not there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "docs"))

import generate_plugins  # noqa: E402

from pilot.user.guard import attributes, hooks  # noqa: E402

# Plug-in interface document, 9.1 and 9.2, and payload document, 22.
FUNCTIONS = """
sanity_check verify_job validate get_payload_command update_job_data get_utility_commands get_utility_command_setup
get_utility_command_execution_order post_utility_command_action get_utility_command_kill_signal
get_utility_command_output_filename remove_redundant_files update_stagein get_metadata update_server
post_prestagein_utility_command process_debug_command preprocess_debug_command allow_timefloor get_pilot_id
allow_send_workernode_map get_rtlogging get_rtlogging_ssl update_output_for_hpo parse_jobreport_data
get_queuedata_priority get_schedconfig_priority get_ddm_source_priority should_verify_setup get_end_setup_time
get_analysis_trf get_valid_base_urls get_file_system_root_path get_asetup do_use_container wrapper
create_middleware_container_command create_stagein_container_command get_middleware_container_script
mv_to_final_destination get_path set_core_counts get_core_count cvmfs interpret get_log_extracts jobparams_prefiltering
jobparams_postfiltering fail_at_getjob_none get_job_metrics allow_loopingjob_detection remove_unwanted_files
allow_memory_usage_verifications memory_usage create_input_file_metadata fast_monitor_tasks verify_proxy get_voms_role
get_and_verify_proxy getproxy_dictionary precleanup get_memory_monitor_info get_memory_monitor_setup get_cpu_arch
esprocessfinegrainedproc
"""


def test_every_function_of_the_existing_interface_has_its_place_or_a_reason() -> None:
    known = {word for row in generate_plugins.SUCCESSORS for word in re.findall(r"\w+", row.function)}
    assert set(FUNCTIONS.split()) <= known
    assert all(row.hooks or row.remark for row in generate_plugins.SUCCESSORS)


def test_the_successors_are_there() -> None:
    named = {name for row in generate_plugins.SUCCESSORS for name in row.hooks}
    assert named - {*hooks(), *attributes()} == set()


def test_every_hook_says_when_it_is_called() -> None:
    for name in hooks():
        assert (getattr(generate_plugins.Experiment, name).__doc__ or "").startswith("Called "), name


def test_every_hook_and_attribute_has_a_row_with_its_text() -> None:
    page = generate_plugins.page()
    for name in hooks():
        assert re.search(rf"^\| `{name}\([^|]*\| `[^|]+(\\\|[^|]+)*` \| \S", page, re.MULTILINE), name
    assert set(generate_plugins.attribute_texts()) == set(attributes())
    for name in attributes():
        assert f"| `{name}` |" in page
