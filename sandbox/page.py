"""The web page: jobs, states, heartbeats, the final report, the log. Rendered on the server; escapes everything."""

from __future__ import annotations

import html
import io
import json
import tarfile
import time
import urllib.parse
from pathlib import Path
from typing import Any, List, Mapping, Optional, Sequence

from sandbox.wire import RecordedRequest

_STYLE = """
body{font:14px/1.45 system-ui,sans-serif;margin:0;color:#1c2733;background:#f5f7f9}
header{background:#123a5a;color:#fff;padding:12px 24px}header a{color:#fff;text-decoration:none;font-weight:600}
main{padding:16px 24px;max-width:1200px}
h2{font-size:16px;margin:22px 0 6px}
table{border-collapse:collapse;width:100%;background:#fff;box-shadow:0 1px 2px #0002}
th,td{text-align:left;padding:5px 10px;border-bottom:1px solid #e3e8ec;vertical-align:top}th{background:#eef2f5}
pre{background:#10202e;color:#dfe9f1;padding:10px 14px;overflow:auto;max-height:420px;white-space:pre-wrap}
.s{padding:1px 8px;border-radius:9px;background:#dfe5ea}.finished{background:#bfe8c8}
.failed,.cancelled,.closed{background:#f5c6c2}
.running,.starting{background:#c3dcf7}.sent{background:#fdeab5}.holding,.transferring{background:#e2d4f5}
button{font:inherit;padding:2px 10px}
"""
# Fetches the page again while it is looked at; the main part is replaced in place.
_SCRIPT = """
async function act(path, data){await fetch('/sandbox/api/'+path,{method:'POST',
 headers:{'Content-Type':'application/json'},body:JSON.stringify(data||{})});await again();}
async function again(){try{const t=await(await fetch(location.href)).text();
 const d=new DOMParser().parseFromString(t,'text/html');
 document.querySelector('main').replaceWith(d.querySelector('main'));}catch(e){}}
setInterval(()=>{if(!document.hidden&&!window.getSelection().toString())again();},2000);
"""


def _e(value: Any) -> str:
    return html.escape("" if value is None else str(value))


def _time(seconds: Optional[float]) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds)) if seconds else ""


def _page(title: str, body: str) -> str:
    return (f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{_e(title)}</title>"
            f"<style>{_STYLE}</style></head><body><header><a href=/sandbox/>PanDA sandbox</a> {_e(title)}</header>"
            f"<main>{body}</main><script>{_SCRIPT}</script></body></html>")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], ident: str) -> str:
    cells = "".join(f"<th>{_e(name)}</th>" for name in head)
    lines = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table id={ident}><tr>{cells}</tr>{lines}</table>"


def _badge(state: str) -> str:
    return f"<span class='s {_e(state)}'>{_e(state)}</span>"


def index_page(jobs: Sequence[Mapping[str, Any]], counts: Mapping[str, int], url: str,
               faults: Sequence[Mapping[str, Any]], requests: Sequence[RecordedRequest]) -> str:
    """The list of jobs, newest first, with the last requests and the planned faults."""
    rows = [[
        f"<a href=/sandbox/job/{job['PandaID']}>{job['PandaID']}</a>", _badge(job["state"]), _e(job["attemptNr"]),
        _e(job["prodSourceLabel"]), _e(job["computingSite"]), _e(job["node"]), _time(job["created"]),
        _time(job["modified"]), _e(_error(job)),
    ] for job in jobs]
    summary = " ".join(f"{_badge(state)} {number}" for state, number in sorted(counts.items())) or "no jobs yet"
    body = f"<p id=summary>{summary}</p>"
    body += _table(("PandaID", "state", "attempt", "label", "queue", "node", "submitted", "last change", "error"), rows,
                   "jobs")
    if not jobs:
        body += f"<p>Submit one: <code>python3 -m sandbox submit job.json --url {_e(url)}</code></p>"
    if faults:
        body += "<h2>Planned faults</h2>" + _table(
            ("operation", "kind", "times", "hits"),
            [[_e(f["operation"]), _e(f["kind"]), _e(f["times"]), _e(f["hits"])] for f in faults], "faults")
    body += "<h2>Last requests</h2>" + _table(
        ("time", "call", "job", "state", "answer"),
        [[_time(r.time), _e(f"{r.dialect} {r.name}"), _e(r.params.get("job_id", r.params.get("jobId"))),
          _e(r.params.get("job_status", r.params.get("state"))), _e(r.fault or r.status)] for r in reversed(requests)],
        "requests")
    return _page("jobs", body)


def _error(job: Mapping[str, Any]) -> str:
    errors = job["errors"]
    pilot = f"{job['pilotErrorCode']} {job['pilotErrorDiag']}" if job["pilotErrorCode"] else job["pilotErrorDiag"]
    return str(pilot or errors.get("ddmErrorDiag") or errors.get("jobDispatcherErrorDiag") or "")


def job_page(job: Mapping[str, Any]) -> str:
    """One job: its way through the states, heartbeats, final report, log, definition."""
    job_id, final = job["PandaID"], job["final"] or {}
    buttons = "" if job["archived"] else (
        f"<p><button onclick=\"act('jobs/{job_id}/kill')\">kill</button> "
        f"<button onclick=\"act('jobs/{job_id}/debug',{{on:{'false' if job['debug'] else 'true'}}})\">"
        f"debug mode {'off' if job['debug'] else 'on'}</button></p>")
    body = f"<h2>Job {job_id} {_badge(job['state'])}</h2>{buttons}"
    if job["errors"]:
        body += f"<pre id=errors>{_e(json.dumps(job['errors'], indent=1))}</pre>"
    body += "<h2>States</h2>" + _table(
        ("time", "state"), [[_time(moment), _badge(state)] for moment, state in job["history"]], "history")
    body += f"<h2>Heartbeats ({len(job['updates'])})</h2>" + _table(
        ("time", "state", "stored", "command", "message"),
        [[_time(u["_time"]), _badge(u.get("state", "")), "yes" if u["_stored"] else "no", _e(u["_command"]),
          f"<code>{_e(_brief(u))}</code>"] for u in job["updates"]], "heartbeats")
    body += "<h2>Final report</h2>"
    if final:
        apart = ("xml", "metaData", "pilotLog", "stdout")
        shown = {k: v for k, v in final.items() if k not in apart and v not in ("", None)}
        body += f"<pre id=final>{_e(json.dumps(shown, indent=1))}</pre>"
        body += f"<h2>Output report</h2><pre id=report>{_e(_pretty(final.get('xml')))}</pre>"
    else:
        body += "<p id=final>none yet</p>"
    body += f"<h2>Log</h2><pre id=log>{_e(_log(job))}</pre>"
    if job["metaData"]:
        body += f"<h2>Job report (metaData)</h2><pre id=metadata>{_e(_pretty(job['metaData']))}</pre>"
    body += f"<h2>Definition</h2><pre id=definition>{_e(json.dumps(_public(job['definition']), indent=1))}</pre>"
    return _page(f"job {job_id}", body)


def _public(definition: Mapping[str, Any]) -> Mapping[str, Any]:
    return {k: "********" if k in ("secrets", "pilotSecrets") else v for k, v in definition.items()}


def _brief(update: Mapping[str, Any]) -> str:
    skip = ("jobId", "state", "xml", "metaData", "pilotLog", "stdout", "timestamp", "siteName", "node", "attemptNr")
    return " ".join(f"{k}={v}" for k, v in update.items() if k not in skip and not k.startswith("_") and v != "")[:600]


def _pretty(text: Any) -> str:
    try:
        return json.dumps(json.loads(text), indent=1)
    except (TypeError, ValueError):
        return str(text or "")


def _log(job: Mapping[str, Any]) -> str:
    """The log extract, the last stdout, and the pilot log out of the log file when that lies on this machine."""
    final, pieces = job["final"] or {}, []  # type: Mapping[str, Any], List[str]
    for title, text in (("pilotLog", final.get("pilotLog")), ("stdout", job["fields"].get("stdout"))):
        if text:
            pieces.append(f"--- {title}\n{text}")
    try:
        report = json.loads(final.get("xml") or "{}")
        surl = str(report[job["definition"].get("logFile")]["surl"])
    except (ValueError, TypeError, KeyError):
        surl = ""
    if surl:
        pieces.append(f"--- {surl}")
        pieces += _tarball(surl)
    return "\n".join(pieces) or "nothing yet"


def _tarball(surl: str) -> List[str]:
    """Names in the log file and the end of each pilot log in it; empty when it is not a local tar file."""
    parsed = urllib.parse.urlsplit(surl)
    if parsed.scheme not in ("", "file"):
        return []
    pieces: List[str] = []
    try:
        with tarfile.open(Path(urllib.parse.unquote(parsed.path))) as tar:
            members = tar.getmembers()[:500]
            pieces.append("\n".join(f"{m.size:>10} {m.name}" for m in members))
            for member in members:
                if member.isfile() and Path(member.name).name in ("pilotlog.txt", "payload.stdout", "payload.stderr"):
                    content = tar.extractfile(member) or io.BytesIO()
                    content.seek(max(0, member.size - 20000))
                    pieces.append(f"--- {member.name}\n{content.read().decode(errors='replace')}")
    except (OSError, tarfile.TarError, EOFError):
        return pieces
    return pieces
