"""Makes a job ready to run: environment, command, container, files, and the start of its process."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Optional

from pilot.common.exception import FileHandlingFailure
from pilot.control import payloadproxy
from pilot.control.component import describe
from pilot.info.images import unpacked_directory
from pilot.info.job import Job
from pilot.info.payloadtask import PayloadCommand, PayloadTask
from pilot.info.remoteinputs import replace_names
from pilot.payload.command import (
    PRIVATE_VARIABLES,
    build_environment,
    resolve_transformation,
    start_shell,
    write_input_lists,
)
from pilot.payload.jobreport import remove_reports
from pilot.payload.transform import allowed_bases, get_transform
from pilot.util.safepath import inside

if TYPE_CHECKING:
    from pilot.context import PilotContext
    from pilot.payload.process import Child

_ARGUMENT_LIMIT = 32 * os.sysconf("SC_PAGESIZE") - 1
"""Bytes of one argument of execve (MAX_ARG_STRLEN); bash -c gets the whole line as one."""


@dataclass(frozen=True)
class PayloadPlan:
    """A payload that can be started."""

    task: PayloadTask
    command: PayloadCommand
    bare: Optional[PayloadCommand] = None
    """The same without its container; the very same object when there is none."""
    number: int = 0
    """Turn: 0 but for a job that searches hyper-parameters."""

    def for_turn(self, number: int) -> PayloadPlan:
        """Return the plan of another turn: its number is in the environment."""
        environ = {**self.task.environ, "PILOT_EXEC_ITERATION_COUNT": str(number)}
        return replace(self, task=replace(self.task, environ=environ), number=number)

    def with_parameters(self, old: str, new: str) -> PayloadPlan:
        """Return the plan with other job parameters: the old text is replaced in line and files."""
        if not old:
            return replace(self, command=replace(self.command, line=f"{self.command.line} {new}"))
        files = {name: content._replace(text=content.text.replace(old, new))
                 for name, content in self.command.files.items()}
        plan = replace(self, command=replace(self.command, line=self.command.line.replace(old, new), files=files))
        write_files(plan.task, plan.command)
        return plan

    @property
    def environ(self) -> dict[str, str]:
        """Environment of the payload's process."""
        return self._environ_of(self.command)

    @property
    def outside(self) -> PayloadCommand:
        """The command as it would run without its container: what is around the payload runs there."""
        return self.bare or self.command

    @property
    def environ_outside(self) -> dict[str, str]:
        """Environment of what runs around the payload: without what only the container is to get."""
        return self._environ_of(self.outside)

    def _environ_of(self, command: PayloadCommand) -> dict[str, str]:
        merged = {**self.task.environ, **self.task.job.variables, **command.environ}
        return {name: value for name, value in merged.items() if value or name not in command.environ}

    def printable(self, line: str) -> str:
        """Return a shell line without the secrets in it."""
        for secret in (*self.command.masked, *self.outside.masked):
            line = line.replace(secret, "********")
        return line


def plan_payload(ctx: PilotContext, job: Job) -> PayloadPlan:
    """Have the experiment make the command; write the files that it needs.

    Raises:
        PilotException: the job cannot be run here; the code says why.
    """
    remote = ctx.experiment.remote_inputs(job)
    text = replace_names(write_input_lists(job, job.workdir, remote), remote)
    task = payload_task(ctx, job, ctx.experiment.job_parameters(job, text))
    command = bare = ctx.experiment.payload_command(task)
    if ctx.experiment.uses_container(job, task.queue):
        command = ctx.experiment.contain(task, bare)
    write_files(task, command)
    return PayloadPlan(task, command, bare)


def payload_task(ctx: PilotContext, job: Job, parameters: str) -> PayloadTask:
    """Return what the experiment is told."""
    own, queue = _environment(), ctx.info.queue_for(job)
    environ = build_environment(job, own, {
        **unpacked_directory(queue, own), **job.variables, **ctx.experiment.payload_environment(job)})
    payloadproxy.renew(job)
    if job.needs_payload_proxy:
        environ.pop("X509_UNIFIED_DISPATCH", None)  # whatever the site has set: nothing goes before the job's own
        environ.update(payloadproxy.environment(job))
    bases = allowed_bases(ctx.options.baseurls, ctx.environ, ctx.experiment.transform_base_urls)
    timeout = float(ctx.settings.pilot.http_maxtime)

    def load(url: str) -> bytes:
        from pilot.util.fetch import fetch

        return fetch(url, timeout=timeout, verify=ctx.verify_tls(), token=job.cancel)

    def transformation() -> str:
        return resolve_transformation(job, job.workdir, bases, load, environ=ctx.environ)

    def download(url: str) -> str:
        return get_transform(url, job.workdir, bases, load, environ=ctx.environ, token=job.cancel)

    return PayloadTask(
        job=job, queue=queue, options=ctx.options, settings=ctx.settings, environ=environ,
        home=ctx.home, parameters=parameters, transformation=transformation, download=download,
        withheld=tuple(name for name in PRIVATE_VARIABLES if own.get(name)))


def write_files(task: PayloadTask, command: PayloadCommand) -> None:
    """Write the files of a command into the job's directory.

    Raises:
        FileHandlingFailure: 1098 for a full disk, else 1303.
    """
    for name, content in command.files.items():
        try:
            path = inside(task.workdir, name)
            descriptor = os.open(
                path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, content.mode)
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as stream:
                os.fchmod(stream.fileno(), content.mode)
                stream.write(content.text)
        except OSError as exc:
            raise FileHandlingFailure(
                f"{name}, which the payload needs, cannot be written: {exc.strerror or exc}",
                code=1098 if exc.errno in (errno.ENOSPC, errno.EDQUOT) else 1303) from exc


def start_payload(ctx: PilotContext, plan: PayloadPlan) -> Child:
    """Start the payload in the job's directory with its two output files; reports of an earlier turn are removed.

    Raises:
        FileHandlingFailure: 1310, it cannot be started; 1098 for a full disk.
        CancelledError: the job is to end.
    """
    job, line, payload = plan.task.job, plan.command.line, ctx.settings.payload
    remove_reports(job.workdir, (payload.jobreport, payload.error_report))
    try:
        job.cancel.check()  # the plug-in may have taken its time
        return start_shell(ctx.supervisor, line, job.workdir, plan.environ,
                           (payload.payloadstdout, payload.payloadstderr),
                           append=plan.number > 0,  # the words of earlier turns stay
                           grouped=payload.control_groups != "never")
    except OSError as exc:
        if exc.errno == errno.E2BIG:
            raise FileHandlingFailure(
                f"the payload could not be started: its command line has {len(os.fsencode(line))} bytes, the kernel"
                f" takes {_ARGUMENT_LIMIT} (environment and stack limit count too); put parameters into a file",
                code=1310) from exc
        raise FileHandlingFailure(
            f"the payload could not be started in {job.workdir}: {exc.strerror or exc}"
            f"{f' ({exc.filename})' if exc.filename else ''}",
            code=1098 if describe(exc)[0] == 1098 else 1310) from exc


def _environment() -> dict[str, str]:
    """Return a copy of the environment; another thread may change it at the same moment."""
    while True:
        try:
            return dict(os.environ)
        except RuntimeError:  # changed while it was copied
            continue
