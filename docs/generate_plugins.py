"""Writes the page on hooks of experiments, from ``pilot.user.base.Experiment``: ``generate_plugins.py [FILE]``."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pilot.user.base import Experiment
from pilot.user.guard import attributes, hooks


class Successor(NamedTuple):
    """Where a function of the reference's plug-in interface went."""

    function: str
    hooks: tuple[str, ...]
    """Methods and attributes of Experiment that took its place; none = ``remark`` says why."""
    remark: str = ""


CORE = "the core does it, for every experiment: "

SUCCESSORS = (
    Successor("common.sanity_check", ("sanity_check",)),
    Successor("common.verify_job", ("verify_job", "complete_job")),
    Successor("common.validate", ("verify_job",), "images are looked for by `contain`"),
    Successor("common.get_payload_command",
              ("payload_command", "payload_environment", "remote_inputs", "job_parameters")),
    Successor("common.update_job_data", ("report_policy",), "missing GUIDs are made by the core"),
    Successor("common.get_utility_commands", ("utility",), "the job's own pre-, co- and postprocess: the core"),
    Successor("common.get_utility_command_setup", ("utility",), "`UtilityCommand.line`"),
    Successor("common.get_utility_command_execution_order", ("utility",), "`Moment`"),
    Successor("common.post_utility_command_action", ("utility_ended",)),
    Successor("common.get_utility_command_kill_signal", ("utility",), "`UtilityCommand.signal`"),
    Successor("common.get_utility_command_output_filename", ("utility",),
              "`UtilityCommand.label`: `<label>_stdout.txt`, `<label>_stderr.txt`; prmon's files: the core"),
    Successor("common.remove_redundant_files", ("redundant_files", "redundant_patterns"),
              "patterns: the core leaves these files out"),
    Successor("common.update_stagein", ("transfers_input",)),
    Successor("common.get_metadata", ("metadata",)),
    Successor("common.update_server", (), "nothing about a job is sent anywhere but to its PanDA server; samples are "
                                          "in the PilotDB and in the job's log"),
    Successor("common.post_prestagein_utility_command", ("utility_ended",)),
    Successor("common.process_debug_command", (), CORE + "debug mode, without a shell"),
    Successor("common.preprocess_debug_command", (), CORE + "debug mode, without a shell"),
    Successor("common.allow_timefloor", ("allow_timefloor",)),
    Successor("common.get_pilot_id", ("pilot_id",)),
    Successor("common.allow_send_workernode_map", ("sends_worker_node_map",)),
    Successor("common.get_rtlogging", ("realtime_server",)),
    Successor("common.get_rtlogging_ssl", ("realtime_tls",)),
    Successor("common.update_output_for_hpo", (), CORE + "`<lfn>_0`, `<lfn>_1`, ... of jobs with `isHPO`"),
    Successor("common.parse_jobreport_data", ("report_policy",), "the report is parsed by the core"),
    Successor("setup.get_queuedata_priority, get_schedconfig_priority, get_ddm_source_priority", (),
              "one order for all: option, local file, server, CVMFS, CRIC; settings of section `information`"),
    Successor("setup.should_verify_setup", ("verifies_setup",)),
    Successor("setup.get_end_setup_time", ("setup_end",)),
    Successor("setup.get_analysis_trf", ("payload_command",), "`task.transformation()` and `task.download(url)`"),
    Successor("setup.get_valid_base_urls", ("transform_base_urls",)),
    Successor("setup.get_asetup, get_file_system_root_path", (), "ATLAS' own business"),
    Successor("container.do_use_container", ("uses_container",)),
    Successor("container.wrapper", ("contain",)),
    Successor("container.create_middleware_container_command", ("middleware_command",)),
    Successor("container.create_stagein_container_command", ("middleware_command",)),
    Successor("container.get_middleware_container_script", ("middleware_command",)),
    Successor("copytool_definitions.mv_to_final_destination", ("mv_to_final_destination",)),
    Successor("copytool_definitions.get_path", (), CORE + "the layout belongs to the storage, not to the experiment"),
    Successor("cpu.set_core_counts, get_core_count", (), CORE + "CPU time of the payload's whole tree"),
    Successor("cvmfs", ("cvmfs_tree",)),
    Successor("diagnose.interpret", ("diagnosis_rules", "judge_report")),
    Successor("diagnose.get_log_extracts", (), CORE + "log extract of failed jobs"),
    Successor("jobdata.jobparams_prefiltering, jobparams_postfiltering", (), CORE + "quoting is kept"),
    Successor("jobdata.fail_at_getjob_none", (), "getJob is repeated for every experiment, as Rubin's plug-in has it"),
    Successor("jobmetrics.get_job_metrics", ("job_metrics",)),
    Successor("loopingjob_definitions.allow_loopingjob_detection", (), "the job's `loopingCheck` decides"),
    Successor("loopingjob_definitions.remove_unwanted_files", ("looping_exclusions",)),
    Successor("memory.allow_memory_usage_verifications, memory_usage", (),
              "the limit follows resource type, queue and job for every experiment (operator guide)"),
    Successor("metadata.create_input_file_metadata", (), CORE + "PoolFileCatalog.xml"),
    Successor("monitoring.fast_monitor_tasks", (), "does nothing in any plug-in of the reference"),
    Successor("proxy.verify_proxy", ("verify_proxy",)),
    Successor("proxy.get_voms_role, getproxy_dictionary", ("payload_proxy_role",)),
    Successor("proxy.get_and_verify_proxy", ("payload_proxy_role", "verify_proxy"), "the core downloads"),
    Successor("utilities.precleanup", (), CORE + "each job has a directory of its own"),
    Successor("utilities.get_memory_monitor_info", (), CORE + "prmon's files"),
    Successor("utilities.get_memory_monitor_setup", ("utility",), "label `memorymonitor`"),
    Successor("utilities.get_cpu_arch", ("cpu_architecture_level", "sends_architecture_level")),
    Successor("esprocessfinegrainedproc", (), "event service is not part of this version"),
)
"""The plug-in interface of the existing pilots (plug-in interface document 9), function by function."""

_INTRODUCTION = """# Hooks of experiments

Made from `pilot/user/base.py`. A new experiment inherits all of this and overrides what differs: see
[How to add an experiment](../adding-an-experiment.md). The answers of hooks are checked: what raises, or returns
something else than it says here, fails the job with a text that names the hook, the class and the line, and never the
pilot.

## Methods

| hook | returns | when, and what for |
|---|---|---|
"""

_ATTRIBUTES = """
## Attributes

| attribute | type | default | meaning |
|---|---|---|---|
"""

_REFERENCE = """
## Where the functions of the existing pilots went

For those who port a plug-in `pilot/user/<name>/` of Pilot 2 or 3.

| function | here | remark |
|---|---|---|
"""


def page() -> str:
    """Return the page."""
    methods = [f"| `{name}{_arguments(name)}` | {_code(returns)} | {_cell(inspect.getdoc(getattr(Experiment, name)))} |"
               for name, returns in hooks().items()]
    texts = attribute_texts()
    values = [f"| `{name}` | {_code(kind)} | {_code(repr(getattr(Experiment, name)))} | {_cell(texts[name])} |"
              for name, kind in attributes().items()]
    went = [f"| `{row.function}` | {', '.join(f'`{name}`' for name in row.hooks) or '-'} | {_cell(row.remark)} |"
            for row in SUCCESSORS]
    return "".join((_INTRODUCTION, _lines(methods), _ATTRIBUTES, _lines(values), _REFERENCE, _lines(went)))


def attribute_texts() -> dict[str, str]:
    """Return what stands below each attribute in the source."""
    source = inspect.getsource(Experiment)
    return {name: re.sub(r"\s+", " ", text) for name, text in re.findall(
        r'^    (\w+): [^\n]+\n    """(.*?)"""', source, flags=re.MULTILINE | re.DOTALL)}


def _arguments(name: str) -> str:
    names = [parameter for parameter in inspect.signature(getattr(Experiment, name)).parameters if parameter != "self"]
    return f"({', '.join(names)})"


def _code(text: str) -> str:
    return "`" + text.replace("|", "\\|") + "`"


def _cell(text: str | None) -> str:
    words = " ".join((text or "").split()).replace("``", "`").replace("|", "\\|")
    return words.replace("<", "&lt;").replace(">", "&gt;") if "`" not in words else words


def _lines(rows: list[str]) -> str:
    return "".join(f"{row}\n" for row in rows)


def main() -> None:
    """Write to the file named by the first argument, else to stdout."""
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(page(), encoding="utf-8")
    else:
        sys.stdout.write(page())


if __name__ == "__main__":
    main()
