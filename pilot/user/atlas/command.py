"""The command line of an ATLAS payload.

```
 exports of cores, of the queue, of the job | set-up of the release | transformation and job parameters
 export ATHENA_CORE_NUMBER=8;...unset RUCIO_ACCOUNT; | export ATLAS_LOCAL_ROOT_BASE=...; | Sim_tf.py ...
```
Four kinds of jobs: production and analysis with a release (``swRelease`` begins with ``Atlas-``), and both without one
("generic"). Source: payload document, section 4; the order is that of 4.1.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pilot.common.errorcodes import ErrorCodes
from pilot.common.exception import PilotException
from pilot.info.payloadtask import PayloadCommand
from pilot.info.remoteinputs import remote_names, with_input_guids, with_options
from pilot.user.atlas.asetup import Setup, is_defined, pilot_prepares
from pilot.user.atlas.exports import (
    CORES,
    PROC,
    UNKNOWN,
    core_environment,
    core_exports,
    input_dataset,
    number,
    payload_exports,
    queue_exports,
    token_unsets,
)
from pilot.user.atlas.resource import resource_setup

if TYPE_CHECKING:
    from pilot.info.payloadtask import PayloadTask


@dataclass(frozen=True)
class Body:
    """What stands behind the exports."""

    setup: Setup
    between: str
    """From the set-up to the transformation: separator and further lines."""
    run: str
    """Transformation and parameters."""
    proxy: str = ""
    """The part of ``between`` that exports the proxy."""

    @property
    def front(self) -> str:
        """Everything before the transformation."""
        return joined(self.setup.text, self.between)


def atlas_command(task: PayloadTask) -> PayloadCommand:
    """Return how an ATLAS job is run, outside of containers.

    Raises:
        PilotException: 1186 no software, 1149 and 1143 no transform, 1346 nothing to run.
    """
    job = task.job
    standard = job.swrelease.startswith("Atlas-")
    inds = input_dataset(job) if standard else task.environ.get("INDS") or UNKNOWN
    if job.is_analysis:
        body = _analysis(task, standard)
    else:
        body = _production(task) if standard else _generic_production(task)
    testing = job.testing_versions
    release = "".join(f"export {name}={value};" for name, value in testing.items()) + body.front
    cores = core_environment(task.environ, job.corecount)
    environ = {**cores, **testing, **_queue_versions(task)}
    unified = task.environ.get("X509_UNIFIED_DISPATCH", "")
    if unified:
        environ["X509_USER_PROXY"] = unified  # runcontainer takes it from the environment
    exports = payload_exports(task, release + body.run, inds)
    front = f"{queue_exports(task.queue.environ)}export TZ='UTC'; {exports}"
    before = joined(front, release)
    line = closed(before + body.run)
    first = dask_export(task) + core_exports({**task.environ, **cores}, line)
    asetup = body.setup.release
    return PayloadCommand(
        first + line, setup=(first + before).rstrip(), environ=environ, alrb=body.setup.alrb,
        asetup=f"{asetup};" if asetup and f"{asetup};" in before else asetup, proxy_export=body.proxy)


def _production(task: PayloadTask) -> Body:
    """A transform of the release."""
    job, setup = task.job, resource_setup(task)
    between = _database_setup(task, setup)
    if job.is_eventservice:
        between = f"{_apart(between)}export {PROC}={job.corecount}; export {CORES}={job.corecount}"
    words = [job.transformation.strip()] if pilot_prepares(job) and is_defined(job.transformation) else []
    return Body(setup, _apart(between), " ".join([*words, task.parameters.strip()]).strip())


def _apart(text: str) -> str:
    """Return the text with ``; `` behind it, one ``;`` only."""
    return f"{text} " if text.rstrip().endswith(";") else f"{text}; "


def _database_setup(task: PayloadTask, setup: Setup) -> str:
    """Return PILOT_DB_LOCAL_SETUP_CMD as it is, only kept apart from the set-up in front of it."""
    command = task.environ.get("PILOT_DB_LOCAL_SETUP_CMD", "")
    apart = command and setup.text and not setup.text.endswith(";") and not command.lstrip().startswith((";", "&"))
    return f";{command}" if apart else command


def _analysis(task: PayloadTask, standard: bool) -> Body:
    """A transform behind a URL: runGen, runAthena, runcontainer, buildGen."""
    name = task.download(task.job.transformation.strip())
    setup = resource_setup(task)
    flags = makeflags(task) if standard or not task.image else ""
    between = f"; {flags}" if flags or setup.text else ""
    if not pilot_prepares(task.job):
        return Body(setup, between, task.parameters.strip())
    proxy = _proxy_export(task)
    return Body(setup, f"{between}{proxy}{token_unsets(task)}", run_command(task, name), proxy)


def makeflags(task: PayloadTask) -> str:
    """Return the export of MAKEFLAGS: the job's cores, unless the wrapper says how many processes there are."""
    cores = 1 if number(task.environ, PROC) is not None else max(1, task.job.corecount)
    return f"export MAKEFLAGS='-j{cores} QUICK=1 -l1';"


def _proxy_export(task: PayloadTask) -> str:
    proxy = task.environ.get("X509_UNIFIED_DISPATCH", "") or task.proxy
    return f"export X509_USER_PROXY={shlex.quote(proxy)};" if proxy and not task.image else ""


def run_command(task: PayloadTask, name: str) -> str:
    """Return ``./<transform> <parameters>`` with the options that the pilot adds (payload document 4.3).

    Args:
        task: the payload.
        name: file name of the transform.
    """
    job = task.job
    text = f"{shlex.quote(f'./{name}')} {task.parameters.strip()}".strip()
    if task.image and "runcontainer" in name and "containerImage" not in text:
        text = f"{text} --containerImage={shlex.quote(_local_image(task))}"
    if remote_names(job.indata):
        text = with_options(text, ("--usePFCTurl", "--directIn"))
        if not job.is_build:
            text = with_input_guids(text, job.indata)
    return text


def _local_image(task: PayloadTask) -> str:
    """Return the image of a user's container: the copy in $PAYLOAD_CONTAINER_LOCATION where there is one."""
    place = task.environ.get("PAYLOAD_CONTAINER_LOCATION", "")
    copy = os.path.join(place, os.path.basename(task.image.rstrip("/"))) if place else ""
    return copy if copy and os.path.exists(copy) else task.image


def _generic_production(task: PayloadTask) -> Body:
    """A script without a release: Python unless it is a program of another kind."""
    job, text = task.job, task.parameters.strip()
    if not pilot_prepares(job):
        return Body(Setup(), "", text)
    return Body(Setup(), "", f"{_script(task)} {text}".strip())


def _script(task: PayloadTask) -> str:
    """Return the words that start a script; the reference runs whatever it is with Python."""
    job = task.job
    name, package = job.transformation.strip(), job.homepackage.strip()
    if is_defined(package) and not name.startswith("/"):
        return f"python3 {package}/{name}"
    if is_defined(name) and name.endswith(".py") and not name.startswith("/"):
        return f"python3 {name}"
    try:
        return task.transformation()
    except PilotException as exc:
        if exc.code != ErrorCodes.TRANSFORMNOTFOUND or not is_defined(name) or " " in name:
            raise
        return f"python3 {shlex.quote(name)}"


def _queue_versions(task: PayloadTask) -> dict[str, str]:
    """Return the variables of the queue's ``environ`` that ALRB reads: it runs before the line's exports in containers.
    """
    return {name: value for name, value in task.queue.environment().items() if name.startswith("ALRB_")}


def dask_export(task: PayloadTask) -> str:
    """Return the export of the Dask scheduler's address, once."""
    address = str(task.job.definition.get("scheduler_ip") or "")
    return f"export DASK_SCHEDULER_IP={shlex.quote(address)};" if is_defined(address) else ""


def joined(first: str, second: str) -> str:
    """Put two pieces of a line together; a ``;`` at the seam stands there once, also when the first piece is empty."""
    if second.startswith(";") and (not first.strip() or first.rstrip().endswith(";")):
        return first + second[1:]
    return first + second


def closed(line: str) -> str:
    """Return the line with ``; `` at its end, unless it has its own."""
    return line if line.rstrip().endswith((";", "&")) else f"{line}; "
