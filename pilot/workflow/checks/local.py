"""The node itself: directories, space, memory, limits of processes, /proc. No network."""

from __future__ import annotations

import errno
import os
import re
import resource
import sys
import tempfile
from collections.abc import Iterator
from typing import Optional

from pilot.monitoring.memory import available_memory, memory_limit
from pilot.util.space import free_space, pod_storage_limit
from pilot.workflow.atstart import FEW_FILES, FEW_INODES, FEW_PROCESSES, NO_INODES
from pilot.workflow.checks.base import Finding, Scene, fail, ok, size, skip, span, warn

_MB = 1024 * 1024
_PR_GET_CHILD_SUBREAPER = 37


def node(scene: Scene) -> Iterator[Finding]:
    """Who this node is, as the server will know it."""
    from pilot.monitoring.batch import find_batch_system
    from pilot.monitoring.node import NodeDescription

    description = NodeDescription(scene.environ, scene.root)
    cpu, level = description.cpu, description.architecture_level
    batch = find_batch_system(scene.environ)
    yield ok("node", f"{description.host_name}, {cpu.model or 'CPU unknown'}, {cpu.logical or os.cpu_count()} CPUs"
                     f"{f', {level}' if level else ''}, batch system {batch.type or 'none'}")
    groups = description.gpus
    if groups:
        yield ok("GPUs", "; ".join(f"{group.number} x {group.vendor} {group.model}" for group in groups))


def work_directory(scene: Scene) -> Iterator[Finding]:
    """Can a directory and a file be made where pilots are to run?"""
    name = "work directory"
    cure = "start the pilot in a directory that its user may write to, or give one with -a"
    try:
        with tempfile.TemporaryDirectory(prefix=".pilot-check-", dir=scene.here) as place, \
                open(os.path.join(place, "file"), "wb") as stream:
            stream.write(b"x" * 4096)
            stream.flush()
    except OSError as exc:
        code = 1098 if exc.errno in (errno.ENOSPC, errno.EDQUOT) else 1199
        yield fail(name, code, f"{scene.here} is NOT writable: {exc.strerror}", cure)
        return
    yield ok(name, f"{scene.here} is writable")


def temporary_directory(scene: Scene) -> Iterator[Finding]:
    """Payloads and client libraries write to /tmp whatever the pilot does."""
    place = scene.environ.get("TMPDIR") or "/tmp"
    cure = "give the pilot a TMPDIR that its user may write to"
    try:
        with tempfile.NamedTemporaryFile(dir=place) as stream:
            stream.write(b"x" * 4096)
            stream.flush()
        free = free_space(place, {})
    except OSError as exc:
        yield warn("/tmp", f"{place} cannot be written to: {exc.strerror}", cure)
        return
    few = free is not None and free < 100 * _MB
    found = f"{place} is writable, {size(free or 0)} free"
    yield warn("/tmp", found, "remove old files there: payloads and client libraries need some 100 MB") if few else (
        ok("/tmp", found))


def local_space(scene: Scene) -> Iterator[Finding]:
    """Space for a job, quota and pod limit counted."""
    need = scene.settings.pilot.free_space_limit
    free = free_space(scene.here, scene.environ)
    pod = pod_storage_limit(scene.environ)
    source = f" (the pod's limit is {size(pod)})" if pod else ""
    if free is None:
        yield warn("local space", f"{scene.here} cannot be measured", "is the file system mounted?")
        return
    found = f"{size(free)} free in {scene.here}{source}, {size(need)} needed (pilot.free_space_limit)"
    cure = "free space there, or give another directory with -a"
    if free <= need:
        yield fail("local space", 1098, found, cure)
        return
    queue = scene.queue() if scene.options.queue else None
    if queue is not None and 0 < queue.maxwdir * _MB > free:
        yield warn("local space", f"{found}; the queue allows jobs {queue.maxwdir} MB (maxwdir)",
                   "a job that uses what it may fills this disk: give more space, or lower maxwdir in CRIC")
        return
    yield ok("local space", found)


def inodes(scene: Scene) -> Iterator[Finding]:
    """Files that may still be made: a file system may be full of small ones."""
    try:
        status = os.statvfs(scene.here)
    except OSError as exc:
        yield warn("inodes", f"{scene.here}: {exc.strerror}", "is the file system mounted?")
        return
    if not status.f_files:
        yield ok("inodes", "the file system has no fixed number of files")
        return
    found = f"{status.f_favail} of {status.f_files} left in {scene.here}"
    cure = "remove small files there, or give another directory with -a"
    if status.f_favail < NO_INODES:
        yield fail("inodes", 1098, found, cure)
    elif status.f_favail < FEW_INODES:
        yield warn("inodes", found, cure)
    else:
        yield ok("inodes", found)


def memory(scene: Scene) -> Iterator[Finding]:
    """What the node has, and what the pilot's control groups leave, against what the queue promises to jobs."""
    free, limit = available_memory(scene.root), memory_limit(scene.root)
    queue = scene.queue() if scene.options.queue else None
    promised = queue.maxrss * _MB if queue is not None else 0
    found = f"{size(free)} available" if free is not None else "available memory unknown"
    found += f", cgroup limit {size(limit)}" if limit is not None else ", no cgroup limit"
    if promised:
        found += f", the queue's maxrss is {size(promised)}"
    if limit is not None and limit < promised:
        yield warn("memory", found, "the slot is smaller than what the queue promises to jobs: the kernel will kill "
                                    "those that use it; raise the batch system's request, or lower maxrss in CRIC")
    elif free is not None and free < promised:
        yield warn("memory", found, "less is available now than a job may use: look for leftovers on this node (top)")
    else:
        yield ok("memory", found)


def limits(scene: Scene) -> Iterator[Finding]:
    """Limits of the shell (ulimit) that have cost jobs."""
    shown, low = [], []
    for label, number, least in (("open files", resource.RLIMIT_NOFILE, FEW_FILES),
                                 ("processes", resource.RLIMIT_NPROC, FEW_PROCESSES)):
        soft, hard = resource.getrlimit(number)
        shown.append(f"{label} {_limit(soft)}" + (f" (hard {_limit(hard)})" if hard != soft else ""))
        if 0 <= soft < least:
            low.append(f"{label} below {least}")
    for label, number in (("file size", resource.RLIMIT_FSIZE), ("address space", resource.RLIMIT_AS),
                          ("CPU time", resource.RLIMIT_CPU)):
        soft, _ = resource.getrlimit(number)
        if soft != resource.RLIM_INFINITY:
            shown.append(f"{label} {span(soft) if number == resource.RLIMIT_CPU else size(soft)}")
            low.append(f"{label} is limited")
    found = ", ".join(shown)
    if low:
        yield warn("limits", f"{found}: {'; '.join(low)}",
                   "raise it where pilots are started (ulimit, limits.conf, the batch system's job wrapper)")
    else:
        yield ok("limits", found)


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else str(value)


def locale_of(scene: Scene) -> Iterator[Finding]:
    """Names of files and logs that are not ASCII need UTF-8."""
    encoding = sys.getfilesystemencoding()
    named = scene.environ.get("LC_ALL") or scene.environ.get("LC_CTYPE") or scene.environ.get("LANG") or ""
    found = f"{named or 'no LANG, no LC_ALL'}, file names in {encoding}"
    if encoding.lower().replace("-", "") != "utf8":
        yield warn("locale", found, "set LANG=C.UTF-8: names that are not ASCII fail payloads here")
    else:
        yield ok("locale", found)


def processes(scene: Scene) -> Iterator[Finding]:
    """Can the pilot see its payloads' processes, and does it get their orphans?"""
    try:
        table = (scene.root / "proc/self/stat").read_bytes()
        mounts = (scene.root / "proc/self/mounts").read_text("utf-8", "replace")
    except OSError as exc:
        yield fail("/proc", 1008, f"/proc/self: {exc.strerror}", "mount /proc: payloads cannot be watched without it")
        return
    hidden = re.search(r"^\S+ /proc proc \S*hidepid=(\w+)", mounts, re.MULTILINE)
    kind = hidden.group(1) if hidden else "0"
    try:
        (scene.root / "proc/self/smaps_rollup").read_bytes()
        shared = "PSS readable"
    except OSError:
        shared = "no PSS (kernel before 4.14): memory is counted as RSS"
    reaper = _subreaper()
    found = f"{'readable' if table else 'empty'}, {shared}" + (f", hidepid={kind}" if kind not in ("0", "off") else "")
    if reaper:
        yield warn("/proc", f"{found}, {reaper}", "a kernel before 3.4, or a sandbox that forbids prctl: payloads that "
                                                  "detach themselves are found by their environment only")
    elif kind not in ("0", "off"):
        yield ok("/proc", f"{found}: processes of other users are not seen, which pilots do not need")
    else:
        yield ok("/proc", f"{found}, orphans come back (child subreaper)")


def _subreaper() -> str:
    """Return why orphans of payloads do not come back to the pilot; '' when they do."""
    import ctypes

    state = ctypes.c_int(-1)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        done = libc.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(state), 0, 0, 0)
    except (OSError, AttributeError) as exc:
        return f"no prctl here ({type(exc).__name__})"
    return "" if done == 0 else f"no child subreaper: {os.strerror(ctypes.get_errno())}"


def cvmfs(scene: Scene) -> Iterator[Finding]:
    """What the experiment needs of CVMFS, as at the start of a pilot."""
    name = "CVMFS"
    if scene.experiment is None:
        yield skip(name, "needs --pilot-user")
        return
    if not scene.options.cvmfs:
        yield skip(name, "-b or NO_CVMFS_OK: not looked at")
        return
    tree = scene.experiment.cvmfs_tree(scene.environ)
    if tree is None:
        yield skip(name, f"experiment {scene.experiment.name} asks for nothing there")
        return
    queue = scene.queue() if scene.options.queue else None
    if queue is not None and not queue.is_cvmfs:
        yield skip(name, f"queue {queue.name} has none (is_cvmfs)")
        return
    from pilot.monitoring.cvmfs import check_cvmfs

    health = check_cvmfs(tree, min(scene.settings.limits.cvmfs_time, scene.limit * 0.9), scene.token)
    if health.trouble:
        yield fail(name, 1377, health.trouble, "run cvmfs_config probe; mount what is missing, restart autofs, or look "
                                               "at the site's squid; CVMFS elsewhere: ATLAS_SW_BASE")
        return
    age: Optional[float] = scene.now() - health.updated if health.updated else None
    yield ok(name, f"{tree.base}: {len(tree.present) + len(tree.opened)} places answer"
                   f"{f', last updated {span(age)} ago' if age is not None else ''}, {health.seconds:.2f} s")
