"""What may differ from experiment to experiment, each hook with its sensible default.

The core knows an experiment only through this class. A new experiment overrides what differs and nothing else; it is
found by its folder name below ``pilot/user``, through the entry point group ``panda_pilot.experiment``, or by a dotted
path on the command line (``--pilot-user my.package:MyExperiment``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Optional

from pilot.info.jobreportdata import ReportPolicy
from pilot.info.remoteinputs import remote_names

if TYPE_CHECKING:
    from pilot.info.cvmfs import CvmfsTree
    from pilot.info.diagnosis import Rule
    from pilot.info.job import Job
    from pilot.info.jobreportdata import JobReportData
    from pilot.info.middleware import MiddlewareCommand, MiddlewareTask
    from pilot.info.payloadtask import Moment, PayloadCommand, PayloadTask, UtilityCommand
    from pilot.info.queuedata import QueueData


class Experiment:
    """Base class; every method says when it is called and what the default does."""

    name: str = "base"
    """Lower-case name, as in ``--pilot-user``."""

    transform_base_urls: Sequence[str] = ()
    """Base URLs from which transformations may be downloaded when neither ``-g`` nor PANDA_BASE_URLS is given."""

    mv_to_final_destination: bool = False
    """True: the mv copytool uses the deterministic path layout of the storage (queue flag ``mv_final_destination``)."""

    sends_worker_node_map: bool = False
    """True: the worker node's description is sent to the server at start-up."""

    sends_architecture_level: bool = False
    """True: updates carry the node's ``cpu_architecture_level`` where the hook of that name says nothing."""

    redundant_files: Sequence[str] = ()
    """Patterns, relative to the job work directory, of files that do not belong into the log archive."""

    realtime_server: str = ""
    """Where lines go with real-time logging when neither option nor queue says it:
    ``<type>;<protocol>://<host>:<port>``; '' = setting ``pilot.rtlogging``."""

    realtime_tls: Optional[tuple[bool, bool]] = None
    """(TLS at all, verify the certificate) for that server; None = settings ``pilot.ssl_enable``,
    ``pilot.ssl_verify``."""

    needs_proxy: bool = False
    """True: without a valid X509 proxy nothing can be stored or reported, so its end is one of the ends of the pilot's
    slot."""

    looping_exclusions: Sequence[str] = ()
    """Patterns (``fnmatch``) for the path below the job's directory, or its last part, of files that change although a
    payload does nothing: logs of monitors that run beside it. Never broad ones like ``*.py``: what no pattern hides
    keeps a looping payload alive for one limit, what one hides too much kills a good one."""

    def sanity_check(self) -> tuple[int, str]:
        """Called once before the first job; (pilot error code, text), code 0 = all is well."""
        return 0, ""

    def cvmfs_tree(self, environ: Mapping[str, str]) -> Optional[CvmfsTree]:
        """Called once before the first job, on queues with ``is_cvmfs``, unless ``-b`` or NO_CVMFS_OK is given: what
        has to be there on CVMFS, else the pilot ends with 1377 (exit code 64). The default: None, nothing is looked at.
        """
        return None

    def verify_proxy(self, proxy: str, *, at_start: bool) -> tuple[int, str]:
        """Called unless ``-t`` was given: before each getJob (``at_start``), every ``pilot.proxy_verification_time``
        while the pilot runs, and for a proxy that was fetched.

        ``proxy`` is the path of the file, '' when there is none. Returns (pilot error code, text), code 0 = valid; a
        text beside code 0 goes into the log. The default accepts everything: experiments without grid proxies are the
        rule outside of the LHC.
        """
        return 0, ""

    def pilot_proxy_role(self) -> tuple[str, str]:
        """Called when ``verify_proxy`` says that the VOMS attributes of the pilot's own proxy end soon (1370): (role,
        DN) of the proxy that the server is asked for; an empty DN is left out.

        The default is an empty role: the proxy is not renewed by the pilot.
        """
        return "", ""

    def payload_proxy_role(self, job: Job) -> tuple[str, str]:
        """Called in validation of user jobs that must not run with the pilot's proxy: (role, DN) of the proxy that the
        server is asked for; an empty DN is left out.

        The default is an empty role: payloads have the environment's proxy, none is fetched.
        """
        return "", ""

    def allow_timefloor(self, submit_mode: str) -> bool:
        """Called once at start: may it take several jobs (``timefloor``)? ``submit_mode`` is ``pull`` or ``push``."""
        return True

    def complete_job(self, job: Job, environ: Mapping[str, str]) -> None:
        """Called once per job, before it is verified: fills fields of ``job`` that the server does not know.

        ``environ`` is the pilot's environment at its start. An error it raises fails the job with that code.
        """

    def verify_job(self, job: Job, queue: QueueData) -> list[tuple[int, str]]:
        """Called in validation, when the job has its directory; returns (pilot code, text) of each reason why this job
        cannot run here, which fails it before anything is transferred.
        """
        return []

    def transfers_input(self, lfn: str) -> bool:
        """Called for each input when a job has come; False: it is not to be transferred and counts as present."""
        return True

    def redundant_patterns(self, job: Job) -> Sequence[str]:
        """Called before files of a job are moved: patterns beside ``redundant_files`` that depend on the job."""
        return ()

    def pilot_id(self, gtag: str, job_id: str) -> str:
        """Called for each update; returns the first part of its ``pilotID``, a URL of the log.

        ``gtag`` is the URL of a log that was stored as a file of its own, else the variable GTAG; '' = there is none.
        """
        return gtag or "unknown"

    def middleware_command(self, task: MiddlewareTask) -> MiddlewareCommand:
        """Called before a transfer by a script, on queues whose ``container_type`` has the user ``middleware``, by the
        stage-in and stage-out threads; returns the command that runs the script.

        The default runs it with the pilot's own Python (``bash``), or with apptainer or singularity in the image of
        setting ``container.middleware_container`` (``container``). ALRB's texts: ``pilot.user.alrb``.

        Raises:
            PilotException: the command cannot be made (1341: a queue or a setting is wrong).
        """
        from pilot.user.containers import bash_command, container_command

        return container_command(task) if task.mode == "container" else bash_command(task)

    def remote_inputs(self, job: Job) -> Mapping[str, str]:
        """Called when the command is built: ``{LFN: URL}`` to put into job parameters and lists of ``writeToFile``.

        The default gives the URLs of all inputs that stay remote: a name of a file that is not here helps no payload.
        Build jobs get none. An experiment whose transforms read PoolFileCatalog.xml returns ``{}`` for them.
        """
        return {} if job.is_build else remote_names(job.indata)

    def job_parameters(self, job: Job, text: str) -> str:
        """Called last when the command is built; returns the parameters to use, by default the given ones.

        See ``pilot.info.remoteinputs`` for the options that transforms of remote inputs take.
        """
        return text

    def payload_environment(self, job: Job) -> Mapping[str, str]:
        """Called before the command is built: returns variables for the payload beside those that every payload gets;
        an empty X509_USER_PROXY removes that variable.
        """
        return {}

    def payload_command(self, task: PayloadTask) -> PayloadCommand:
        """Called when the inputs are there; returns how the payload is run, without its container.

        The default starts the transformation (downloaded when it is a URL) with the job parameters.

        Raises:
            PilotException: the command cannot be made (1149, 1143, 1346, 1186, ...); the job fails with that code.
        """
        from pilot.info.payloadtask import PayloadCommand

        return PayloadCommand(f"{task.transformation()} {task.parameters}".strip())

    def uses_container(self, job: Job, queue: QueueData) -> bool:
        """Called in validation and before the payload: does it run in a container that the pilot starts?

        The default: yes with an image (not ``NULL``), or with a platform when the queue's ``container_type`` has the
        user ``pilot`` (payload document 7.1). Yes on a queue without that entry fails the job (1384).
        """
        from pilot.user.payloadcontainer import uses_container

        return uses_container(job, queue)

    def contain(self, task: PayloadTask, command: PayloadCommand) -> PayloadCommand:
        """Called when ``uses_container``: returns the same payload wrapped into its container, or ``command`` itself
        for a payload that needs none after all (``pilot.user.payloadcontainer.stays_outside``).

        The default starts apptainer, singularity or podman; ALRB's containers: ``pilot.user.alrbpayload``.

        Raises:
            PilotException: 1384, 1360, 1325, 1372: there is no container for it here; 1341: bad options.
        """
        from pilot.user.payloadcontainer import contain

        return contain(task, command)

    def verifies_setup(self, job: Job, queue: QueueData) -> bool:
        """Called before the payload: shall the set-up part of the command be tried alone first?

        Only asked where the queue (``params.verify_setup``), else the setting ``jobs.verify_setup``, allows it.
        """
        return False

    def setup_end(self, task: PayloadTask, command: PayloadCommand, head: str) -> Optional[float]:
        """Called when the payload has ended; returns when its set-up was over (epoch s), None when that is unknown.

        The default finds the time that the release set-up file of an ALRB container prints.

        Args:
            task, command: what was run.
            head: the first 50 lines of its standard output.
        """
        from pilot.user.alrbpayload import setup_end

        return setup_end(task, command, head)

    def utility(self, moment: Moment, task: PayloadTask, command: PayloadCommand) -> Sequence[UtilityCommand]:
        """Called at each moment; returns what is to run then, beside what the job itself asks for.

        ``Moment.BEFORE_STAGEIN`` comes before there is a command (only for jobs with inputs),
        ``AFTER_PAYLOAD_FINISHED`` after the last turn, also after a failure, the others in each turn of a job (those
        that come after the payload only when it has succeeded). ``task.pid`` is known from
        ``AFTER_PAYLOAD_STARTED`` on: there belongs the memory monitor, a utility with the label ``memorymonitor``
        (without one: prmon in PATH, else the pilot's own sampler).
        """
        return ()

    def utility_ended(self, task: PayloadTask, utility: UtilityCommand, code: int, output: str) -> Mapping[str, str]:
        """Called when a utility, or a pre- or postprocess of the job, has ended by itself; ``output`` is the beginning
        of its standard output. Returns variables for the transfers and the payload of this job. It may change
        ``task.job.jobparams`` before the payload: the payload then gets the new text.
        """
        return {}

    def job_metrics(self, job: Job, *, final: bool) -> str:
        """Called for each update: returns its ``jobMetrics``, blank separated ``name=value``; '' sends none.

        The server keeps 500 bytes: of more, the least wanted pairs are dropped (``info.jobmetrics``). ``final`` is True
        for the final report. Heartbeats come from another thread than the payload's: do not change ``job``.
        """
        return ""

    def report_policy(self, job: Job) -> ReportPolicy:
        """Called once when the payload has ended: what its job report means for the job.

        The default: the report is sent as metaData, GUIDs and number of events are taken from it, nothing else.
        """
        return ReportPolicy()

    def metadata(self, job: Job, report_text: str) -> str:
        """Called once when the payload has ended: returns ``metaData`` of the final report, made from the text of
        jobReport.json ('' when there is none).

        Called after ``report_policy``: its ``compact`` and ``old_files`` are applied to the text already.
        """
        return report_text

    def diagnosis_rules(self, job: Job) -> Sequence[Rule]:
        """Called once when the payload has ended: rules (``pilot.info.diagnosis``) for what only this experiment's
        software says; they are asked before those that every payload gets. The default: none.
        """
        return ()

    def judge_report(self, job: Job, report: JobReportData) -> list[tuple[int, str]]:
        """Called for a payload with exit code 0 and a usable report; (pilot code, text) of what this says against the
        job, beside what ``report_policy`` has asked for. The default: nothing.
        """
        return []

    def cpu_architecture_level(self) -> str:
        """Called for each update: returns its ``cpu_architecture_level``, e.g. ``x86_64-v3``; '' sends none."""
        return ""
