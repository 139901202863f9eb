"""Payloads in containers: which ones, and how apptainer, singularity or podman is told to run them.

::

    export workdir=DIR; apptainer --verbose exec OPTIONS IMAGE /bin/bash -c 'cd $workdir;pwd;PAYLOAD'

Source: payload document 7.1 and 7.3; podman is ours. ALRB's containers: ``pilot.user.alrbpayload``.
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Iterator, Mapping, Sequence

from pilot.common.errorcodes import ErrorCodes
from pilot.common.exception import PilotException
from pilot.info.images import PILOT_USER, has_image
from pilot.info.payloadtask import PayloadCommand, PayloadTask

if TYPE_CHECKING:
    from pilot.info.job import Job
    from pilot.info.queuedata import QueueData

logger = logging.getLogger(__name__)

RUNTIMES = ("apptainer", "singularity", "podman")
_SUCCESSORS: Mapping[str, Sequence[str]] = {
    "apptainer": ("apptainer", "singularity"), "singularity": ("singularity", "apptainer"), "podman": ("podman",)}
"""What a queue's word for the runtime stands for: singularity goes by the name of apptainer since 2021."""
_MISSING = {
    "apptainer": (ErrorCodes.APPTAINERNOTINSTALLED, "Apptainer is not installed"),
    "singularity": (ErrorCodes.SINGULARITYNOTINSTALLED, "Singularity is not installed"),
    "podman": (ErrorCodes.QUEUENOTSETUPFORCONTAINERS, "podman is not installed")}
DEFAULT_PLATFORM = "x86_64-slc6"
FALLBACK_IMAGE = "x86_64-centos7.img"
_FILES = ("X509_USER_PROXY", "X509_CERT_DIR", "X509_VOMS_DIR", "BEARER_TOKEN_FILE", "RUCIO_CONFIG", "RUCIO_HOME")
"""Variables that name files or directories which have to be visible inside."""
_PASSED_ON = ("X509_", "RUCIO_", "PILOT_", "PANDA", "PanDA", "PandaID", "XRD_", "Xrd", "BEARER_TOKEN", "ATHENA_",
              "FRONTIER", "ROOT", "LANG", "LC_", "TZ", "HARVESTER_", "INDS")
"""Beginnings of the variables that reach the payload even when the queue asks for a clean environment."""
_OF_THE_HOST = ("PATH", "LD_", "PYTHON", "HOSTNAME", "TMPDIR", "SHELL", "PWD", "OLDPWD", "SHLVL", "_")
"""Beginnings of the variables that podman does not take into the container: they speak of the host's file system."""


# --- whether at all ---------------------------------------------------------------------------------------------------


def uses_container(job: Job, queue: QueueData) -> bool:
    """Return whether the job needs a container that the pilot starts: with an image always (without an entry for
    ``pilot`` in ``container_type`` it then fails, 1384), with a platform where the queue has that entry."""
    if has_image(job):
        return True
    return bool(job.platform or job.alrbuserplatform) and PILOT_USER in queue.container_type


def stays_outside(task: PayloadTask, command: PayloadCommand) -> str:
    """Return why this payload runs without the pilot's container all the same; '' when it has one."""
    job = task.job
    if has_image(job) and "runcontainer" in command.line:
        return "runcontainer starts it itself"
    if job.is_eventservice and task.environ.get("PILOT_ES_EXECUTOR_TYPE") != "raythena":
        return "event service jobs have none, but with raythena"
    if PILOT_USER not in task.queue.container_type:
        return f"container_type of queue {task.queue.name} has no entry for the user {PILOT_USER}"
    return ""


# --- an explicit runtime ----------------------------------------------------------------------------------------------


def contain(task: PayloadTask, command: PayloadCommand) -> PayloadCommand:
    """Return the payload in a container of setting ``container.setup_type``, else of the queue's ``container_type``.

    Where the runtime is not installed, but ALRB is, that starts the container: it brings apptainer along. The queue's
    ``container_options`` are shell text; ``$workdir`` and ``${workdir}`` in it are the job's directory.

    Raises:
        PilotException: 1372, 1325, 1384 the runtime is not installed; 1360 no image; 1341 bad options or setting.
    """
    reason = stays_outside(task, command)
    if reason:
        logger.info("job %s: no container of the pilot: %s", task.job.jobid, reason)
        return command
    try:
        runtime = find_runtime(task)
    except PilotException as exc:
        if not has_alrb(task):
            raise
        from pilot.user.alrbpayload import alrb_contain

        logger.info("job %s: ALRB starts the container: %s", task.job.jobid, exc.detail)
        return alrb_contain(task, command)
    image = find_image(task, runtime)
    options = task.queue.container_options.strip()
    _words(task, options)
    # podman's shell is process 1, and so would be what it executes in its place: that gets no signals from itself
    last = "\nexit $?" if runtime == "podman" else ""
    inner = shlex.quote(f"cd {_workdir(task)};pwd;{command.line}{last}")
    start = f"export workdir={shlex.quote(str(task.workdir))}; "
    build = _podman if runtime == "podman" else _apptainer
    line = f"{start}{build(task, command, runtime, options, image)} /bin/bash -c {inner}"
    environ = {**command.environ, "workdir": str(task.workdir)}
    if runtime != "podman":
        environ.update(clean_environment(runtime, {**task.environ, **environ}))
    return replace(command, line=line, environ=environ, container=image)


def find_runtime(task: PayloadTask) -> str:
    """Return the name of the command that starts containers.

    Raises:
        PilotException: 1372, 1325, 1384 it is not there; 1341 the setting is none.
    """
    wanted, queue = task.settings.container.setup_type.lower(), task.queue
    if wanted in RUNTIMES:
        names: Sequence[str] = (wanted,)
        source = f"setting container.setup_type {wanted}"
    elif wanted == "alrb":
        kind = queue.container_type.get(PILOT_USER, "").lower()
        names = _SUCCESSORS.get(kind, RUNTIMES)
        source = f"container_type {kind}:{PILOT_USER}"
    else:
        raise PilotException(
            f"setting container.setup_type is {task.settings.container.setup_type!r}: it must be ALRB, "
            f"{', '.join(RUNTIMES)}", code=ErrorCodes.BADQUEUECONFIGURATION)
    path = task.environ.get("PATH") or os.defpath
    for name in names:
        if shutil.which(name, path=path):
            return name
    code, text = _MISSING[names[0]]
    raise PilotException(
        f"{text}: queue {queue.name} has its payloads in containers ({source}), but there is no {' or '.join(names)} "
        f"in PATH of this node ({path}): install the package {names[0]}, or change the queue", code=code)


def has_alrb(task: PayloadTask) -> bool:
    """Return whether ALRB may start containers here, and is there."""
    base = task.environ.get("ATLAS_SW_BASE") or "/cvmfs"
    script = f"{base}/atlas.cern.ch/repo/ATLASLocalRootBase/user/atlasLocalSetup.sh"
    return task.settings.container.setup_type == "ALRB" and os.path.exists(script)


def find_image(task: PayloadTask, runtime: str) -> str:
    """Return the image's path or URL: that of the job, else the one of the platform on CVMFS.

    Raises:
        PilotException: 1360, none is there.
    """
    name = task.image
    if name:
        local = name.startswith("/") or "://" in name or name.endswith((".sif", ".img", ".simg"))
        return name if local or os.path.exists(task.workdir / name) else f"docker://{name}"
    base = f"{task.environ.get('ATLAS_SW_BASE') or '/cvmfs'}/atlas.cern.ch/repo/containers/images"
    kind = "singularity" if runtime == "singularity" else "apptainer"
    platform = "-".join((task.job.alrbuserplatform or task.job.platform or DEFAULT_PLATFORM).split("-")[:2])
    for path in (f"{base}/{kind}/{platform}.img", f"{base}/{kind}/{FALLBACK_IMAGE}"):
        if os.path.exists(path):
            return path
    raise PilotException(
        f"the job names no image, and there is none for its platform {platform}: neither {base}/{kind}/{platform}.img "
        f"nor {FALLBACK_IMAGE} beside it", code=ErrorCodes.IMAGENOTFOUND)


def clean_environment(runtime: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables once more under the names that survive ``--cleanenv`` and ``--containall``."""
    names = [name for name in environ if name.startswith(_PASSED_ON) or name == "workdir"]
    return {f"{runtime.upper()}ENV_{name}": environ[name] for name in names}


def visible(task: PayloadTask, command: PayloadCommand) -> Iterator[str]:
    """Yield files and directories, neither in the job's directory nor on CVMFS or below /home, that the payload needs
    under their own names: its proxy, certificates, and what inputs that are links point to."""
    environ = {**task.environ, **command.environ}
    for name in _FILES:
        value = environ.get(name, "")
        if value.startswith("/") and os.path.exists(value):
            yield value
    for spec in task.job.indata:
        path = task.workdir / spec.lfn
        if path.is_symlink():
            yield str(Path(os.path.realpath(path)).parent)


def _extra(task: PayloadTask, command: PayloadCommand) -> list[str]:
    known = (f"{task.workdir}/", "/cvmfs/", "/home/")
    found = dict.fromkeys(visible(task, command))
    return [path for path in found if not path.startswith(known) and not set(path) & set(":, \t\n")]


def _workdir(task: PayloadTask) -> str:
    """Return the variable as the field has it, in quotes when the directory's name needs them."""
    plain = str(task.workdir)
    return "$workdir" if shlex.quote(plain) == plain else '"$workdir"'


def _words(task: PayloadTask, options: str) -> list[str]:
    try:
        return shlex.split(options)
    except ValueError as exc:
        raise PilotException(
            f"bad queue configuration - container_options of queue {task.queue.name}: {options!r}: {exc}",
            code=ErrorCodes.BADQUEUECONFIGURATION) from exc


def _apptainer(task: PayloadTask, command: PayloadCommand, runtime: str, options: str, image: str) -> str:
    words = _words(task, options)
    given = {part for word in words for part in word.replace("=", ",").split(",")}
    wanted = [path for path in ("/cvmfs", "${workdir}", "/home") if path.startswith("$") or os.path.isdir(path)]
    wanted += [shlex.quote(path) for path in _extra(task, command)]
    binds = ",".join(path for path in wanted if path not in given)
    # the field's form is a list that goes on; after any other option that would be part of its value
    open_list = len(words) > 1 and words[-2] in ("-B", "--bind") and not options.endswith(("'", '"'))
    text = options
    if binds:
        text = f"{options},{binds}" if open_list else f"{options} -B {binds}".strip()
    return f"{runtime} --verbose exec {text} {shlex.quote(image)}"


def _podman(task: PayloadTask, command: PayloadCommand, runtime: str, options: str, image: str) -> str:
    binds = ["${workdir}:${workdir}", *(["/cvmfs:/cvmfs:ro,rslave"] if os.path.isdir("/cvmfs") else []),
             *(shlex.quote(f"{path}:{path}:ro") for path in _extra(task, command))]
    names = {*task.environ, *command.environ, "workdir"}
    passed = sorted(name for name in names if name.isidentifier() and not name.startswith(_OF_THE_HOST))
    parts = [runtime, "run", "--rm", "--network=host", "--ipc=host", "--security-opt", "label=disable",
             *([] if os.getuid() == 0 else ["--userns=keep-id"]),
             *(word for bind in binds for word in ("-v", bind)), "--workdir", "${workdir}",
             *(word for name in passed for word in ("--env", name)), options,
             f"--rootfs {shlex.quote(image)}" if os.path.isdir(image) else shlex.quote(image)]
    return " ".join(part for part in parts if part)
