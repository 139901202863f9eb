"""The command line: every option that wrappers, Harvester and operators pass, and what it means.

Names, defaults and meanings are protocol (spec cli-config section 2): thousands of submission templates depend on them.
Abbreviations are off, and an unknown option ends the pilot with exit code 2 and a suggestion: a misspelt option that is
silently ignored (say ``--noserverupdat``) does more harm than a worker that fails its first start.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn, Optional

from pilot.option_rules import WORKFLOWS, canonical_workflow, realtime_server, str2bool

# Options that the pilot wrapper eats; they only reach a pilot that was started with the wrapper's own arguments.
_WRAPPER_OPTIONS = {
    "--piloturl", "--pilotversion", "--pythonversion", "--localpy", "--container", "--cvmfsbase", "--alma9", "--mute",
    "--harvester", "--harvester_workflow", "--shoal",
}


@dataclass(frozen=True)
class Options:
    """The parsed command line; the names are the ``dest`` of spec cli-config 2.1. Empty text means 'not given'."""

    pilot_user: str = ""
    queue: str = ""
    workdir: str = ""
    cleanup: bool = True
    version_tag: str = "PR"
    job_label: str = "ptest"
    update_server: bool = True
    debug: bool = False
    nopilotlog: bool = False
    log_format: str = ""
    redirectstdout: str = ""
    getjob_requests: int = 2
    getjob_failures: int = 5
    country_group: str = ""
    working_group: str = ""
    allow_other_country: bool = False
    allow_same_user: bool = True
    jobtype: str = ""
    workflow: str = "generic"
    lifetime: int = 324000
    leasetime: int = 3600
    lease_given: bool = False
    """``-L`` was on the command line: other workflows than the stager's obey it only then."""
    resource: Optional[str] = None
    site: Optional[str] = None
    resource_type: str = ""
    cvmfs: bool = True
    stageout_attempts: int = 1
    harvester_workdir: str = ""
    harvester_datadir: str = ""
    harvester_eventstatusdump: str = ""
    harvester_workerattributes: str = ""
    harvester_submitmode: str = "PULL"
    input_dir: str = ""
    input_destination_dir: str = ""
    output_dir: str = ""
    hpc_resource: str = ""
    hpc_mode: str = "manytoone"
    executor_type: str = "generic"
    pod: bool = False
    verify_proxy: bool = True
    verify_payload_proxy: bool = True
    token_renewal: bool = True
    cacert: Optional[str] = None
    capath: Optional[str] = None
    url: str = ""
    port: int = 25443
    queuedata_url: str = ""
    storagedata_url: str = ""
    workerpilotstatusupdate: bool = True
    subscribe_to_msgsvc: bool = False
    use_https: bool = True
    baseurls: str = ""
    use_realtime_logging: bool = False
    realtime_logging_server: str = ""
    """``<type>;<protocol>://<host>:<port>``, whatever form was given."""
    realtime_logname: str = ""
    use_rucio_traces: bool = True
    rucio_host: str = ""
    # Ours:
    version: bool = False
    recover: Optional[str] = None
    """Directory whose undelivered reports are to be sent; None when not asked for."""
    status: Optional[str] = None
    report: Optional[str] = None
    check: bool = False
    json: bool = False
    """With ``--check`` or ``--status``: the answer as JSON."""
    server_api: str = ""
    config: str = ""
    overrides: tuple[str, ...] = ()
    """``--set section.key=value``, in order."""

    @property
    def runs_a_pilot(self) -> bool:
        """False when one of the commands that end at once was asked for."""
        return not (
            self.version or self.check or any(item is not None for item in (self.recover, self.status, self.report))
        )


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line and where the help is, instead of three lines of usage for 70 options."""

    def error(self, message: str) -> NoReturn:
        text = " ".join(message.split()).encode("utf-8", "backslashreplace").decode("utf-8")
        self.exit(2, f"{self.prog}: error: {text} (see {self.prog} --help)\n")


class _Lease(argparse.Action):
    """Notes that the option was there: its default is no limit for most workflows."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
                 option_string: Optional[str] = None) -> None:
        namespace.leasetime, namespace.lease_given = values, True


def parse_command_line(argv: Optional[Sequence[str]] = None, environ: Optional[Mapping[str, str]] = None) -> Options:
    """Parse ``argv`` (default: the process's) and apply the variables that replace options.

    Args:
        argv: arguments without the program's name.
        environ: environment for PANDAPILOT_LIFETIME, PANDA_BASE_URLS and NO_CVMFS_OK; None applies none of them.

    Raises:
        SystemExit: code 2 after a one-line message for a wrong command line, code 0 after ``--help``.
    """
    parser = build_parser()
    namespace, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.error(_describe_unknown(parser, unknown))
    values = vars(namespace)
    values["overrides"] = tuple(values["overrides"])
    options = Options(**values)
    if options.runs_a_pilot:
        _require(parser, options)
    return options if environ is None else apply_environment(options, environ)


def apply_environment(options: Options, environ: Mapping[str, str]) -> Options:
    """Return the options after the variables that replace them: PANDAPILOT_LIFETIME (s) always wins over ``-l``,
    PANDA_BASE_URLS is the fall-back of ``-g``, NO_CVMFS_OK means ``-b``. A value that is not usable changes nothing."""
    lifetime = environ.get("PANDAPILOT_LIFETIME", "").strip()
    if lifetime.isascii() and lifetime.isdigit():
        options = replace(options, lifetime=int(lifetime))
    elif lifetime:
        sys.stderr.write(f"pilot.py: PANDAPILOT_LIFETIME={lifetime!r} is not a number of seconds: ignored\n")
    if not options.baseurls and environ.get("PANDA_BASE_URLS"):
        options = replace(options, baseurls=environ["PANDA_BASE_URLS"])
    if "NO_CVMFS_OK" in environ:
        options = replace(options, cvmfs=False)
    return options


def _require(parser: _Parser, options: Options) -> None:
    missing = [name for name, value in (("--pilot-user", options.pilot_user), ("-q", options.queue)) if not value]
    if missing:
        parser.error(f"the following arguments are required to run a pilot: {', '.join(missing)}")


def _describe_unknown(parser: argparse.ArgumentParser, unknown: list[str]) -> str:
    import difflib

    known = [name for action in parser._actions for name in action.option_strings if name.startswith("--")]
    texts = []
    for word in unknown:
        name = word.partition("=")[0]
        near = difflib.get_close_matches(name.replace("_", "-"), known, n=1, cutoff=0.7)
        if name in _WRAPPER_OPTIONS:
            texts.append(f"{word} (an option of the pilot wrapper, not of the pilot)")
        elif near and name.startswith("-"):
            texts.append(f"{word} (did you mean {near[0]}?)")
        else:
            texts.append(word)
    return f"unrecognized arguments: {', '.join(texts)}"


def _workflow(text: str) -> str:
    try:
        return canonical_workflow(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc


def _resource_type(text: str) -> str:
    if text not in ("", "SCORE", "MCORE") and not text.startswith(("SCORE_", "MCORE_")):
        raise argparse.ArgumentTypeError(f"{text!r} is not SCORE, MCORE or one of their classes such as SCORE_HIMEM")
    return text


def _boolean(text: str) -> bool:
    try:
        return str2bool(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc


def _realtime_server(text: str) -> str:
    try:
        return str(realtime_server(text) or "")
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return number


def _port(text: str) -> int:
    number = int(text)
    if not 0 < number < 65536:
        raise argparse.ArgumentTypeError(f"{text} is not a port number")
    return number


_count.__name__ = _port.__name__ = "int"  # argparse names the type in 'invalid int value'


def _user(text: str) -> str:
    if text and not re.fullmatch(r"[A-Za-z_][\w.-]*|[A-Za-z_][\w.]*:[A-Za-z_]\w*", text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not the name of an experiment, such as ATLAS or generic, nor module:Class")
    return text


def build_parser() -> _Parser:
    """Return the parser; its groups make ``--help``."""
    parser = _Parser(
        prog="pilot.py",
        usage="pilot.py --pilot-user NAME -q QUEUE [options]\n"
        "       pilot.py --status | --recover | --report [DIR]\n"
        "       pilot.py --check | --version | --help",
        description="The PanDA Pilot: fetches jobs, stages their data, runs and supervises them, reports.",
        epilog="Booleans (BOOL) are yes/no, true/false, t/f, y/n or 1/0. Settings beyond the options: --config, --set.",
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=34, width=110),
    )
    _add_identity(parser)
    _add_getjob(parser)
    _add_server(parser)
    _add_data(parser)
    _add_files_and_log(parser)
    _add_harvester(parser)
    _add_commands(parser)
    _add_obsolete(parser)
    return parser


def _add_identity(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what to run (the first two are required to run a pilot)").add_argument
    add("--pilot-user", dest="pilot_user", metavar="NAME", type=_user, default="",
        help="experiment: ATLAS, generic, rubin, ...")
    add("-q", "--queue", dest="queue", default="", help="PanDA queue")
    add("-w", "--workflow", dest="workflow", metavar="WORKFLOW", type=_workflow, default="generic",
        help=f"one of {', '.join(WORKFLOWS)} [%(default)s]")
    add("-i", "--versiontag", dest="version_tag", metavar="TAG", default="PR",
        help="PR, RC, RCM or ALRB: kind of pilot, changes the job label and is part of the pilot id [%(default)s]")
    add("-j", "--joblabel", dest="job_label", metavar="LABEL", default="ptest",
        help="prodSourceLabel to ask for: managed, user, ptest, test, rc_test2, self, ... [%(default)s]")
    add("-l", "--lifetime", dest="lifetime", metavar="SECONDS", type=_count, default=324000,
        help="longest run time; the queue's maxtime wins unless --pod [env PANDAPILOT_LIFETIME, %(default)s]")
    add("-L", "--leasetime", dest="leasetime", metavar="SECONDS", type=_count, default=3600, action=_Lease,
        help="lease of a pod: one more limit of the run time when it is given; always for the stager [%(default)s]")
    parser.set_defaults(lease_given=False)
    add("-b", "--nocvmfs", dest="cvmfs", action="store_false", help="do not check CVMFS at start")
    add("--es-executor-type", dest="executor_type", metavar="TYPE", default="generic",
        help="event service executor: generic, raythena, ... [%(default)s]")
    add("--hpc-resource", dest="hpc_resource", metavar="NAME", default="", help="HPC resource plug-in")
    add("--hpc-mode", dest="hpc_mode", metavar="MODE", default="manytoone", help="manytoone or jumbojobs [%(default)s]")
    add("--pod", dest="pod", action="store_true",
        help="running in a Kubernetes pod: run time is -l only, no job id file")


def _add_getjob(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("asking for jobs").add_argument
    add("-v", "--getjobrequests", dest="getjob_requests", metavar="N", type=_count, default=2,
        help="requests for a job before giving up, counted anew after each job [%(default)s]")
    add("-x", "--getjobfailures", dest="getjob_failures", metavar="N", type=_count, default=5,
        help="failed requests before giving up [%(default)s]")
    add("--job-type", dest="jobtype", metavar="TYPE", default="", help="job type to ask for")
    add("--resource-type", dest="resource_type", metavar="TYPE", type=_resource_type, default="",
        help="SCORE, MCORE, SCORE_HIMEM, ...")
    add("--country-group", dest="country_group", metavar="GROUP", default="", help="country group to ask for")
    add("--working-group", dest="working_group", metavar="GROUP", default="", help="working group to ask for")
    add("--allow-other-country", dest="allow_other_country", metavar="BOOL", type=_boolean, default=False,
        help="take jobs of other countries [%(default)s]")
    add("--allow-same-user", dest="allow_same_user", metavar="BOOL", type=_boolean, default=True,
        help="ask for the same task again after the first job [%(default)s]")


def _add_server(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("PanDA server and credentials").add_argument
    add("--url", dest="url", default="", help="PanDA server [setting pilot.pandaserver]")
    add("-p", "--port", dest="port", type=_port, default=25443, help="its port unless the URL has one [%(default)s]")
    add("--server-api", dest="server_api", choices=("auto", "v1", "legacy"), default="",
        help="interface of the server [setting server.api: auto]")
    add("-z", "--noserverupdate", dest="update_server", action="store_false",
        help="send no job updates; they go to heartbeat.json (ARC control tower)")
    add("-k", "--noworkerpilotstatusupdate", dest="workerpilotstatusupdate", action="store_false",
        help="send no worker status")
    add("--use-https", dest="use_https", metavar="BOOL", type=_boolean, default=True, help="use TLS [%(default)s]")
    add("--cacert", dest="cacert", metavar="FILE", help="certificate or proxy for the server [env X509_USER_PROXY]")
    add("--capath", dest="capath", metavar="DIR", help="CA directory [env X509_CERT_DIR]")
    add("-t", "--noproxyverification", dest="verify_proxy", action="store_false", help="do not verify the proxy")
    add("-u", "--verifypayloadproxy", dest="verify_payload_proxy", action="store_false",
        help="do NOT verify the payload proxy (the name is historical)")
    add("-y", "--notokenrenewal", dest="token_renewal", action="store_false", help="do not renew the OIDC token")
    add("--queuedata-url", dest="queuedata_url", metavar="URL", default="",
        help="URL or absolute path of the queue description; may hold {pandaqueue}")
    add("--storagedata-url", dest="storagedata_url", metavar="URL", default="",
        help="the same for the storage endpoints")
    add("-g", "--baseurls", dest="baseurls", metavar="URLS", default="",
        help="comma-separated base URLs that transforms may come from [env PANDA_BASE_URLS]")
    add("--subscribe-to-msgsvc", dest="subscribe_to_msgsvc", action="store_true", help="instructions from ActiveMQ")


def _add_data(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("data").add_argument
    add("--input-dir", dest="input_dir", metavar="DIR", default="", help="local directory instead of the input storage")
    add("--input-destination-dir", dest="input_destination_dir", metavar="DIR", default="",
        help="where inputs are put (stager)")
    add("--output-dir", dest="output_dir", metavar="DIR", default="",
        help="local directory instead of the output storage")
    add("--stageout-attempts", dest="stageout_attempts", metavar="N", type=_count, default=1,
        help="attempts per output file [%(default)s]")
    add("--use-rucio-traces", dest="use_rucio_traces", metavar="BOOL", type=_boolean, default=True,
        help="send Rucio traces [%(default)s]")
    add("--rucio-host", dest="rucio_host", metavar="URL", default="", help="Rucio server [setting rucio.host]")


def _add_files_and_log(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("work directory, log and settings").add_argument
    add("-a", "--workdir", dest="workdir", metavar="DIR", default="",
        help="where the pilot makes its work directory [it works in the current directory]")
    add("--cleanup", dest="cleanup", metavar="BOOL", type=_boolean, default=True,
        help="remove the work directory at the end [%(default)s]")
    add("-d", "--debug", dest="debug", action="store_true", help="long log lines, level DEBUG")
    add("--log-format", dest="log_format", choices=("classic", "json"), default="",
        help="lines for people, or one JSON object per line [setting pilot.log_format: classic]")
    add("--no-pilot-log", dest="nopilotlog", action="store_true", help="log to stdout only")
    add("--redirect-stdout", dest="redirectstdout", metavar="FILE", default="", help="write stdout to FILE")
    add("--use-realtime-logging", dest="use_realtime_logging", metavar="BOOL", type=_boolean, nargs="?", const=True,
        default=False, help="real-time logging of the payload for every job")
    add("--realtime-logging-server", dest="realtime_logging_server", metavar="SERVER", type=_realtime_server,
        default="", help="type;protocol://host:port or type:host:port, with or without logserver= in front")
    add("--realtime-logname", dest="realtime_logname", metavar="NAME", default="", help="name of the log [pilot-log]")
    add("--config", dest="config", metavar="FILE", default="",
        help="site settings, YAML; env HARVESTER_PILOT_CONFIG names an INI")
    add("--set", dest="overrides", metavar="SECTION.KEY=VALUE", action="append", default=[],
        help="one setting; may be repeated")


def _add_harvester(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("Harvester").add_argument
    add("--harvester-submit-mode", dest="harvester_submitmode", metavar="MODE", default="PULL",
        help="PUSH or PULL [%(default)s]")
    add("--harvester-workdir", dest="harvester_workdir", metavar="DIR", default="", help="access point of the worker")
    add("--harvester-datadir", dest="harvester_datadir", metavar="DIR", default="", help="where pandaJobData.out is")
    add("--harvester-eventstatusdump", dest="harvester_eventstatusdump", metavar="FILE", default="",
        help="event status dump")
    add("--harvester-workerattributes", dest="harvester_workerattributes", metavar="FILE", default="",
        help="worker attributes")


def _add_commands(parser: argparse.ArgumentParser) -> None:
    title = "other commands (no queue needed; DIR is a pilot's work directory, default: here)"
    add = parser.add_argument_group(title).add_argument
    add("--status", dest="status", metavar="DIR", nargs="?", const=".", help="say what the pilot in DIR is doing")
    add("--recover", dest="recover", metavar="DIR", nargs="?", const=".",
        help="send the reports that a dead pilot left in DIR")
    add("--report", dest="report", metavar="DIR", nargs="?", const=".", help="write the HTML page of the jobs in DIR")
    add("--check", dest="check", action="store_true",
        help="check all that a pilot needs on this node (with -q: for that queue) and say how to mend it")
    add("--json", dest="json", action="store_true", help="with --check or --status: the answer as JSON")
    add("--version", dest="version", action="store_true", help="print the version")


def _add_obsolete(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("obsolete, accepted and ignored").add_argument
    add("-r", "--resource", dest="resource", help="comes from the queue description")
    add("-s", "--site", dest="site", help="comes from the queue description")


if __name__ == "__main__":
    build_parser().print_help(sys.stdout)
