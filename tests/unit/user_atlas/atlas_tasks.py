"""Makes the task of an ATLAS payload as the pilot does it: from a job definition, with a CVMFS tree of our own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping, Optional

from pilot.info.filespec import FileSpec
from pilot.info.jobparser import parse_job
from pilot.info.payloadtask import PayloadCommand, PayloadTask
from pilot.info.queuedata import QueueData
from pilot.info.remoteinputs import replace_names
from pilot.options import Options
from pilot.settings import load_settings
from pilot.user.atlas import Atlas

TREE = Path(__file__).resolve().parents[2] / "standins/cvmfs"
"""Stand-in of /cvmfs."""
SETTINGS = load_settings(Options(), {})

PRODUCTION: Mapping[str, Any] = {
    "PandaID": 1234567, "taskID": 999, "attemptNr": 2, "coreCount": 8, "swRelease": "Atlas-21.0.15",
    "homepackage": "AtlasOffline/21.0.15", "cmtConfig": "x86_64-slc6-gcc62-opt", "processingType": "simul",
    "realDatasetsIn": "mc16:EVNT.1", "transformation": "Sim_tf.py",
    "jobPars": '--inputEVNTFile=EVNT.1.pool.root.1 --preExec "x=1" --maxEvents=5',
}
USER: Mapping[str, Any] = {
    **PRODUCTION, "coreCount": 1, "transformation": "http://pandaserver.cern.ch:25080/trf/user/runGen-00-00-02",
    "jobPars": """-j "" --sourceURL https://x -r ./ -p "echo%20hi" -o "{'a':'b'}\"""",
}
RUNCONTAINER: Mapping[str, Any] = {
    "PandaID": 1234567, "taskID": 999, "attemptNr": 2, "coreCount": 1, "swRelease": "NULL", "homepackage": "NULL",
    "cmtConfig": "NULL", "processingType": "panda-client-1.5",
    "transformation": "http://pandaserver.cern.ch:25080/trf/user/runcontainer",
    "jobPars": """-p "echo%20hi" -r . --containerImage docker://alpine -i "['a.root']\"""",
}
QUEUE: Mapping[str, Any] = {"nickname": "SITE_PROD", "environ": "", "is_cvmfs": True}


def make_task(
    workdir: Path, definition: Mapping[str, Any], *, environ: Optional[Mapping[str, str]] = None,
    queue: Optional[Mapping[str, Any]] = None, remote: Optional[Mapping[str, str]] = None, requote: bool = True,
    hpc_resource: str = "", **fields: Any,
) -> PayloadTask:
    """A task; ``fields`` go over the definition, ``remote`` makes inputs stay remote (LFN -> TURL)."""
    job = parse_job({**definition, **fields}, environ=environ or {}, compat_requote=requote)
    job.workdir = workdir
    for spec in job.indata:
        if spec.lfn in (remote or {}):
            spec.status, spec.turl = "remote_io", (remote or {})[spec.lfn]
    names = Atlas().remote_inputs(job)
    return PayloadTask(
        job=job, queue=QueueData.from_raw({**QUEUE, **(queue or {})}), options=Options(hpc_resource=hpc_resource),
        settings=SETTINGS, environ={"ATLAS_SW_BASE": str(TREE), **(environ or {})}, home=workdir,
        parameters=replace_names(job.jobparams, names), transformation=lambda: f"'{job.transformation}'",
        download=lambda url: url.rsplit("/", 1)[-1])


def make_command(workdir: Path, definition: Mapping[str, Any], **how: Any) -> PayloadCommand:
    """The command for ``make_task``."""
    return Atlas().payload_command(make_task(workdir, definition, **how))


def at_cvmfs(text: str) -> str:
    """The text with the path of the stand-in replaced by /cvmfs."""
    return text.replace(str(TREE), "/cvmfs")


def inputs(*names: str) -> dict[str, str]:
    """Fields of a definition for inputs of these names."""
    return {"inFiles": ",".join(names), "GUID": ",".join(f"G-{name[0].upper()}" for name in names),
            "fsize": ",".join("1" for _ in names), "checksum": ",".join("ad:00000001" for _ in names),
            "scopeIn": ",".join("s" for _ in names)}


def spec(lfn: str, **fields: Any) -> FileSpec:
    """An input."""
    return FileSpec(lfn, **fields)
