"""The command line: ``serve`` runs a sandbox, the other commands talk to its admin interface."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, List, Optional, Sequence

DEFAULT_URL = "http://127.0.0.1:25080"


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run one command; returns the exit code."""
    args = _parser().parse_args(argv)
    try:
        return int(args.run(args))
    except urllib.error.HTTPError as exc:
        print(f"{args.command}: {exc.read().decode(errors='replace')}", file=sys.stderr)
    except (urllib.error.URLError, OSError, ValueError) as exc:
        print(f"{args.command}: {exc}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m sandbox", description="A PanDA server for one machine.")
    commands = parser.add_subparsers(dest="command", required=True)

    serve = commands.add_parser("serve", help="run the server until SIGTERM or SIGINT")
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=int, default=25080, help="http port, 0: any free one")
    serve.add_argument("--db", default=":memory:", help="SQLite file (default: in memory)")
    serve.add_argument("--auth", choices=("none", "cert", "recorded", "token"), default="none")
    serve.add_argument("--production-dn", action="append", help="(part of) a DN with the production role")
    serve.add_argument("--no-v1", action="store_true", help="refuse /api/v1/")
    serve.add_argument("--no-legacy", action="store_true", help="refuse /server/panda/")
    serve.add_argument("--trf", type=Path, help="directory behind /trf/ and /cache/")
    serve.add_argument("--queues", type=Path, help="directory with <queue>.all.json or <queue>.json")
    serve.add_argument("--https-port", type=int, default=0)
    serve.add_argument("--cert", type=Path, help="server certificate: serve https too")
    serve.add_argument("--key", type=Path)
    serve.add_argument("--ca", type=Path, help="CA certificates for client certificates and proxies")
    serve.add_argument("--adder-delay", type=float, help="s until the adder looks at a final report (default: never)")
    serve.add_argument("--expire-every", type=float, help="s between looks at the server's time limits")
    serve.add_argument("--first-id", type=int, default=7000000001)
    serve.add_argument("--admin-from-anywhere", action="store_true")
    serve.set_defaults(run=_serve)

    def client(name: str, text: str, run: Any) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text)
        sub.add_argument("--url", default=os.environ.get("SANDBOX_URL", DEFAULT_URL))
        sub.set_defaults(run=run)
        return sub

    submit = client("submit", "submit the job or the list of jobs in a JSON file", _submit)
    submit.add_argument("file", type=Path, help="JSON file, - for standard input")
    submit.add_argument("--raw", action="store_true", help="dispatch the fields verbatim")
    submit.add_argument("--site", help="queue, when the definition has no computingSite")
    client("list", "list the jobs", _list)
    for name, text, action in (
        ("show", "show a job", None), ("kill", "kill a job", "kill"), ("debug", "debug mode on", "debug"),
    ):
        client(name, text, _show if action is None else _act).add_argument("id", type=int)
    command = client("command", "send a command to a job's pilot", _act)
    command.add_argument("id", type=int)
    command.add_argument("text")
    fault = client("fault", "plan a fault, list them, or forget them", _fault)
    fault.add_argument("operation", nargs="?", help="e.g. update_job, acquire_jobs, '*'; none: list")
    fault.add_argument("kind", nargs="?", help="e.g. http_500, reset, delay, truncate, status_30")
    fault.add_argument("--times", type=int, default=1, help="0: for ever")
    fault.add_argument("--seconds", type=float, default=0.05)
    fault.add_argument("--after", action="store_true", help="after the request was processed")
    fault.add_argument("--when", action="append", default=[], metavar="PARAM=VALUE")
    fault.add_argument("--text", default="", help="body, command or content type, depending on the kind")
    fault.add_argument("--clear", action="store_true")
    queue = client("queue", "serve a queue document", _queue)
    queue.add_argument("name")
    queue.add_argument("file", type=Path)
    clock = client("clock", "let time pass for the server and apply its time limits", _clock)
    clock.add_argument("seconds", type=float)
    client("adder", "let the adder look at the final reports", _adder)
    client("requests", "the recorded requests as JSON", _requests)
    return parser


def _serve(args: argparse.Namespace) -> int:
    from sandbox.api import Sandbox
    from sandbox.server import TLSFiles

    ended = threading.Event()
    # A loaded event loop or an open connection must not delay the end: SIGTERM ends at once.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    signal.signal(signal.SIGINT, lambda *_: ended.set())
    tls = TLSFiles(args.cert, args.key or args.cert, args.ca) if args.cert else None
    box = Sandbox(
        args.db, host=args.host, port=args.port, https_port=args.https_port, auth=args.auth, v1=not args.no_v1,
        legacy=not args.no_legacy, tls=tls, queues=_queues(args.queues), queues_dir=args.queues, trf_dir=args.trf,
        adder_delay=args.adder_delay, expire_every=args.expire_every, first_id=args.first_id,
        production_dns=args.production_dn, admin_from_anywhere=args.admin_from_anywhere)
    with box:
        print(f"listening on {box.url}{' and ' + box.https_url if tls else ''}", flush=True)
        ended.wait()
    return 0


def _queues(directory: Optional[Path]) -> dict[str, dict[str, Any]]:
    """The queue documents of a directory: one JSON object with a nickname per file."""
    found = {}
    for path in sorted(directory.glob("*.json")) if directory else ():
        document = json.loads(path.read_text())
        if isinstance(document, dict) and "nickname" in document:
            found[path.name.partition(".")[0]] = document
    return found


def _call(url: str, method: str, path: str, data: Any = None) -> Any:
    body = None if data is None and method == "GET" else json.dumps(data or {}).encode()
    request = urllib.request.Request(f"{url.rstrip('/')}/sandbox/api/{path}", data=body, method=method,
                                     headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


def _submit(args: argparse.Namespace) -> int:
    text = sys.stdin.read() if str(args.file) == "-" else args.file.read_text()
    found = json.loads(text)
    definitions: List[Any] = found if isinstance(found, list) else [found]
    for definition in definitions:
        data = {"definition": definition, "raw": args.raw, "site": args.site}
        print(_call(args.url, "POST", "jobs", data)["PandaID"])
    return 0


def _list(args: argparse.Namespace) -> int:
    print(f"{'PandaID':<12} {'state':<12} {'att':>3} {'label':<10} {'queue':<24} {'changed':<19} node")
    for job in _call(args.url, "GET", "jobs"):
        changed = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(job["modified"]))
        print(f"{job['PandaID']:<12} {job['state']:<12} {job['attemptNr']:>3} {job['prodSourceLabel']:<10} "
              f"{job['computingSite']:<24} {changed:<19} {job['node'] or ''}")
    return 0


def _show(args: argparse.Namespace) -> int:
    print(json.dumps(_call(args.url, "GET", f"jobs/{args.id}"), indent=2))
    return 0


def _act(args: argparse.Namespace) -> int:
    data = {"command": args.text} if args.command == "command" else {}
    done = _call(args.url, "POST", f"jobs/{args.id}/{args.command}", data)["done"]
    print("done" if done else "no such active job")
    return 0 if done else 1


def _fault(args: argparse.Namespace) -> int:
    if args.clear:
        _call(args.url, "DELETE", "faults")
    elif args.operation and args.kind:
        when = dict(item.split("=", 1) for item in args.when) or None
        _call(args.url, "POST", "faults", {
            "operation": args.operation, "kind": args.kind, "times": args.times or None, "seconds": args.seconds,
            "after_processing": args.after, "when": when, "text": args.text})
    print(json.dumps(_call(args.url, "GET", "faults"), indent=2))
    return 0


def _adder(args: argparse.Namespace) -> int:
    print(json.dumps(_call(args.url, "POST", "adder")["jobs"]))
    return 0


def _queue(args: argparse.Namespace) -> int:
    _call(args.url, "POST", f"queues/{args.name}", json.loads(args.file.read_text()))
    return 0


def _clock(args: argparse.Namespace) -> int:
    _call(args.url, "POST", "clock", {"seconds": args.seconds})
    print(json.dumps(_call(args.url, "POST", "expire")["jobs"]))
    return 0


def _requests(args: argparse.Namespace) -> int:
    print(json.dumps(_call(args.url, "GET", "requests"), indent=2))
    return 0
