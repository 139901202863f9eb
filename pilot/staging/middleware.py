"""Transfers in a process of their own, in a container or not: same planner, another process (data management 12).

```
 stage_in, stage_out ──► run_elsewhere ── request, script, source ──► experiment's command ──► inside.main
                              ▲                                        bash, apptainer, ALRB      bring_inputs
                              └── records, states, error ◄──────────── result ◄────────────────── store_files
```
The pilot keeps what is its own: PoolFileCatalog.xml, traces, PilotDB, the server, the secrets.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
from pathlib import Path
from typing import Iterator, Mapping, Optional, Sequence

from pilot.common.exception import PilotException, StageInFailure, StageOutFailure
from pilot.copytool.base import Direction
from pilot.copytool.registry import canonical_name, is_local, load_tool
from pilot.info.filespec import FileSpec
from pilot.info.job import Job
from pilot.info.middleware import INSIDE, MiddlewareCommand, MiddlewareTask
from pilot.info.queuedata import log_activities, output_activities, stagein_activities
from pilot.info.storage import StorageData
from pilot.staging.context import StagingContext, middleware_mode
from pilot.staging.group import local_directory, transfer_timeout
from pilot.staging.handover import BadHandover, Places, Result, apply_result, read_result, request_of, write_json
from pilot.staging.scriptfiles import (
    SOURCE,
    Names,
    make_way,
    mask,
    pack_source,
    replica_dictionary,
    status_dictionary,
    status_file,
    write_dictionary,
    write_launcher,
    write_text,
)
from pilot.staging.transfer import tool_config
from pilot.util.cancel import CancelledError, CancelToken
from pilot.util.copying import part_name
from pilot.util.redact import redact
from pilot.util.safepath import check_name
from pilot.util.tethered import Ended, run_tethered

logger = logging.getLogger(__name__)

START_ALLOWANCE = 900.0
"""Seconds for what comes before the first file: set-up of the middleware, a container's image."""
_LINES = 6
"""Of stderr in the text of an error."""


def run_elsewhere(
    job: Job, files: Sequence[FileSpec], ctx: StagingContext, token: CancelToken, *, direction: str
) -> None:
    """Have the files moved by a script; each FileSpec gets its outcome, each attempt is recorded.

    Args:
        job: its work directory is where the script works.
        files: those that still need a transfer.
        ctx: surroundings; ``middleware`` gives the command.
        token: cancelled = the script and all its children are ended within a second.
        direction: ``in``, ``out`` or ``log``.

    Raises:
        PilotException: what the planner has raised over there; 1099 or 1137 when the script left no result; 1151 or
            1152 when it took too long.
        CancelledError: the token was cancelled.
    """
    _Elsewhere(job, files, ctx, token, direction).run()


class _Elsewhere:
    """One run of one script; used once."""

    def __init__(
        self, job: Job, files: Sequence[FileSpec], ctx: StagingContext, token: CancelToken, direction: str
    ) -> None:
        self.job, self.files, self.ctx, self.token, self.direction = job, files, ctx, token, direction
        self.inward = direction == "in"
        self.names = Names.of(ctx.settings, inward=self.inward)
        self.directory = job.workdir if job.workdir.is_dir() else ctx.pilot_home
        """Of the script; a job's directory may be gone when its log leaves."""
        activities = stagein_activities if self.inward else log_activities if direction == "log" else output_activities
        self.activities = activities(ctx.queue, job.is_analysis)
        self.home_visible = any(map(is_local, ctx.queue.all_copytools()))
        """Tools of local files work in the pilot's directory."""

    def run(self) -> None:
        """Do it all."""
        failure: Optional[PilotException] = None
        status = status_file(self.directory, self.names, log=self.direction == "log")
        try:
            with self._lent_log():
                failure = self._run()
        except OSError as exc:
            failure = self._failure(f"cannot prepare the transfer in {self.directory}: {exc.strerror or exc}"
                                    f"{f' ({exc.filename})' if exc.filename else ''}")
        finally:
            for name in (SOURCE, self.names.keys):
                _remove(self.directory / name)
            for name in (self.names.request, self.names.result):
                mask(self.directory / name)
        if self.token.cancelled:
            failure = CancelledError(self.token.reason, code=self.token.code)
        if failure:
            self._mark_failed(failure)
        write_dictionary(status, status_dictionary(self.files, failure, inward=self.inward))
        if failure:
            raise failure

    def _mark_failed(self, failure: PilotException) -> None:
        if self.inward:
            self._clean_partial()
        for spec in self.files:
            if spec.require_transfer():
                spec.status = "failed"
                spec.status_code = spec.status_code or failure.code

    def _run(self) -> Optional[PilotException]:
        name = secrets.token_hex(8)
        environ = self.ctx.transfer_environment(not self.inward)
        command = self._command(environ)
        places = Places(self.directory, command.inside or self.directory)
        self._write_files(name, command, places)
        limit = self._limit()
        logger.info("%s of %d files by %s (at most %.0f s): %s", self._label, len(self.files), self.names.script,
                    limit, redact(" ".join(command.argv)))
        ended = run_tethered(
            command.argv, env={**environ, **command.environ}, cwd=self.directory, token=self.token, limit=limit,
            stdout=self.directory / self.names.stdout, stderr=self.directory / self.names.stderr)
        return self._judge(name, ended, places, limit)

    # --- before -------------------------------------------------------------------------------------------------------

    @property
    def _label(self) -> str:
        return "stage-in" if self.inward else "stage-out"

    def _command(self, environ: Mapping[str, str]) -> MiddlewareCommand:
        ctx, names = self.ctx, self.names
        assert ctx.middleware is not None
        mode = middleware_mode(ctx)
        visible = [path for path in (ctx.input_dir, ctx.output_dir, ctx.input_destination_dir) if path is not None]
        if self.home_visible:
            visible += [ctx.pilot_home, ctx.launch_dir]
        visible += [spec.workdir for spec in self.files if spec.workdir is not None]
        binds = [path for path in dict.fromkeys(visible) if path.is_dir() and path != self.directory]
        task = MiddlewareTask(
            mode=mode, label=self._label, script=names.script,
            options=["-d", "-w", str(INSIDE if mode == "container" else self.directory), "-q", ctx.queue.name,
                     f"--jobid={self.job.jobid}", f"--request={names.request}", f"--result={names.result}",
                     f"--keys={names.keys}", f"--log={names.log}"],
            workdir=self.directory, queue=ctx.queue, container=ctx.settings.container, environ=environ, binds=binds)
        return ctx.middleware(task)

    def _write_files(self, name: str, command: MiddlewareCommand, places: Places) -> None:
        directory, names, ctx = self.directory, self.names, self.ctx
        make_way(directory, [*names, *command.files, SOURCE])
        _remove(directory / names.result)
        write_launcher(directory / names.script)
        pack_source(directory / SOURCE)
        for file_name, text in command.files.items():
            write_text(directory / file_name, text)
        if self.inward:
            replicas = ctx.settings.container.stagein_replica_dictionary
            write_dictionary(directory / replicas, replica_dictionary(self.files))
        storage, problem = self._storage()
        keys = _key_values(storage, ctx)
        if keys:
            write_json(directory / names.keys, keys)
        home = ctx.pilot_home if self.home_visible or command.inside is None else places.inside
        write_json(directory / names.request, request_of(
            self.job, self.files, ctx, places, direction=self.direction, name=name, home=home, storage=storage,
            storage_problem=problem))

    def _storage(self) -> tuple[Mapping[str, StorageData], Optional[PilotException]]:
        """Return the endpoints that the planner may ask for; a queue that only moves local files asks for none."""
        ctx = self.ctx
        if not self._may_ask_for_storage():
            return {}, None
        wanted = [*ctx.queue.storages_for(self.activities)]
        wanted += [name for spec in self.files for name in (spec.ddmendpoint, spec.ddmendpoint_alt) if name]
        found: dict[str, StorageData] = {}
        problem: Optional[PilotException] = None
        for name in dict.fromkeys(wanted):
            try:
                found.update(ctx.storage([name]))
            except PilotException as exc:
                problem = problem or exc
        return found, problem

    def _may_ask_for_storage(self) -> bool:
        if (self.ctx.input_dir if self.inward else self.ctx.output_dir) is not None:
            return False
        if not self.inward and self.ctx.queue.storages_for(self.activities):
            return True
        for name in self.ctx.queue.copytools_for(self.activities):
            config = tool_config(name, Direction.IN if self.inward else Direction.OUT, self.ctx)
            try:
                features = load_tool(name, config, dict(self.ctx.settings.plugins.copytools)).features
            except PilotException:  # what is missing here may be there
                logger.debug("copytool %s cannot be asked here", canonical_name(name))
                return True
            if features.needs_protocols_in if self.inward else features.needs_protocols_out:
                return True
        return False

    @contextlib.contextmanager
    def _lent_log(self) -> Iterator[None]:
        """Show the log archive in the job's directory, which is all that a container sees of the node."""
        lent: dict[Path, Path] = {}
        hidden = not self.home_visible and middleware_mode(self.ctx) == "container"
        if self.direction == "log" and hidden and self.directory != self.ctx.pilot_home:
            for spec in self.files:
                own, shown = self.ctx.pilot_home / check_name(spec.lfn), self.directory / check_name(spec.lfn)
                if spec.workdir is None and own.exists() and not os.path.lexists(shown):
                    _link_or_copy(own, shown)
                    lent[shown] = own
        try:
            yield
        finally:
            for shown in lent:
                _remove(shown)

    def _limit(self) -> float:
        """Seconds for everything: each file's time with each tool, as many at a time as the setting says."""
        ctx, base = self.ctx, self.ctx.settings.transfers.stagein_timeout_base
        times = [transfer_timeout(base, spec.filesize) for spec in self.files]
        tries = len(ctx.queue.copytools_for(self.activities)) * (1 if self.inward else ctx.options.stageout_attempts)
        return START_ALLOWANCE + max(1, tries) * (sum(times) / ctx.settings.transfers.parallel + max(times))

    # --- after --------------------------------------------------------------------------------------------------------

    def _judge(self, name: str, ended: Ended, places: Places, limit: float) -> Optional[PilotException]:
        """Take the result over; return what is to be raised."""
        result: Optional[Result] = None
        problem = ""
        try:
            result = read_result(self.directory / self.names.result, name, places)
        except BadHandover as exc:
            problem = exc.detail
        if result is not None:
            apply_result(result, self.files)
            self.ctx.tries.update(result.tries)
            for record in result.records:
                self._record(record)
        if ended.timed_out:
            return self._failure(f"the script was not done within {limit:.0f} s{_tail(ended)}",
                                 1151 if self.inward else 1152)
        if result is None:
            how = f"signal {-ended.code}" if ended.code < 0 else f"exit code {ended.code}"
            return self._failure(f"the script ended with {how} and left no result ({problem}){_tail(ended)}")
        if result.code:
            return self._failure(result.text, result.code)
        left = [spec.lfn for spec in self.files if spec.require_transfer()]
        if left:
            return self._failure(f"the script says nothing of {', '.join(left[:5])}{_tail(ended)}")
        return None

    def _failure(self, text: str, code: int = 0) -> PilotException:
        kind = StageInFailure if self.inward else StageOutFailure
        told = text if code not in (0, 1151, 1152) else f"{self._label} by {self.names.script}: {text}"
        return kind(redact(told), code=code or kind.default_code)

    def _record(self, record: object) -> None:
        try:
            self.ctx.record(record)  # type: ignore[arg-type]
        except Exception as exc:  # noqa: BLE001 - book-keeping never costs a transfer
            logger.warning("a transfer could not be recorded: %s: %s", type(exc).__name__, exc)

    def _clean_partial(self) -> None:
        """A script that was killed may have left the beginning of a file."""
        base = self.ctx.input_destination_dir or self.directory
        for spec in self.files:
            if spec.require_transfer():
                _remove(part_name(local_directory(spec, base) / check_name(spec.lfn)))


def _tail(ended: Ended) -> str:
    lines = [line.strip() for line in ended.last_words.splitlines() if line.strip()][-_LINES:]
    return f"; its last words: {' | '.join(lines)}" if lines else "; it said nothing on stderr"


def _key_values(storage: Mapping[str, StorageData], ctx: StagingContext) -> dict[str, str]:
    """Return the values of the keys of object stores by name: the script cannot ask the PanDA server."""
    values: dict[str, str] = {}
    for endpoint in storage.values():
        for number in endpoint.rprotocols:
            names = endpoint.s3_keys(int(number)) if number.isdigit() else None
            if names is None or names["access_key"] in values:
                continue
            try:
                access, secret = ctx.key_pair(names["access_key"], names["secret_key"])
            except PilotException as exc:
                logger.warning("no keys for %s: %s", endpoint.name, exc.detail)
                continue
            if access:
                values[names["access_key"]], values[names["secret_key"]] = access, secret
    return values


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except OSError:  # not there
        return
