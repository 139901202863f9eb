"""From a parsed command line to the exit code: work directory, log, PilotDB, queue, the workflow, the way out.

::

    run ── prepare (directory, log, store) ── connect (server, queue) ── workflow ── leave (drain, clean, exit code)
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from pilot.common.errorcodes import message_of, process_exit_code, shell_exit_code
from pilot.common.exception import MKDirFailure, PilotException
from pilot.context import PilotContext
from pilot.control.shutdown import Shutdown, SignalArrived
from pilot.control.watch.leavetime import begin_leave_by
from pilot.info.config import SourceConfig
from pilot.info.infoservice import InfoService
from pilot.info.queuedata import QueueData
from pilot.monitoring.batch import condor_short_id, find_batch_system
from pilot.monitoring.node import NodeDescription
from pilot.monitoring.pulse import Pulse
from pilot.option_rules import canonical_workflow, is_harvester_mode, server_base_url, traces_wanted
from pilot.options import Options
from pilot.panda.credentials import Credentials
from pilot.panda.server import PandaServer, user_agent
from pilot.payload.process import Supervisor
from pilot.settings import Settings
from pilot.store.pilotdb import DATABASE_NAME, OwnerLock, PilotDB
from pilot.user import load_experiment
from pilot.util.bounded import TookTooLong, bounded
from pilot.util.cancel import CancelledError
from pilot.util.fetch import fetch
from pilot.util.helper import HelperPool
from pilot.util.logs import log_banner, redirect_stdout, setup_logging
from pilot.util.redact import redact
from pilot.util.removal import remove_tree
from pilot.version import PILOT_VERSION
from pilot.workflow.atstart import check_cvmfs, look_at_node

if TYPE_CHECKING:
    from pilot.workflow.statusline import StatusLine

logger = logging.getLogger(__name__)


def run(options: Options, settings: Settings) -> int:
    """Run a pilot; returns the process exit code.

    Raises:
        PilotException: the start failed before there was a log (bad experiment, work directory).
    """
    started = time.monotonic()
    environ = dict(os.environ)
    launch_dir = Path.cwd()
    experiment = load_experiment(options.pilot_user, settings.plugins.experiments)
    workflow = canonical_workflow(options.workflow)
    if workflow != "generic":
        raise PilotException(f"workflow {workflow} is not part of this version; use -w generic", code=1300)
    home = _make_home(options, launch_dir)
    if options.redirectstdout:
        redirect_stdout(str(launch_dir / options.redirectstdout))  # the work directory would take it along
    structured = settings.pilot.log_format == "json"
    setup_logging(None if options.nopilotlog else home / settings.pilot.pilotlog, options.debug, structured=structured)
    _export_environment(options, home, launch_dir)
    _link_log(home, launch_dir, settings.pilot.pilotlog)
    log_banner()
    _log_settings(options, settings)
    store, lock = _open_store(home)
    token = secrets.token_hex(8)
    ctx = PilotContext(
        options=options, settings=settings, environ=environ, launch_dir=launch_dir, home=home,
        token=token, experiment=experiment, store=store, lock=lock,
        supervisor=Supervisor(token, bare_groups=settings.payload.control_groups == "always"),
        node=NodeDescription(environ),
        batch=find_batch_system(environ), harvester=is_harvester_mode(options, environ),
        kubernetes="K8S_JOB_ID" in environ, started=started, pulse=Pulse(settings.monitor.suspension),
        helpers=HelperPool(home, tuple(filter(None, [settings.transfers.helper_python]))),
        shutdown=Shutdown(settings.shutdown.pod_deadline if options.pod or "K8S_JOB_ID" in environ
                          else settings.shutdown.deadline, kubernetes="K8S_JOB_ID" in environ))
    logger.info("node %s, batch job %s, process %d, Python %s (%s), work directory %s", ctx.node.host_name,
                f"{ctx.batch.id} ({ctx.batch.type})" if ctx.batch.type else "unknown", os.getpid(),
                sys.version.split()[0], sys.executable, home)
    if structured:
        _describe_log(ctx)
    ctx.shutdown.install_handlers()
    store.begin(ctx.token, PILOT_VERSION, ctx.node.host_name)
    store.set_facts(_facts(ctx))
    line = start_status_line(ctx)
    try:
        _connect(ctx)
        from pilot.workflow import generic

        generic.run(ctx)
    except CancelledError as exc:
        logger.critical("the pilot was told to end before it had asked for a job: %s", exc.detail)
        ctx.exit_error = ctx.exit_error or exc.code
    except PilotException as exc:
        if line is not None:
            line.close()
        logger.critical("the pilot cannot run: %s", exc.full_text)
        _tell(exc.full_text)
        ctx.exit_error = ctx.exit_error or exc.code
    finally:
        if line is not None:
            line.close()
    return _leave(ctx)


# --- prepare ----------------------------------------------------------------------------------------------------------


def _make_home(options: Options, launch_dir: Path) -> Path:
    """Make the main work directory and go there; without ``-a`` it is the launch directory."""
    if not options.workdir:
        return launch_dir
    # many pilots may start in the same second with the same pid on different nodes of a shared file system
    name = f"PanDA_Pilot2_{os.getpid()}_{int(time.time())}_{secrets.token_hex(4)}"
    home = (launch_dir / options.workdir).absolute() / name
    try:
        home.mkdir(mode=0o770, parents=True)
        os.chdir(home)
    except OSError as exc:
        raise MKDirFailure(f"main work directory {home}: {exc.strerror}; look at option -a") from exc
    return home


def _link_log(home: Path, launch_dir: Path, name: str) -> None:
    """With ``-a``: leave a link to the log where the wrapper looks whether it still changes."""
    if home != launch_dir and (home / name).exists():
        try:
            (launch_dir / name).symlink_to(home / name)
        except FileExistsError:
            logger.debug("%s exists already: no link to this pilot's log", launch_dir / name)
        except OSError as exc:
            logger.info("no link to the log in %s: %s", launch_dir, exc.strerror)


def _export_environment(options: Options, home: Path, launch_dir: Path) -> None:
    """Export what copytools, plug-ins and payload scripts read (cli-config 4.2)."""
    values = {
        "PILOT_WORK_DIR": options.workdir, "PILOT_HOME": str(home), "PILOT_USER": options.pilot_user,
        "PILOT_JOB_STATE": "startup", "PILOT_VERSION": PILOT_VERSION, "PILOT_WRAP_UP": "NORMAL",
        "PILOT_PROXY_VERIFICATION": str(options.verify_proxy),
        "PILOT_PAYLOAD_PROXY_VERIFICATION": str(options.verify_payload_proxy), "SERVER_UPDATE": "NOT_DONE",
        "PILOT_RESOURCE_NAME": options.hpc_resource, "PILOT_USE_RUCIO_TRACES": str(traces_wanted(options, os.environ)),
        "PILOT_ES_EXECUTOR_TYPE": options.executor_type, "PILOT_STAGEOUT_ATTEMPTS": str(options.stageout_attempts),
        "QUEUEDATA_SERVER_URL": options.queuedata_url,
    }
    if options.output_dir:
        values["PILOT_OUTPUT_DIR"] = options.output_dir
    if options.storagedata_url:
        values["STORAGEDATA_SERVER_URL"] = options.storagedata_url
    if "_CONDOR_JOB_AD" in os.environ and (condor := condor_short_id(os.environ)):
        values["HTCondor_Job_ID"] = condor
    os.environ.update(values)
    os.environ.setdefault("PILOT_SOURCE_DIR", str(launch_dir))


def _log_settings(options: Options, settings: Settings) -> None:
    logger.info("pilot options: %s", options)
    for warning in settings.warnings:
        logger.warning("%s", warning)
    for line in settings.describe_changes():
        logger.info("setting %s", line)


def _describe_log(ctx: PilotContext) -> None:
    from pilot.util.jsonlog import SCHEMA
    from pilot.util.logs import describe_pilot

    environ = ctx.environ
    describe_pilot(
        schema=SCHEMA, pilot_version=PILOT_VERSION, pilot=ctx.token, host=ctx.node.host_name, pid=os.getpid(),
        queue=ctx.options.queue, batch_id=ctx.batch.id, batch_type=ctx.batch.type,
        harvester_id=environ.get("HARVESTER_ID", ""), worker_id=environ.get("HARVESTER_WORKER_ID", ""))


def start_status_line(ctx: PilotContext) -> Optional[StatusLine]:
    """On a terminal: keep a line with the present state below the log, else do nothing, and load nothing."""
    if not (ctx.settings.monitor.status_line and sys.stdout is not None and sys.stdout.isatty()
            and os.environ.get("TERM", "dumb") not in ("", "dumb")):
        return None
    from pilot.workflow.statusline import StatusLine

    line = StatusLine(ctx)
    return line if line.start() else None


def _facts(ctx: PilotContext) -> dict[str, str]:
    """Return what views for people say of this pilot's surroundings."""
    system = os.uname()
    changes = {f"setting {number}": redact(line) for number, line in enumerate(ctx.settings.describe_changes(), 1)}
    return {"experiment": ctx.options.pilot_user, "node": ctx.node.host_name,
            "batch job": f"{ctx.batch.id} ({ctx.batch.type})" if ctx.batch.type else "unknown",
            "system": f"{system.sysname} {system.release} {system.machine}",
            "Python": f"{sys.version.split()[0]} ({sys.executable})", "main work directory": str(ctx.home), **changes}


def _open_store(home: Path) -> tuple[PilotDB, OwnerLock]:
    path = home / DATABASE_NAME
    lock = OwnerLock(path)
    if not lock.acquire():
        path = home / f"pilot-{os.getpid()}-{secrets.token_hex(4)}.db"
        logger.warning("another living pilot works in %s: this one uses the database %s", home, path.name)
        lock = OwnerLock(path)
        lock.acquire()
    return PilotDB(path), lock


# --- connect ----------------------------------------------------------------------------------------------------------


def _connect(ctx: PilotContext) -> None:
    """Server, reporter, queue. Raises PilotException with the code that ends the pilot."""
    options, settings = ctx.options, ctx.settings
    ctx.credentials = Credentials.from_environment(options)
    base_url = server_base_url(options, settings)
    os.environ["PANDA_SERVER_URL"] = base_url
    if options.update_server and settings.pilot.pandajob != "fake":
        ctx.server = PandaServer(base_url, settings, credentials=ctx.credentials, user_agent=user_agent(PILOT_VERSION),
                                 harvester_id=ctx.environ.get("HARVESTER_ID", ""))
        logger.info("PanDA server: %s", base_url)
        _send_worker_status(ctx, "started", wait=0.0)
    else:
        logger.info("server updates are off (-z or pilot.pandajob: fake): updates go to %s",
                    settings.pilot.heartbeat_message)
    ctx.queue = _load_queue(ctx)
    ctx.store.set_server(ctx.token, options.queue, base_url)
    _apply_queue(ctx)
    look_at_node(ctx)


def _information(ctx: PilotContext) -> InfoService:
    """Return the service that describes queues and storage.

    Raises:
        PilotException: 1318, the directory of CA certificates hangs (it is often on CVMFS).
    """
    limit = ctx.settings.limits.node_check_time
    try:
        verify = bounded(ctx.verify_tls, limit, ctx.lookups, "ca-directory")
    except TookTooLong as exc:
        raise PilotException(f"the CA certificates cannot be looked at, {exc}: does the file system of --capath, "
                             "X509_CERT_DIR or /etc/grid-security/certificates hang?", code=1318) from exc
    source = SourceConfig.from_settings(ctx.settings, options=ctx.options, environ=ctx.environ, pilot_home=ctx.home,
                                        launch_dir=ctx.launch_dir)
    fetcher = partial(fetch, headers={"User-Agent": user_agent(PILOT_VERSION)}, verify=verify)
    return InfoService(source, fetcher=fetcher, token=ctx.lookups)


def _load_queue(ctx: PilotContext) -> QueueData:
    """Load the queue's description, and look at CVMFS, in a thread of its own: both may take minutes, and this thread
    has to see signals."""
    found: list[QueueData] = []
    errors: list[BaseException] = []

    def interrupt() -> None:
        ctx.lookups.cancel(ctx.shutdown.stopping.code, ctx.shutdown.stopping.reason)

    def load() -> None:
        try:
            ctx.info = _information(ctx)
            queue = ctx.info.load_queue(ctx.options.queue)
            refusal = queue.refusal()
            if refusal is not None:
                raise PilotException(refusal[1], code=refusal[0])
            check_cvmfs(ctx, queue)
            found.append(queue)
        except BaseException as exc:  # noqa: BLE001 - raised again in the main thread
            errors.append(exc)
        finally:
            ctx.shutdown.work_done()

    ctx.shutdown.stopping.on_cancel(interrupt)
    threading.Thread(target=load, name="queuedata", daemon=True).start()
    while True:
        wake = ctx.shutdown.next_wake()
        if isinstance(wake, SignalArrived):
            if ctx.shutdown.begin_signal(wake.signum):  # ends the pauses of the other thread; its requests may hang
                ctx.shutdown.stopping.check()
        elif errors:
            raise errors[0]
        elif found:
            ctx.shutdown.stopping.forget(interrupt)  # from here on the way out may need descriptions
            return found[0]


def _apply_queue(ctx: PilotContext) -> None:
    queue = ctx.queue
    if ctx.server is not None and queue.internet_protocol_version == "IPv4":
        ctx.server.force_ipv4(True)
    os.environ.setdefault("PILOT_RUCIO_SITENAME", queue.site or "")
    os.environ.update(PILOT_SITENAME=queue.resource, PILOT_IP_VERSION=queue.internet_protocol_version)
    begin_leave_by(ctx)


def _send_worker_status(ctx: PilotContext, status: str, *, wait: float) -> None:
    """Tell the server that this worker's pilot has started or finished; in the background, a failure is only logged."""
    worker, harvester = ctx.environ.get("HARVESTER_WORKER_ID"), ctx.environ.get("HARVESTER_ID")
    server = ctx.server
    if server is None or not worker or not harvester or not ctx.options.workerpilotstatusupdate:
        return

    def send() -> None:
        for attempt in range(ctx.settings.server.worker_status_attempts):
            try:
                server.update_worker_status(worker, harvester, status, site=ctx.options.queue, node=ctx.node.host_name)
                return
            except PilotException as exc:
                logger.warning("worker status '%s' was not taken (attempt %d): %s", status, attempt + 1, exc.detail)

    thread = threading.Thread(target=send, name="worker-status", daemon=True)
    thread.start()
    if wait:
        thread.join(wait)


# --- leave ------------------------------------------------------------------------------------------------------------


def _leave(ctx: PilotContext) -> int:
    """Deliver what is left, tidy up, and return the exit code."""
    _send_worker_status(ctx, "finished", wait=min(5.0, ctx.shutdown.remaining(5.0)))
    left = ctx.store.unacknowledged()
    code = _exit_code(ctx, left)
    if "_CONDOR_JOB_AD" in ctx.environ:
        from pilot.control.condor import leave_condor

        leave_condor(ctx)
    traces = ctx.store.waiting_traces()
    ctx.store.end(ctx.token, code)
    ctx.store.close()
    ctx.lock.release()
    ctx.helpers.close(at_once=True)
    ctx.supervisor.close()
    if left:
        logger.critical("%d final report(s) were not acknowledged; they are kept in %s: deliver them with "
                        "pilot.py --recover %s", left, ctx.store.path, ctx.home)
        _tell(f"{left} final report(s) were not acknowledged; deliver them with pilot.py --recover {ctx.home}")
    if traces:
        _tell_of_traces(ctx, traces, kept=bool(left))
    reason = ctx.shutdown.reason
    if reason is not None and reason.exit_code and not reason.signum:
        _tell(reason.text)
    logger.info("pilot has finished (exit code=%d, shell exit code=%d)", ctx.exit_error, code)
    _remove_home(ctx, keep=bool(left))
    if ctx.harvester:
        _touch_kill_worker(ctx)
    return code


def _exit_code(ctx: PilotContext, left: int) -> int:
    """Exit code by the rule of cli-config 7.1: jobs' errors do not count, signals, start-up and lost reports do."""
    signum = ctx.shutdown.signum
    if signum:
        ctx.exit_error = ctx.shutdown.reason.code if ctx.shutdown.reason else 1200
        return 128 + signum
    if left:
        ctx.exit_error = ctx.exit_error or 1318
    if ctx.exit_error:
        if shell_exit_code(ctx.exit_error) == 1:
            logger.warning("no translation to shell exit code for error code %d (%s)", ctx.exit_error,
                           message_of(ctx.exit_error))
        if ctx.settings.jobs.reference_exit_codes:
            return shell_exit_code(ctx.exit_error)
        return process_exit_code(ctx.exit_error)
    return 0


def _tell_of_traces(ctx: PilotContext, count: int, *, kept: bool) -> None:
    """Say what becomes of traces that were not taken in time. They decide neither exit code nor clean-up."""
    if kept or ctx.home == ctx.launch_dir or not ctx.options.cleanup:
        logger.warning("%d trace(s) wait in %s for the next pilot here, or for pilot.py --recover", count,
                       ctx.store.path)
    else:
        logger.warning("%d trace(s) could not be sent and are lost with the main work directory", count)


def _tell(text: str) -> None:
    """One line on stderr, so that a start that failed is not silent where only stderr is kept."""
    try:
        sys.stderr.write(f"pilot.py: {redact(text)}\n")
    except (OSError, ValueError, AttributeError):
        logger.debug("stderr is closed or full")


def _remove_home(ctx: PilotContext, *, keep: bool) -> None:
    if ctx.home == ctx.launch_dir or not ctx.options.cleanup:
        return
    if keep:
        logger.critical("the main work directory %s is kept for the undelivered reports", ctx.home)
        return
    from pilot.copytool.mv import OUTPUT_LIST

    if (ctx.home / OUTPUT_LIST).exists():  # without --output-dir mv stores files in PILOT_HOME
        logger.warning("the main work directory %s is kept: the files of its %s are stored there", ctx.home,
                       OUTPUT_LIST)
        return
    os.chdir(ctx.launch_dir)
    log = ctx.home / ctx.settings.pilot.pilotlog
    logger.info("removing the main work directory %s", ctx.home)
    for handler in list(logging.getLogger().handlers):
        handler.flush()
    link = ctx.launch_dir / ctx.settings.pilot.pilotlog
    if link.is_symlink() and os.readlink(link) == str(log):
        link.unlink()
    remove_tree(ctx.home)
    if log.exists():
        logger.warning("not everything below %s could be removed", ctx.home)


def _touch_kill_worker(ctx: PilotContext) -> None:
    """Tell Harvester that the worker may be ended: in its access point, else in the launch directory."""
    directory = ctx.launch_dir / ctx.options.harvester_workdir
    try:
        (directory / ctx.settings.harvester.kill_worker_file).touch()
    except OSError as exc:
        logger.warning("kill_worker was not written to %s: %s", directory, exc.strerror)

