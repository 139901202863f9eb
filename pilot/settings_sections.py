"""The sections and keys of the settings: name, type, unit, bounds, meaning; the default values are in default.yaml.

Sections ``pilot`` to ``workernode`` carry the names that sites know from the reference's INI file (there ``[Pilot]``,
``[Message_broker]``, ...); the sections after them are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import FrozenInstanceError, dataclass, field
from typing import Any


def _key(doc: str, unit: str = "", *, choices: tuple[str, ...] = (), minimum: float | None = None) -> Any:
    """Describe one key. ``unit`` "bytes" also makes the loader accept ``2 GB``; ``minimum`` is inclusive."""
    return field(metadata={"doc": doc, "unit": unit, "choices": choices, "minimum": minimum})


@dataclass(init=False, repr=False, eq=False)
class Section:
    """Base of the sections: immutable; the methods stand here once, because generating them for each of the
    sections would cost every pilot some milliseconds at start."""

    def __init__(self, **values: Any) -> None:
        missing = self.__class__.__dataclass_fields__.keys() ^ values.keys()
        if missing:
            raise TypeError(f"{type(self).__name__}: missing or unknown: {', '.join(sorted(missing))}")
        self.__dict__.update(values)

    def __setattr__(self, name: str, value: object) -> None:
        raise FrozenInstanceError(f"settings are frozen: cannot assign {name!r}")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.__dict__ == self.__dict__

    def __hash__(self) -> int:
        return id(type(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__dict__.items())})"


@dataclass(init=False, repr=False, eq=False)
class PilotSection(Section):
    """File names, time intervals and local limits of the pilot itself."""

    pilotlog: str = _key("pilot log in PILOT_HOME; the wrapper watches its modification time")
    log_format: str = _key("lines for people, or one JSON object per line", choices=("classic", "json"))
    stageinlog: str = _key("log of the stage-in helper")
    stageoutlog: str = _key("log of the stage-out helper")
    pandajobdata: str = _key("name of a pre-placed job definition")
    pandajob: str = _key("fake = internal test job, no server", choices=("real", "fake"))
    testjobtype: str = _key("kind of the fake job", choices=("production", "user"))
    testjobcommand: str = _key("what the fake job does", choices=("normal", "sleep"))
    testtransfertype: str = _key("input access of the fake job", choices=("direct", "NULL"))
    pandaserver: str = _key("PanDA server when --url is empty; https unless it says otherwise")
    rtlogging: str = _key("real-time log server <type>;<protocol>://<host>:<port> when nothing nearer names one")
    rtlogging_period: float = _key("between looks of the real-time logger at its files", "s", minimum=0.1)
    rtlogging_patience: float = _key("that the pilot waits at its end for the last lines to be taken", "s", minimum=0)
    ssl_enable: bool = _key("TLS for the real-time logger, for http:// too")
    ssl_verify: bool = _key("verify the real-time log server's certificate")
    heartbeat: int = _key("between job updates", "s", minimum=1)
    debug_heartbeat: int = _key("between job updates in debug mode", "s", minimum=1)
    lost_heartbeat: int = _key("without a successful update before the log warns of a lost job", "s", minimum=1)
    pilot_heartbeat: int = _key("between updates of the pilot heartbeat file", "s", minimum=1)
    heartbeat_message: str = _key("with -z: each server message is written here")
    pilot_heartbeat_file: str = _key("pilot heartbeat file in PILOT_HOME")
    jobid_file: str = _key("one PanDA job id per line, for the wrapper")
    free_space_limit: int = _key("free local space needed before a job is asked for", "bytes", minimum=0)
    free_space_limit_running: int = _key("free local space needed while a job runs", "bytes", minimum=0)
    maximum_output_file_size: int = _key("largest output file", "bytes", minimum=1)
    maximum_input_file_sizes: int = _key("sum of the input files when the queue has no maxwdir", "bytes", minimum=1)
    local_size_limit_stdout: int = _key("largest payload stdout", "kB", minimum=1)
    looping_verification_time: int = _key("from a payload's start to the first looping check", "s", minimum=1)
    looping_limit_default: int = _key("without a changed file = looping, where limits.looping_* are 0", "s", minimum=1)
    looping_limit_min_default: int = _key("lower bound of any looping limit", "s", minimum=1)
    kill_instruction_time: int = _key("between looks for the kill file", "s", minimum=1)
    kill_instruction_filename: str = _key(
        "file in PILOT_HOME that makes the pilot end the payload; the job counts as finished; empty = none does")
    proxy_verification_time: int = _key("between proxy checks", "s", minimum=1)
    payload_proxy_from_server: bool = _key("download a payload proxy from PanDA for user jobs")
    disk_space_verification_time: int = _key("between disk space checks", "s", minimum=1)
    memory_usage_verification_time: int = _key("between memory checks", "s", minimum=1)
    process_verification_time: int = _key("between process count checks", "s", minimum=1)
    thread_check: int = _key("between checks of the pilot's threads", "s", minimum=1)
    cpu_check: int = _key("between log lines on the pilot's own CPU use", "s", minimum=1)
    timing_file: str = _key("timing file (the PilotDB has the times)")
    redundant: str = _key("site list of patterns left out of the log archive; ATLAS_SW_BASE replaces /cvmfs")
    utility_after_payload_started: str = _key(
        "MemoryMonitor: prmon, else the pilot's own sampler, writes its files; empty = none does")
    http_connect_timeout: int = _key("connection time-out of downloads", "s", minimum=1)
    http_maxtime: int = _key("longest download of a small file", "s", minimum=1)
    update_sleep: int = _key("upper bound of the pause between failed job updates", "s", minimum=1)
    remotefileverification_dictionary: str = _key("result of the remote file open test")
    remotefileverification_log: str = _key("log of the remote file open test; empty = test off")
    remotefileverification_instant: str = _key("unbuffered copy of that log")
    base_trace_report: str = _key("stored trace for direct access")
    pandasecrets: str = _key("user secrets of the job, in the job directory, mode 0600, never archived")
    checks: tuple[str, ...] = _key(
        "what the pilot looks after beside its jobs: pilot_heartbeat, threads, cpu_usage, proxy ...; empty = all")
    enable_delay_to_get_job: bool = _key("ask for no job while the machine's load is too high")
    load_factor: float = _key("too high: 1-minute load above cores times this", minimum=0)


@dataclass(init=False, repr=False, eq=False)
class InformationSection(Section):
    """Where queue and storage descriptions come from."""

    cache_dir: str = _key("directory of the cached descriptions; empty = PILOT_HOME")
    queuedata_url: str = _key("queue description; {pandaqueue} is the queue's name")
    queuedata_cvmfs: str = _key("the same on CVMFS; CVMFS_PATH is $ATLAS_SW_BASE or /cvmfs")
    queuedata_cache: str = _key("cached queue description")
    queues_url: str = _key("CRIC queue description; {pandaqueue} is the queue's name")
    queues_cvmfs: str = _key("the same on CVMFS")
    queues_cache: str = _key("cached CRIC queue description")
    storages_url: str = _key("storage endpoint descriptions")
    storages_cvmfs: str = _key("the same on CVMFS")
    storages_cache: str = _key("cached storage endpoint descriptions")
    acopytools: Mapping[str, Any] = _key("activity -> list of copytools; overrides the queue's when not empty")


@dataclass(init=False, repr=False, eq=False)
class PayloadSection(Section):
    """Files that the payload writes."""

    jobreport: str = _key("job report")
    metadata: str = _key("XML file that old releases leave in the place of a job report")
    payloadstdout: str = _key("payload's standard output")
    payloadstderr: str = _key("payload's standard error")
    error_report: str = _key('a payload may write {"error_code": int, "error_diag": str} here')
    control_groups: str = _key(
        "control groups (version 2) of their own for payloads where the site lets the pilot; auto = where they account "
        "for memory, always = without that, too", choices=("auto", "always", "never"))
    keep_core_dumps: bool = _key("core dumps of payloads stay in the log archive; in debug mode they always do")


@dataclass(init=False, repr=False, eq=False)
class ContainerSection(Section):
    """Container set-up and the files of containerised helpers."""

    setup_type: str = _key(
        "ALRB, which experiments without it take for 'what the queue's container_type says'; apptainer, singularity or "
        "podman to start these directly")
    container_script: str = _key("file with the payload's commands inside ALRB's container")
    release_setup: str = _key("file that sets the release up inside ALRB's container")
    middleware_container: str = _key("container of the stage-in/out helpers: a name of ALRB, or an image's path or URL")
    middleware_container_no_path: str = _key("the same as a name without path, used when ALRB_CONT_UNPACKEDDIR is set")
    middleware_container_stagein_script: str = _key("stage-in helper script")
    middleware_container_stageout_script: str = _key("stage-out helper script")
    stagein_status_dictionary: str = _key("result of the stage-in helper")
    stagein_replica_dictionary: str = _key("replicas handed to the stage-in helper")
    stageout_status_dictionary: str = _key("result of the stage-out helper")
    middleware_stagein_stdout: str = _key("standard output of the stage-in helper")
    middleware_stagein_stderr: str = _key("standard error of the stage-in helper")
    middleware_stageout_stdout: str = _key("standard output of the stage-out helper")
    middleware_stageout_stderr: str = _key("standard error of the stage-out helper")


@dataclass(init=False, repr=False, eq=False)
class HarvesterSection(Section):
    """Names of the files that are shared with Harvester (its own configuration must have the same)."""

    job_request_file: str = _key("asks Harvester for another job")
    kill_worker_file: str = _key("empty file: the worker may be ended")
    jobs_list_file: str = _key("job ids of this worker")
    pandajob_file: str = _key("job definitions")
    workerattributes_file: str = _key("state of the worker and its job")
    stageoutn_file: str = _key("outputs that Harvester is to store")


@dataclass(init=False, repr=False, eq=False)
class HpcSection(Section):
    """HPC machines."""

    scratch: str = _key("scratch directory of the compute nodes")


@dataclass(init=False, repr=False, eq=False)
class FileSection(Section):
    """Files and their checksums."""

    checksum_type: str = _key("checksum of outputs", choices=("adler32", "md5"))


@dataclass(init=False, repr=False, eq=False)
class RucioSection(Section):
    """The Rucio service."""

    url: str = _key("trace server; empty = no traces")
    rucio_trace_error_file: str = _key("in the job's directory: number of the error when its traces do not get away")
    trace_patience: float = _key("that the pilot waits at its end for traces to be taken", "s", minimum=0)
    host: str = _key("Rucio server when --rucio-host is empty")


@dataclass(init=False, repr=False, eq=False)
class MessageBrokerSection(Section):
    """ActiveMQ or another STOMP 1.2 broker, for --subscribe-to-msgsvc."""

    url: str = _key("host name; an alias is resolved to all brokers behind it")
    receiver_port: int = _key("STOMP port", minimum=1)
    heart_beat: float = _key("between heart-beats, both ways; 0 = none, TCP keep-alive only", "s", minimum=0)
    patience: float = _key("without any broker before jobs are asked for without instructions", "s", minimum=0)


@dataclass(init=False, repr=False, eq=False)
class TokenSection(Section):
    """OIDC token."""

    download_check: int = _key("between looks whether the token must be renewed", "s", minimum=1)


@dataclass(init=False, repr=False, eq=False)
class WorkernodeSection(Section):
    """Descriptions of the node that are sent to the server."""

    map: str = _key("worker node map")
    gpu_map: str = _key("GPU map")


@dataclass(init=False, repr=False, eq=False)
class ServerSection(Section):
    """How the pilot talks to the PanDA server."""

    api: str = _key("server interface; auto = v1, legacy where the server has no v1", choices=("auto", "v1", "legacy"))
    legacy_encoding: str = _key("body of legacy calls", choices=("json", "form"))
    gzip: bool = _key("compress request bodies and accept compressed answers")
    verify_tls: bool = _key("verify the server's certificate")
    connect_timeout: float = _key("until the connection stands", "s", minimum=0.1)
    read_timeout: float = _key("until the server answers", "s", minimum=0.1)
    start_patience: float = _key(
        "that a server out of reach is waited for: for queue data at start, and at getJob", "s", minimum=0)
    getjob_wait: float = _key("shortest pause after an unsuccessful getJob", "s", minimum=0)
    getjob_wait_max: float = _key("longest pause after an unsuccessful getJob", "s", minimum=0)
    getjob_wait_harvester: float = _key("pause between looks for a job in Harvester mode", "s", minimum=0)
    retry_base: float = _key("first pause before another attempt; doubles each time", "s", minimum=0)
    retry_max: float = _key("longest pause before another attempt", "s", minimum=0)
    final_patience: float = _key("that an undelivered final report keeps the pilot alive", "s", minimum=0)
    worker_status_attempts: int = _key("attempts of a worker status update", minimum=1)


@dataclass(init=False, repr=False, eq=False)
class TransfersSection(Section):
    """Stage-in and stage-out."""

    parallel: int = _key("transfers at a time", minimum=1)
    stagein_timeout_base: int = _key("time-out of a transfer, before what its size adds", "s", minimum=1)
    no_progress_timeout: int = _key("without a moved byte before a transfer is broken off", "s", minimum=1)
    copy_chunk: int = _key("read and write unit of local copies", "bytes", minimum=4096)
    overwrite: bool = _key("replace another file at the destination of an output; a queue's copytools may say so, too")
    helper_python: str = _key("Python for client libraries; empty = the pilot's, else the first python3 that has them")
    declare_replicas: str = _key(
        "what Rucio is told of an input whose checksum is wrong twice", choices=("no", "suspicious", "bad")
    )
    fsync: bool = _key("force copied files to disk before they count as stored")


@dataclass(init=False, repr=False, eq=False)
class ShutdownSection(Section):
    """The way out after a signal or a kill."""

    deadline: float = _key("from the signal to the exit", "s", minimum=0)
    pod_deadline: float = _key("the same in a Kubernetes pod (--pod)", "s", minimum=0)
    term_grace: float = _key("between SIGTERM and SIGKILL of a payload", "s", minimum=0)


@dataclass(init=False, repr=False, eq=False)
class LimitsSection(Section):
    """Limits of a job that no queue or job parameter sets."""

    looping_analysis: int = _key(
        "without a changed file = looping, analysis jobs; 0 = pilot.looping_limit_default", "s", minimum=0)
    looping_production: int = _key(
        "without a changed file = looping, production jobs; 0 = pilot.looping_limit_default", "s", minimum=0)
    looping_cpu_stretch: float = _key("factor on the looping limit of a payload that uses CPU", minimum=1)
    log_archive_max_file: int = _key("largest single file that goes into the log archive", "bytes", minimum=0)
    reserve_space: int = _key("free local space kept beyond inputs and expected outputs", "bytes", minimum=0)
    cvmfs_time: float = _key("that the look at CVMFS before the first job may take", "s", minimum=1)
    clock_offset: float = _key("between this node's clock and the server's before the log warns", "s", minimum=1)
    node_check_time: float = _key(
        "that each check of --check may take, and the look for CA certificates at start", "s", minimum=1)
    leave_margin: float = _key(
        "kept before the end of the slot for outputs, log and report; in short slots a tenth", "s", minimum=0)
    leave_by_check: float = _key("between looks at what may end the slot (shutdowns, proxies)", "s", minimum=1)
    shortest_job: float = _key(
        "that must be left before a job is asked for, beside that margin; in short slots a tenth", "s", minimum=0)
    token_ends_slot: bool = _key(
        "the end of a token that the pilot does not renew ends its slot; false where the site renews the file")
    transfer_rate: int = _key("per second that a stage-out is taken to move before one was measured", "bytes",
                              minimum=1)
    node_failures: int = _key(
        "failures in a row caused by the node that end a pilot which would take another job; 0 = any number", minimum=0)


@dataclass(init=False, repr=False, eq=False)
class JobsSection(Section):
    """How jobs follow each other and are reported."""

    compat_requote: bool = _key("rewrite job parameters with the quoting of Pilot 2 and 3")
    pipelining: bool = _key("fetch and stage in the next job while the last one leaves; the queue's word wins")
    reference_exit_codes: bool = _key("exit codes of Pilot 3 where they differ (1 after a failed stage-in, ...)")
    verify_setup: bool = _key("try a payload's set-up alone first where its experiment wants it; the queue's word wins")
    verify_setup_time: float = _key("longest time that such a trial may take", "s", minimum=1)
    pilot_timing_fields: int = _key("fields of pilotTiming: 5, or 6 as Pilot 3 sends", minimum=5)
    output_files_xml: bool = _key("with -z: OutputFiles.xml beside heartbeat.json, for Nordugrid (ARC)")


@dataclass(init=False, repr=False, eq=False)
class MonitorSection(Section):
    """Sampling of the payload."""

    cpu_interval: float = _key("between CPU samples of the payload", "s", minimum=1)
    looping_core: bool = _key("a core file of a looping payload goes into its log archive, if it is not too large")
    gdb_time: float = _key("for gdb's look into a looping payload; 0 = no such look", "s", minimum=0)
    suspension: float = _key("without a beat of the pilot's pulse = it was suspended", "s", minimum=1)
    step_time: float = _key(
        "that a step (validation, set-up, clean-up ...) may take before it counts as stuck", "s", minimum=1)
    call_time: float = _key(
        "the same for the monitor, and beyond its time-outs for a call of the server", "s", minimum=1)
    benchmark_fraction: float = _key("part of the jobs (0 to 1) that run the benchmark suite beside them", minimum=0)
    benchmark_url: str = _key("collector of benchmark results; empty = they only go into the job report")
    report_page: bool = _key("put a page that tells what the job did, pilot_report.html, into its log archive")
    status_line: bool = _key("on a terminal: keep a line with the present state below the log")


@dataclass(init=False, repr=False, eq=False)
class PluginsSection(Section):
    """Plug-ins outside this package: name -> ``module:Class``. Entry points need no entry here."""

    experiments: Mapping[str, Any] = _key("experiment name (--pilot-user, lower case) -> module:Class")
    copytools: Mapping[str, Any] = _key("copytool name -> module:Class")
    resources: Mapping[str, Any] = _key("HPC resource name (--hpc-resource, lower case) -> module:Class")


@dataclass(init=False, repr=False, eq=False)
class TelemetrySection(Section):
    """Traces and metrics for an OpenTelemetry collector (extra ``otel``)."""

    otlp_endpoint: str = _key("base URL of a collector that speaks OTLP over HTTP; empty = nothing is exported")
    interval: float = _key("between exports of metrics", "s", minimum=1)
    timeout: float = _key("for one export with its repetitions", "s", minimum=0.1)
    patience: float = _key("that the pilot's end waits for the last export", "s", minimum=0)


SECTIONS: dict[str, type[Section]] = {
    "pilot": PilotSection,
    "information": InformationSection,
    "payload": PayloadSection,
    "container": ContainerSection,
    "harvester": HarvesterSection,
    "hpc": HpcSection,
    "file": FileSection,
    "rucio": RucioSection,
    "message_broker": MessageBrokerSection,
    "token": TokenSection,
    "workernode": WorkernodeSection,
    "server": ServerSection,
    "transfers": TransfersSection,
    "shutdown": ShutdownSection,
    "limits": LimitsSection,
    "jobs": JobsSection,
    "monitor": MonitorSection,
    "telemetry": TelemetrySection,
    "plugins": PluginsSection,
}
"""Section name -> its dataclass, in the order of the documentation."""

WITHOUT_EFFECT: frozenset[str] = frozenset(
    f"{section}.{key}"
    for section, keys in {
        "pilot":
            "maximum_input_file_sizes timing_file "
            "redundant http_connect_timeout update_sleep "
            "remotefileverification_instant "
            "base_trace_report",
        "harvester": "job_request_file jobs_list_file workerattributes_file stageoutn_file",
        "hpc": "scratch",
        "plugins": "resources",
    }.items()
    for key in keys.split()
)
"""Settings that are accepted and checked, but that nothing in this version acts on; a test keeps the list true."""
