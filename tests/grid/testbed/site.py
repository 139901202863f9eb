"""A PanDA queue and its storages on the testbed: the documents that CRIC would give to the pilot."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Sequence

from tests.grid.testbed.rucio import SITE, Rucio

ACTIVITIES = ("read_lan", "read_wan", "write_lan", "write_wan", "delete")
FLAVOURS = {"root": "XROOTD", "http": "WEBDAV", "davs": "WEBDAV", "file": "POSIX"}


def storages(rucio: Rucio) -> Dict[str, Any]:
    """Content of ``cric_ddmendpoints.json``: each RSE of the testbed, with one protocol for every activity."""
    documents: Dict[str, Any] = {}
    for number, (name, (scheme, host, port, prefix, _)) in enumerate(rucio.rses.items(), 1):
        door = "file://localhost" if scheme == "file" else f"{scheme}://{host}:{port}{'/' if scheme == 'root' else ''}"
        path = f"/{prefix.lstrip('/')}"
        protocol = {"endpoint": door, "path": path, "flavour": FLAVOURS[scheme], "id": number}
        documents[name] = {
            "name": name, "id": number, "site": SITE, "state": "ACTIVE", "type": "DATADISK", "token": "TESTBED",
            "is_deterministic": True, "resource": None,
            "arprotocols": {activity: [protocol] for activity in ACTIVITIES},
            "rprotocols": {str(number): {**protocol, "settings": {}}},
        }
    return documents


def queue(name: str, copytools: Sequence[str], rse: str = "TB_XROOTD", **more: Any) -> Dict[str, Any]:
    """Content of ``queuedata.json``: a queue that reads and writes ``rse`` with ``copytools``, the first one first."""
    activities: Mapping[str, Any] = {activity: [rse] for activity in ("pr", "pw", "pl", "read_lan", "write_lan")}
    return {
        "nickname": name, "panda_resource": name, "siteid": name, "atlas_site": SITE, "site": SITE, "gstat": SITE,
        "state": "ACTIVE", "status": "online", "type": "production", "resource_type": "GRID", "corecount": 1,
        "maxrss": 2000, "maxtime": 86400, "maxinputsize": 10000, "maxwdir": 20000, "timefloor": 0, "is_cvmfs": False,
        "allow_lan": True, "allow_wan": False, "direct_access_lan": False, "direct_access_wan": False, "environ": "",
        "catchall": "", "container_options": "", "container_type": "", "params": {}, "astorages": dict(activities),
        "copytools": {tool: {"setup": ""} for tool in copytools}, "acopytools": {"default": list(copytools)}, **more,
    }
