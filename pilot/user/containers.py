"""Transfer scripts in apptainer or singularity, or in no container at all: what every experiment can do by default."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Iterator

from pilot.common.exception import PilotException
from pilot.info.middleware import INSIDE, MiddlewareCommand, MiddlewareTask

RUNTIMES = ("apptainer", "singularity")
_PASSED_ON = ("X509_", "RUCIO_", "PILOT_", "XRD_", "Xrd", "BEARER_TOKEN", "GFAL_", "AWS_", "LANG", "TZ")
"""Beginnings of the variables that reach the script even when the queue asks for a clean environment."""
_FILES = ("X509_USER_PROXY", "X509_CERT_DIR", "X509_VOMS_DIR", "BEARER_TOKEN_FILE", "RUCIO_CONFIG", "RUCIO_HOME")
"""Variables that name files or directories which have to be visible inside."""


def bash_command(task: MiddlewareTask) -> MiddlewareCommand:
    """Run the script as it is, with the pilot's own Python."""
    return MiddlewareCommand([sys.executable, str(task.workdir / task.script), *task.options])


def container_command(task: MiddlewareTask) -> MiddlewareCommand:
    """Run the script in the image of setting ``container.middleware_container``.

    The runtime is setting ``container.setup_type`` where that is one, else the first that is there. The queue's
    ``container_options`` come first; the job's directory is ``/srv``.

    Raises:
        PilotException: 1341 no image, bad options; 1342 no runtime here.
    """
    runtime, image = _runtime(task), _image(task)
    try:
        options = shlex.split(task.queue.container_options.replace("${workdir}", str(task.workdir)))
    except ValueError as exc:
        raise _refused(task, f"container_options {task.queue.container_options!r}: {exc}") from exc
    binds = [f"{task.workdir}:{INSIDE}", *(f"{path}:{path}" for path in _visible(task))]
    script = script_name(task)
    argv = [runtime, "exec", *options, *(word for bind in binds for word in ("-B", bind)), "--pwd", str(INSIDE), image,
            "/bin/bash", str(INSIDE / script)]
    text = f"python3 {shlex.join([f'./{task.script}', *task.options])}\nexit $?\n"
    return MiddlewareCommand(argv, {script: text}, INSIDE, _cleaned(task))


def script_name(task: MiddlewareTask) -> str:
    """Return ``stagein.sh`` or ``stageout.sh``: the shell script beside the launcher."""
    return f"{task.label.replace('-', '')}.sh"


def _runtime(task: MiddlewareTask) -> str:
    wanted = task.container.setup_type.lower()
    names = (wanted,) if wanted in RUNTIMES else RUNTIMES
    for name in names:
        found = shutil.which(name, path=task.environ.get("PATH", os.defpath))
        if found:
            return found
    raise PilotException(
        f"queue {task.queue.name} wants its {task.label} in a container (container_type container:middleware), but "
        f"there is no {' or '.join(names)} on this node", code=1342)


def _image(task: MiddlewareTask) -> str:
    image = task.container.middleware_container
    if image.startswith("/") or "://" in image:
        return image
    raise _refused(task, f"the setting container.middleware_container is {image!r}: for {' and '.join(RUNTIMES)} it "
                         "must be the path or the URL of an image")


def _refused(task: MiddlewareTask, text: str) -> PilotException:
    return PilotException(
        f"bad queue configuration - queue {task.queue.name} wants its {task.label} in a container: {text}", code=1341)


def _visible(task: MiddlewareTask) -> Iterator[Path]:
    for name in _FILES:
        value = task.environ.get(name, "")
        if value.startswith("/") and os.path.exists(value):
            yield Path(value)
    if os.path.isdir("/cvmfs"):
        yield Path("/cvmfs")
    yield from task.binds


def _cleaned(task: MiddlewareTask) -> dict[str, str]:
    """Return the variables once more under the names that survive ``--cleanenv`` and ``--containall``."""
    names = [name for name in task.environ if name.startswith(_PASSED_ON)]
    return {f"{prefix}{name}": task.environ[name] for prefix in ("APPTAINERENV_", "SINGULARITYENV_") for name in names}
