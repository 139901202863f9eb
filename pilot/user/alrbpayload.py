"""Payloads in containers of ALRB (ATLASLocalRootBase): two files for the job's directory, one line that starts them.

::

    class Atlas(Experiment):
        def contain(self, task, command):
            return alrb_contain(task, command)

What runs where::

    outside    atlasLocalSetup.sh -c PLATFORM -s /srv/my_release_setup.sh -r /srv/container_script.sh -e OPTIONS
    inside       my_release_setup.sh   asetup, then the time at which set-up has ended
                 container_script.sh   the payload's line without ALRB, asetup and the proxy's path

ALRB shows the job's directory as ``/srv``. Source of the texts: payload document 7.2.
"""

from __future__ import annotations

import calendar
import json
import logging
import re
import shlex
import time
from dataclasses import replace
from typing import NamedTuple, Optional

from pilot.common.exception import PilotException
from pilot.info.middleware import INSIDE
from pilot.info.payloadtask import FileText, PayloadCommand, PayloadTask
from pilot.user.payloadcontainer import contain, stays_outside
from pilot.util.shellquotes import scan_quotes

logger = logging.getLogger(__name__)

NO_OPTIONS = "-c -i"
"""Options for the runtime on queues that have none: minimal /dev, own process and communication name spaces."""
TOKEN_VARIABLE = "PILOT_REGISTRY_TOKEN"
_ISOLATION = re.compile(r"(?<!\S)(?:-C|--containall)(?!\S)\s*")
_STAMP = re.compile(r"(?<!\d)\d\d:\d\d:\d\d \d{4}/\d\d/\d\d(?!\d)")
_REGISTRY = re.compile(r"docker://([\w.:-]+)/", re.ASCII)


def alrb_contain(task: PayloadTask, command: PayloadCommand) -> PayloadCommand:
    """Return the payload in ALRB's container; with setting ``container.setup_type`` other than ALRB see ``contain``.

    Raises:
        PilotException: see ``contain``; 1302 for ``containerOptions`` that are no shell text.
    """
    if task.settings.container.setup_type != "ALRB":
        return contain(task, command)
    reason = stays_outside(task, command)
    if reason:
        logger.info("job %s: no container of the pilot: %s", task.job.jobid, reason)
        return command
    names = task.settings.container
    login = registry_login(task.job.secrets)
    # container_options may use the directory; the release file prints the time
    environ = {**command.environ, "workdir": str(task.workdir), "TZ": "UTC"}
    masked = list(command.masked)
    if login is not None:
        environ[TOKEN_VARIABLE] = login.token
        masked.append(login.token)
    return replace(
        command, line=f"{login.line if login is not None else ''}{container_line(task, command)}", environ=environ,
        files={**command.files, names.container_script: FileText(container_script(task, command), 0o755),
               names.release_setup: FileText(release_setup(task, command))},
        container=platform(task), masked=masked)


# --- the line outside -------------------------------------------------------------------------------------------------


def container_line(task: PayloadTask, command: PayloadCommand) -> str:
    """Return the line that starts the container, without a login to a registry."""
    names, name, job = task.settings.container, platform(task), task.job
    base = f"{task.environ.get('ATLAS_SW_BASE') or '/cvmfs'}/atlas.cern.ch/repo/ATLASLocalRootBase"
    proxy = task.environ.get("X509_UNIFIED_DISPATCH") or task.proxy
    parts = [
        command.proxy_export or (f"export X509_USER_PROXY={shlex.quote(proxy)};" if proxy else ""),
        f'if [ -z "$ATLAS_LOCAL_ROOT_BASE" ]; then export ATLAS_LOCAL_ROOT_BASE={shlex.quote(base)}; fi;',
        f'export thePlatform="{_inside_quotes(name)}";export PandaID={job.jobid};',
        "source ${ATLAS_LOCAL_ROOT_BASE}/user/atlasLocalSetup.sh",
        " -c $thePlatform" if name else "",
        "" if task.queue.is_cvmfs else " -d",
        f" -s {shlex.quote(f'{INSIDE}/{names.release_setup}')} -r {shlex.quote(f'{INSIDE}/{names.container_script}')}",
    ]
    options = container_options(task)
    if options:
        escaped = options.replace('"', '\\"')
        parts.append(f' -e "{escaped}"')
    arguments = _container_option(task, "execArgs")
    if arguments:
        parts.append(f" {_checked_words(arguments)}")
    return "".join(parts)


def platform(task: PayloadTask) -> str:
    """Return what ALRB is to start: the user's platform, else an image, else the job's platform."""
    special = _container_option(task, "containerImage") if task.job.preprocess else ""
    return task.job.alrbuserplatform or special or task.image or task.job.platform


def container_options(task: PayloadTask) -> str:
    """Return the runtime's options (shell text): the queue's; raythena's processes need a common IPC name space."""
    options = task.queue.container_options.strip()
    if task.environ.get("PILOT_ES_EXECUTOR_TYPE") == "raythena":
        return _ISOLATION.sub("", options).strip()
    return options or NO_OPTIONS


# --- the two files inside ---------------------------------------------------------------------------------------------


def container_script(task: PayloadTask, command: PayloadCommand) -> str:
    """Return what runs in the container: the payload without ALRB, release and proxy."""
    text = command.line
    for part in (command.alrb, command.asetup, command.proxy_export):
        if part:
            text = text.replace(part, "", 1)
    program = _container_option(task, "containerExec") if task.job.preprocess else ""
    if program:
        text = f"{_before_last_command(text)} {program}; "
    return f"export TMPDIR={INSIDE};export GFORTRAN_TMPDIR={INSIDE};{text}"


def release_setup(task: PayloadTask, command: PayloadCommand) -> str:
    """Return what sets the release up; the time that it prints is the end of set-up (``Experiment.setup_end``).

    Nothing is set up for stand-alone images: on a queue without CVMFS, and for jobs without a release.
    """
    asetup = command.asetup.strip().rstrip(";").strip() if task.queue.is_cvmfs else ""
    name = task.settings.container.release_setup
    first = asetup or (f'echo "INFO: sourcing {INSIDE}/{name} inside the container. '
                       'This should not run if it is a ATLAS standalone container"')
    return (f'retCode=0\n{first}\nretCode=$?\ndate +"%H:%M:%S %Y/%m/%d"\nif [ $? -ne 0 ]; then\n    retCode=$?\nfi\n'
            "return $retCode\n")


def setup_end(task: PayloadTask, command: PayloadCommand, head: str) -> Optional[float]:
    """Return the first time (UTC, epoch s) in ``head``, the beginning of the payload's output; only when ``command``
    has the file that prints one."""
    found = _STAMP.search(head) if task.settings.container.release_setup in command.files else None
    if found is None:
        return None
    try:
        return float(calendar.timegm(time.strptime(found.group(), "%H:%M:%S %Y/%m/%d")))
    except ValueError:
        return None


# --- registries -------------------------------------------------------------------------------------------------------


class Login(NamedTuple):
    """A login to a registry of images."""

    line: str
    token: str


def registry_login(secrets: str) -> Optional[Login]:
    """Return the login that the job's secrets ask for: the first of ``DOCKER_TOKENS``.

    The token goes by a variable and standard input, because everybody on the node can read command lines.
    """
    if "token" not in secrets or "docker://" not in secrets:
        return None
    try:
        tokens = json.loads(secrets)["DOCKER_TOKENS"]
        first = (json.loads(tokens) if isinstance(tokens, str) else tokens)[0]
        user, token, path = (str(first[key]) for key in ("username", "token", "registry_path"))
    except (ValueError, TypeError, LookupError, RecursionError) as exc:
        logger.warning("the job's secrets have no usable DOCKER_TOKENS (%s): no login to a registry",
                       type(exc).__name__)
        return None
    host = _REGISTRY.match(path if path.endswith("/") else f"{path}/")
    if host is None or not token or "\0" in token:
        logger.warning("the job's DOCKER_TOKENS have no registry_path docker://HOST/...: no login to a registry")
        return None
    return Login(
        f"apptainer remote login -u {shlex.quote(user)} --password-stdin docker://{host.group(1)}/ "
        f'<<<"${TOKEN_VARIABLE}"; unset {TOKEN_VARIABLE}; ', token)


# --- small things -----------------------------------------------------------------------------------------------------


def _container_option(task: PayloadTask, key: str) -> str:
    value = task.job.containeroptions.get(key)
    return value.strip() if isinstance(value, str) else ""


def _checked_words(text: str) -> str:
    """Return arguments as shell words: outside of the container nothing in a job's text is interpreted."""
    try:
        return shlex.join(shlex.split(text))
    except ValueError as exc:
        raise PilotException(f"containerOptions.execArgs {text[:200]!r}: {exc}", code=1302) from exc


def _inside_quotes(text: str) -> str:
    return re.sub(r'([\\"`$])', r"\\\1", text)


def _before_last_command(text: str) -> str:
    """Return the line up to its last command, the ``;`` before that included; ``;`` in quotes separate nothing."""
    body = text.rstrip("; ")
    end = max((position + 1 for position in scan_quotes(body)[1] if body[position] == ";"), default=0)
    return body[:end]
