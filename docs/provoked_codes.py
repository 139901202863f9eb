"""Which test provokes each pilot error code, or why it cannot occur; the page of error codes shows it, a test keeps it
true (tests/unit/docs/test_provoked_codes.py)."""

from __future__ import annotations

_TABLE = "test_behaviour"  # tests/unit/payload/failuretable.py
_TOOLS = "test_texts_of_transfer_tools"
_SIGNAL = "test_a_signal_in_the_payload_ends_it_and_the_pilot"

_OF_PAYLOADS = (
    1098, 1110, 1115, 1187, 1199, 1211, 1212, 1220, 1223, 1244, 1246, 1305, 1306, 1307, 1308, 1309, 1325, 1328, 1334,
    1335, 1340, 1345, 1346, 1347, 1348, 1349, 1351, 1355, 1360, 1369, 1372, 1387, 1388,
)
_OF_TOOLS = (
    1099, 1103, 1137, 1141, 1145, 1151, 1152, 1163, 1171, 1172, 1180, 1181, 1221, 1242, 1316, 1324, 1327, 1331, 1333,
    1338, 1362, 1364, 1383,
)

PROVOKED: dict[int, str] = {
    **dict.fromkeys(_OF_PAYLOADS, _TABLE),
    **dict.fromkeys(_OF_TOOLS, _TOOLS),
    **dict.fromkeys((1200, 1201, 1202, 1203, 1204, 1206, 1207), _SIGNAL),
    1008: "test_the_example_refuses_jobs_without_a_task",
    1104: "test_work_directory_over_the_limit_of_the_queue",
    1106: "test_stdout_over_its_limit_is_cut_for_the_log",
    1116: "test_budget_ends_the_retries_and_all_reasons_are_told",
    1117: "test_malformed_data_is_told_from_missing_data",
    1124: "test_an_output_that_no_storage_takes",
    1133: "test_an_unknown_endpoint_is_no_storage",
    1143: "test_a_transform_that_cannot_be_made_executable_is_1143",
    1144: "test_thousand_children_are_ended_with_the_job",
    1150: "test_a_silent_payload_is_ended_with_code_and_numbers",
    1149: "test_a_failed_download_is_1149_and_leaves_nothing",
    1165: "test_payload_that_removes_its_work_directory",
    1168: "test_a_job_whose_inputs_are_too_large_is_refused_before_the_first_copy",
    1177: "test_no_job_ends_the_pilot_well_after_the_allowed_requests",
    1186: "test_no_software_is_1186",
    1190: "test_bad_field_fails_the_job_with_its_own_code",
    1191: "test_an_empty_output_is_an_error",
    1213: "test_the_time_limit_that_was_reached_is_the_one_that_is_named",
    1235: "test_breach",
    1247: "test_production_without_a_usable_report",
    1300: "test_a_workflow_that_is_not_there_is_said",
    1301: "test_an_internal_error_is_70_and_one_line",
    1302: "test_bad_field_fails_the_job_with_its_own_code",
    1303: "test_a_list_of_inputs_that_cannot_be_written_fails_the_job",
    1310: "test_a_command_line_beyond_the_kernels_limit_is_said_with_the_limit",
    1311: "test_storage_ids",
    1313: "test_no_protocol_left_is_told",
    1314: "test_a_checksum_type_that_nobody_knows_starts_no_copy",
    1317: "test_a_hook_that_hangs_ends_the_job_and_the_pilot",
    1318: "test_patience_with_a_server_that_stays_away_ends_with_its_own_exit_code",
    1319: "test_a_bad_hook_never_loses_a_job",
    1320: "test_no_space_for_the_log_fails_the_job_with_its_own_code",
    1322: "test_a_failed_look_up_is_asked_once_and_reported_as_such",
    1323: "test_an_unknown_tool_lists_the_known_ones",
    1326: "test_permissions_of_queue_and_file",
    1329: "test_a_non_deterministic_endpoint_is_refused",
    1332: "test_two_in_a_row_end_the_pilot_with_1332",
    1339: "test_a_tarball_that_cannot_be_written_is_1339",
    1341: "test_unknown_mv_setting_is_a_bad_queue_configuration",
    1342: "test_a_plug_in_that_cannot_be_loaded_is_1342",
    1356: "test_preprocess_that_fails",
    1357: "test_postprocess_that_fails",
    1359: "test_refusal",
    1361: "test_a_file_that_does_not_open_fails_the_job_with_its_name_place_and_reason",
    1377: "test_no_cvmfs_ends_the_pilot_with_64_before_it_asks_for_a_job",
    1366: "test_what_cannot_be_read_is_a_checksum_failure_with_the_path",
    1371: "test_output_name_that_is_not_ascii_fails_with_its_own_code",
    1370: "test_hours_that_are_needed",
    1373: "test_hours_that_are_needed",
    1376: "test_the_deadline_ends_the_archive",
    1379: "test_term_on_kubernetes_is_a_preemption",
    1380: "test_what_arcproxy_says",
    1382: "test_hours_that_are_needed",
    1384: "test_a_queue_without_containers",
    1385: "test_an_hpc_queue_without_jobs_is_1385",
    1386: "test_refusal",
}
"""Code -> test function."""

_EVENTS = "event service: not in this version"
_CPU = "a failure to measure CPU time is noted in the log and fails no job"
_REMOTE = "existing pilots' script for the test of remote inputs; this pilot tests them itself: 1361"

NEVER: dict[int, str] = {
    **dict.fromkeys((1224, 1228, 1234, 1238, 1240), _EVENTS),
    **dict.fromkeys((1344, 1352, 1353, 1354), _CPU),
    **dict.fromkeys((1368, 1374, 1378), _REMOTE),
    1100: "existing pilots do not set it either; 1326 and 1322 are meant",
    1205: "reserved; nothing sends it",
    1208: "SIGINT is 1200 here, by decision; other pilots' reports have it",
    1236: "Harvester's",
    1312: "of functions for fits that this version does not have",
    1315: "exit code -1 cannot occur: a death by signal is 128 + n, and 255 stays 255",
    1321: "existing pilots do not set it either",
    1330: "exit code only; JSON comes with 1116 or 1318",
    1336: "the server says so by closing the job: its heartbeats end",
    1337: "bad output of a memory monitor is noted in the log and fails no job",
    1343: "existing pilots do not set it either; 1165 is meant",
    1350: "files are legitimately empty while they are written; at the end an empty output is 1191",
    1358: "existing pilots of today do not set it; the set-up says what is missing: 1110",
    1363: "not an error: a file of Raythena's asks for the end of the payload",
    1365: "ctypes is not needed",
    1367: "each use of a command has a code of its own for its time-out: 1151, 1152, 1110",
    1375: "not an error: the lease of a stager is over",
    1381: "not an error: an arcproxy that does not work is noted in the log, the proxy is not verified then",
}
"""Code -> why it cannot occur in this version."""
