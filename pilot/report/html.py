"""One self-contained HTML page per job, made from the PilotDB: story, errors, files, samples, final report."""

from __future__ import annotations

import json
from html import escape

from pilot.report.status import clock
from pilot.store.pilotdb import JobRow, PilotDB
from pilot.util.redact import redact

_STYLE = """body{font:14px/1.45 system-ui,sans-serif;margin:2em auto;max-width:70em;color:#222}
h1{font-size:1.3em}h2{font-size:1.05em;margin-top:1.6em}table{border-collapse:collapse;width:100%}
td,th{border-bottom:1px solid #ddd;padding:.25em .6em;text-align:left;vertical-align:top}
.good{color:#176b2c}.bad{color:#a11}pre{background:#f6f6f6;padding:.8em;overflow:auto}"""


def job_page(store: PilotDB, job: JobRow) -> str:
    """Return the page of one job; secrets are masked, every text is escaped."""
    final = store.final_report(job.job_id)
    state = str(final[0].get("state")) if final else "no final report"
    acknowledged = f"acknowledged {clock(final[1])}" if final and final[1] else "not acknowledged"
    colour = "good" if state == "finished" else "bad"
    job_id = job.job_id
    parts = [
        f"<p>Result: <b class='{colour}'>{escape(state)}</b> ({escape(acknowledged)})</p>",
        _table("Job", ("", ""), [
            ("attempt", job.attempt), ("transformation", job.transformation), ("granted (UTC)", clock(job.granted)),
            ("ended (UTC)", clock(job.ended)), ("stage", job.state), ("exit code", job.exit_code),
            ("pilotTiming getjob|stagein|payload|stageout|setup (s)", job.timing), ("work directory", job.workdir)]),
        _table("Errors", ("time (UTC)", "code", "diagnosis", "who must act", "retry", "evidence"), [
            (clock(error.at), *error[1:6]) for error in store.errors(job_id)]),
        _table("Story", ("time (UTC)", "event", "stage", "detail"),
               [(clock(at), event, stage, detail) for at, event, stage, detail in store.story(job.job_id)]),
        _table("Files", ("transfer", "file", "direction", "tool", "bytes", "s", "status", "code", "detail"), [
            (item["transfer_id"], item["lfn"], item["direction"], item["tool"], item["bytes"],
             f"{item['seconds']:.2f}", item["status"], item["code"], item["detail"])
            for item in store.transfers(job.job_id)]),
        _table("Samples", ("time (UTC)", "CPU s", "cores", "RSS MB", "processes"), [
            (clock(sample.at), f"{sample.cpu:.0f}", f"{sample.cores:.2f}", sample.rss // 1048576, sample.processes)
            for sample in store.samples(job_id)]),
    ]
    if final:
        text = json.dumps(dict(final[0]), indent=1, sort_keys=True)
        parts.append(f"<h2>Final report</h2><pre>{escape(redact(text))}</pre>")
    title = f"Job {escape(job.job_id)}"
    return (f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{title}</title>"
            f"<style>{_STYLE}</style></head><body><h1>{title}</h1>{''.join(parts)}</body></html>")


def _table(title: str, head: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    if not rows:
        return ""
    cells = "".join(f"<th>{escape(name)}</th>" for name in head) if any(head) else ""
    body = "".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in rows)
    return f"<h2>{escape(title)}</h2><table><tr>{cells}</tr>{body}</table>"


def _cell(value: object) -> str:
    return f"<td>{escape(redact('' if value is None else str(value)))}</td>"
