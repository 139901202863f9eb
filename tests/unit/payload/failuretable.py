"""What payloads do, and what the server is told: the rows of test_failure_table.py."""

from __future__ import annotations

import json
from typing import NamedTuple

MEMORY = "with more memory"


class Row(NamedTuple):
    """One provoked failure (or what only looks like one, ``code`` 0)."""

    name: str
    script: str
    """Run by bash in the job's directory, stdout and stderr as in the pilot."""
    code: int
    """pilotErrorCode."""
    trans: int = 1
    """transExitCode."""
    who: str = "user"
    retry: str = "never"
    exe: int = 0
    """exeErrorCode."""
    words: str = ""
    """In the diagnosis."""
    experiment: str = "generic"
    analysis: bool = False
    oom: int = 0
    """The kernel's counter goes up by so many while the payload runs."""
    memory: tuple[int, int] = (0, 0)
    """Largest sample and limit, kB."""
    asked: int = 0
    """minramcount, MB."""
    allowed: object = None
    """params.allowed_connections of the queue."""
    others: tuple[int, ...] = ()
    """Codes behind the reported one, 1305 apart."""


def err(text: str, code: int = 1) -> str:
    return f"cat >&2 <<'END'\n{text}\nEND\nexit {code}"


def out(text: str, code: int = 1) -> str:
    return f"cat <<'END'\n{text}\nEND\nexit {code}"


def own(code: object, diag: str = "", end: int = 1) -> str:
    return f"echo '{json.dumps({'error_code': code, 'error_diag': diag})}' > payload_error_report.json; exit {end}"


def report(end: int, **fields: object) -> str:
    return f"cat > jobReport.json <<'END'\n{json.dumps(fields)}\nEND\nexit {end}"


def errors(*texts: str, level: str = "ERROR", **more: object) -> list[object]:
    return [{"name": "evgen", "logfileReport": {"details": {level: [{"message": text, **more} for text in texts]}}}]


def trace(*addresses: str, end: int = 0) -> str:
    lines = "\n".join(f"2026-01-31 12:00:00.123456 : INFO     connect: {item}  cmd: python3" for item in addresses)
    return f"cat > pandatracerlog.txt <<'END'\n{lines}\nEND\nexit {end}"


CORE = "printf '\\177ELF\\2\\1\\1\\0\\0\\0\\0\\0\\0\\0\\0\\0\\4\\0\\76\\0' > core.4711; "
SITE = ("site", "elsewhere")

# --- one row per behaviour --------------------------------------------------------------------------------------------

TEXTS = [
    # the payload's own words
    Row("nothing said", "exit 3", 1305, 3, words="exit code 3: nothing was written"),
    Row("last words of stderr", err("opening A.root\ncannot open A.root", 4), 1305, 4, words="cannot open A.root"),
    Row("error line of stdout", out("INFO fine\nERROR: no geometry\nbye", 5), 1305, 5, words="ERROR: no geometry"),
    Row("traceback", err("Traceback (most recent call last):\n  File \"a\", line 1\nKeyError: 'x'"), 1305,
        words="KeyError: 'x'"),
    Row("not UTF-8", "printf 'fatal: b\\351ton \\377\\376\\n' >&2; exit 7", 1305, 7, words="fatal: b?ton ??"),
    Row("escape sequences", "printf '\\033[31merror: red\\033[0m\\n' >&2; exit 7", 1305, 7, words="error: red"),
    Row("one line of 5 MB", "head -c 5000000 /dev/zero | tr '\\0' x >&2; echo ' error: end' >&2; exit 8", 1305, 8),
    Row("10 GB of stdout", "truncate -s 10G payload.stdout; echo 'error: at the end' >> payload.stdout; exit 9", 1305,
        9, words="error: at the end"),
    Row("FIFO in the place of stderr", "rm payload.stderr; mkfifo payload.stderr; exit 9", 1305, 9),
    Row("directory in the place of stdout", "rm payload.stdout; mkdir payload.stdout; exit 9", 1305, 9),
    Row("link in the place of stderr", "ln -sf /etc/passwd payload.stderr; exit 9", 1305, 9),
    Row("output removed", "rm payload.stdout payload.stderr; exit 9", 1305, 9, words="is missing"),
    Row("work directory removed", "rm -rf \"$PWD\"; exit 9", 1305, 9, words="removed its work directory"),
    Row("secret in the words", err("error: password=TopSecret99 refused"), 1305),
    # commands that are not there
    Row("no such command", "nosuchcommand --x", 1346, 127, "release", words="command not found"),
    Row("no such command, user job", "nosuchcommand --x", 1346, 127, analysis=True),
    Row("no such command in a user's script", err("./run.sh: line 8: nosuch: command not found", 127), 1305, 127),
    Row("no such file as command", "./nosuch.sh", 1346, 127, "release"),
    Row("not executable", "touch script; ./script", 1305, 126, words="Permission denied"),
    Row("no apptainer", "apptainer exec x y", 1372, 127, *SITE),
    Row("no singularity", "/nowhere/singularity exec x y", 1325, 127, *SITE),
    # wrong system
    Row("GLIBC too old", err("./athena: /lib64/libc.so.6: version `GLIBC_2.34' not found (required by ./athena)"), 1388,
        1, "release", "elsewhere", words="GLIBC_2.34"),
    Row("GLIBCXX too old", err("libstdc++.so.6: version `GLIBCXX_3.4.29' not found"), 1388, 1, "release", "elsewhere"),
    Row("cling names GLIBC", out("cling::DynamicLibraryManager::loadLibrary(): version 'GLIBC_2.25' not found", 221),
        1388, 221, "release", "elsewhere"),
    Row("other processor", "printf '\\177ELF\\2\\1\\1' > prog; chmod +x prog; ./prog", 1388, 126, "release",
        "elsewhere"),
    Row("exec format error", err("bash: ./x: Exec format error", 126), 1388, 126, "release", "elsewhere"),
    Row("GLIBC in a harmless line", err("using GLIBC_2.17\nerror: bad events"), 1305, words="bad events"),
    Row("SL5", err("SL5 is unsupported"), 1347, 1, *SITE),
    # arguments
    Row("argparse", err("usage: x\nx.py: error: unrecognized arguments: --foo", 2), 1349, 2),
    Row("argparse words, other end", err("x.py: error: unrecognized arguments: --foo", 3), 1305, 3),
    # space
    Row("disk full in stderr", err("cp: error writing 'a': No space left on device"), 1098, 1, *SITE),
    Row("quota in stdout", out("Disk quota exceeded"), 1098, 1, *SITE),
    Row("disk full among non-UTF-8", "printf '\\377\\n\\376 No space left on device \\377\\n' >&2; exit 1", 1098, 1,
        *SITE),
    Row("exit 0, write failed", err("cp: error writing 'a': No space left on device", 0), 1098, 0, *SITE),
    Row("exit 0, ROOT write failed",
        err("SysError in <TFile::WriteBuffer>: error writing to file o.root (-1) (Disk quota exceeded)", 0), 1098, 0,
        *SITE),
    Row("exit 0, EIO at write", err("echo: write error: Input/output error", 0), 1305, 0, *SITE),
    Row("exit 0, EIO at read", err("cat: /x: Input/output error", 0), 0, 0),
    Row("exit 0, no space for a directory", err("mkdir: cannot create directory 'x': No space left on device", 0), 0,
        0),
    # memory in words
    Row("bad_alloc", err("terminate called after throwing an instance of 'std::bad_alloc'", 134), 1212, 134,
        retry=MEMORY),
    Row("bad_alloc mangled, stdout", out("what(): St9bad_alloc"), 1212, retry=MEMORY),
    Row("Athena out of memory", err("FATAL out of memory: taking the application down"), 1212, retry=MEMORY),
    Row("Python MemoryError", err("Traceback (most recent call last):\n  File \"a\"\nMemoryError"), 1212, retry=MEMORY),
    Row("numpy MemoryError", err("numpy.core._exceptions._ArrayMemoryError: Unable to allocate 8 GiB"), 1212,
        retry=MEMORY),
    Row("MemoryError caught", err("INFO handled MemoryError in step 2\nerror: bad events"), 1305),
    Row("bad_alloc, limit known", err("std::bad_alloc"), 1212, retry="with 500 MB more", memory=(1, 2000 * 1024)),
    Row("bad_alloc, memory asked for", err("std::bad_alloc"), 1212, retry="with 1000 MB more", asked=4000),
    Row("bad_alloc, site gives less than asked for", err("std::bad_alloc"), 1212, 1, *SITE, memory=(1, 2000 * 1024),
        asked=4000),
    Row("exit 0, words of memory", err("St9bad_alloc", 0), 0, 0),
    # the kernel
    Row("OOM kill of the payload", "kill -9 $$", 1212, 137, retry=MEMORY, oom=1,
        words="the kernel killed 1 process(es)"),
    Row("OOM kill in a shell", "bash -c 'kill -9 $$'; exit $?", 1212, 137, retry=MEMORY, oom=2),
    Row("OOM kill of a child, transform goes on", "exit 65", 1212, 65, retry=MEMORY, oom=1),
    Row("OOM kill, limit known", "exit 66", 1212, 66, retry="with 1000 MB more", oom=1,
        memory=(3_900_000, 4_000_000), words="3900000 kB used, limit 4000000 kB"),
    Row("OOM kill, own error report", own(5318, "payload execution failed with 137", 18), 1212, 18, retry=MEMORY,
        exe=5318, oom=1),
    Row("OOM kill, exit 0", "exit 0", 0, 0, oom=1),
    Row("SIGKILL near the limit", "kill -9 $$", 1212, 137, retry="with 1000 MB more", memory=(3_900_000, 4_000_000),
        words="inferred from the last memory sample"),
    Row("SIGKILL far from the limit", "kill -9 $$", 1305, 137, *SITE, memory=(2_000_000, 4_000_000),
        words="an unknown hand"),
    Row("other end near the limit", "exit 1", 1305, memory=(3_900_000, 4_000_000)),
    Row("segmentation fault", "kill -SEGV $$", 1328, 139),
    Row("segmentation fault below a shell", "bash -c 'kill -SEGV $$'; exit $?", 1328, 139),
    Row("segmentation fault with core", CORE + "kill -SEGV $$", 1328, 139, others=(1355,)),
    Row("abort", err("assertion x > 0 failed", 134), 1305, 134, words="exit code 134 (SIGABRT: aborted)"),
    Row("abort with core", CORE + err("assertion x > 0 failed", 134), 1355, 134, words="core.4711; assertion"),
    Row("core, exit 1", CORE + "exit 1", 1355),
    Row("core, exit 0", CORE + "exit 0", 0, 0),
    Row("a user's file core", "echo results > core; exit 1", 1305),
    Row("illegal instruction", "kill -ILL $$", 1388, 132, "release", "elsewhere"),
    Row("CPU limit of the node", "kill -XCPU $$", 1305, 152, *SITE, words="ulimit -t"),
    Row("file size limit of the node", "ulimit -f 1; head -c 9000 /dev/zero > big; exit $?", 1305, 153, *SITE,
        words="ulimit -f"),
    Row("bus error", "kill -BUS $$", 1305, 135, *SITE),
    Row("unknown hand", "echo last words >&2; kill -TERM $$", 1305, 143, *SITE, words="an unknown hand"),
    # container run-times
    *(Row(f"container: {text}", err(f"FATAL:   container creation failed: {text}", 255), code, 255, *SITE)
      for text, code in [
          ("Failed to mount image", 1309), ("error: while mounting /x", 1309), ("No more available loop devices", 1307),
          ("no loop devices available", 1307), ("Not mounting requested bind point", 1308),
          ("Failed invoking the NEWUSER namespace runtime", 1340), ("Failed to create user namespace", 1345),
          ("Singularity is not installed", 1325), ("Apptainer is not installed", 1372),
          ("Operation not permitted", 1306), ("General payload setup verification error", 1110)]),
    Row("container: resources", err("ERROR  : fork: Resource temporarily unavailable", 255), 1348, 255, "site",
        "same site"),
    Row("container: bind point, 251", err("WARNING: Not mounting requested bind point", 251), 1308, 251, *SITE),
    Row("container: not installed, 64", err("ERROR: Apptainer is not installed", 64), 1372, 64, *SITE),
    Row("container: directory, 64", err("ERROR: cannot create directory /x", 64), 1199, 64, *SITE),
    Row("container: no image", err("FATAL:   could not open image /x.sif: no such file or directory", 255), 1360, 255,
        "user", "elsewhere"),
    Row("container: no command", err("FATAL:   \"nosuch\": executable file not found in $PATH", 255), 1346, 255),
    Row("container: FATAL with a code of its own", err("FATAL:   Failed to mount image", 1), 1309, 1, *SITE),
    Row("container: unknown words", err("FATAL:   something new", 255), 1351, 255, words="something new"),
    Row("container: warning before an ordinary end", err("WARNING: Not mounting requested bind point\nValueError: x"),
        1305),
    Row("container words of a user", err("my tool: Failed to mount image", 255), 1305, 255),
    Row("container: podman", err("Error: crun: Operation not permitted", 125), 1306, 125, *SITE),
    Row("exit 0, FATAL of a runtime last", err("FATAL:   Failed to mount image", 0), 1309, 0, *SITE),
    Row("exit 0, FATAL then fallen back", err("FATAL:   Failed to mount image\nfalling back\ndone", 0), 0, 0),
    Row("exit 0, Operation not permitted", err("chown: x: Operation not permitted", 0), 0, 0),
    Row("exit 0, ERROR not permitted", err("ERROR: Operation not permitted", 0), 0, 0),
    Row("exit 0, No such file", err("ls: x: No such file or directory", 0), 0, 0),
    # known texts
    Row("SQLite on NFS", out("prepare 5 database is locked"), 1115, 1, *SITE),
    Row("SQLite statement", out("Error SQLiteStatement"), 1115, 1, *SITE),
    Row("user code gone", out("ERROR: unable to fetch source tarball from web"), 1335),
    Row("user code gone, non-UTF-8 before",
        "printf '\\377\\nERROR: unable to fetch source tarball from web\\n'; exit 1", 1335),
    Row("tarball, 146", out("--> fetching\nhttps://panda/cache/x.tar.gz\nfailed", 146), 1246, 146, "user", "same site",
        analysis=True, words="User tarball https://panda/cache/x.tar.gz cannot be downloaded from PanDA server"),
    Row("146 of a production job", "exit 146", 1305, 146),
    # worker-node scripts of 2025
    Row("script: payload failed", own(5318, "payload execution failed with 1", 18), 1305, 18, exe=5318,
        words="exit code 18: payload execution failed with 1"),
    Row("script: no tarball", own(5303, "sandbox cannot be fetched", 3), 1305, 3, "user", "same site", 5303),
    Row("script: inputs unavailable", own(5407, "no input", 7), 1305, 7, "storage", "elsewhere", 5407),
    Row("script: ROOT missing", own(5304, "no ROOT", 4), 1305, 4, "release", "elsewhere", 5304),
    Row("script: DBRelease", own(5410, "DBRelease", 10), 1305, 10, "site", "elsewhere", 5410),
    Row("script: error of another kind", own(42, "no calibration", 1), 1305, exe=42),
    Row("script: exit 0 with an error", own(5315, "no output", 0), 1305, 0, exe=5315, words="no output"),
    Row("script: code as text", own("5315", "no output", 15), 1305, 15, exe=5315),
    Row("script: no text", own(5315, "", 15), 1305, 15, exe=5315, words="error 5315 reported by the payload"),
    Row("script: code 0", own(0, "fine", 0), 0, 0),
    Row("script: useless report", "echo '[' > payload_error_report.json; exit 1", 1305),
    Row("script: code null", own(None, "x", 0), 0, 0),
    # ATLAS: set-up
    Row("setup.sh missing", out("sh: /cvmfs/x/setup.sh: No such file or directory"), 1211, 1, *SITE,
        experiment="atlas"),
    Row("setup.sh missing, bash", err("/bin/bash: line 1: /cvmfs/x/asetup.sh: No such file or directory\nmore"), 1211,
        1, *SITE, experiment="atlas"),
    Row("setup.sh missing at the start of much",
        "echo 'sh: line 1: /cvmfs/x/setup.sh: No such file or directory'; seq 100000; exit 1", 1211, 1, *SITE,
        experiment="atlas"),
    Row("AtlasSetup fatal", out("AtlasSetup(FATAL): Fatal exception"), 1334, 1, *SITE, experiment="atlas"),
    Row("AtlasSetup fatal, at the end", "seq 100000; echo 'AtlasSetup(FATAL): Fatal exception'; exit 1", 1334, 1, *SITE,
        experiment="atlas"),
    Row("AtlasSetup quoted in the middle", "seq 9999; echo 'AtlasSetup(FATAL): Fatal exception'; seq 9999; exit 1",
        1305, experiment="atlas"),
    Row("no release", err("asetup: No release candidates found"), 1244, 1, "release", "elsewhere", experiment="atlas"),
    Row("set-up words, generic job", out("AtlasSetup(FATAL): Fatal exception"), 1305),
    # ATLAS: job reports
    Row("report: SIGSEGV", report(65, exitCode=65, exitMsg="athena got a SIGSEGV signal"), 1328, 65, exe=65,
        experiment="atlas", words="Invalid memory reference or a segmentation fault in payload"),
    Row("report: bad_alloc", report(65, exitCode=65, exitMsg="bad", executor=errors("x: std::bad_alloc")), 1223, 65,
        retry=MEMORY, exe=65, experiment="atlas"),
    Row("report: Frontier", report(65, exitCode=65, exitMsg="bad", executor=errors(
        "x", moreDetails={"abnormalLines": ["12:00 INFO Cannot find a valid frontier connection (a)"]})), 1369, 65,
        *SITE, exe=65, experiment="atlas"),
    Row("report: Frontier as always", report(65, exitCode=65, exitMsg="bad", executor=errors(
        "x", moreDetails={"lastNormalLine": ["INFO Using frontier connection frontier://x"]})), 1305, 65, exe=65,
        experiment="atlas"),
    Row("report: exit 0 but failed", report(0, exitCode=66, exitAcronym="TRF_EXEC", exitMsg="File x is corrupt"), 1220,
        0, exe=66, experiment="atlas", words="TRF_EXEC: File x is corrupt"),
    Row("report: failed and says so", report(66, exitCode=66, exitMsg="File x did not pass"), 1305, 66, exe=66,
        experiment="atlas"),
    Row("report: 146", report(1, exitCode=146, exitMsg="no tarball"), 1246, 1, "user", "same site", exe=146,
        experiment="atlas", analysis=True),
    Row("report: 160 is no failure", report(0, exitCode=160, exitMsg="no more points"), 0, 0, experiment="atlas",
        analysis=True),
    Row("report: of a generic job", report(0, exitCode=66, exitMsg="x"), 0, 0),
    Row("report: truncated", "echo '{\"exitCode\": 65, ' > jobReport.json; exit 65", 1305, 65, experiment="atlas",
        analysis=True),
    Row("report: deeply nested", "head -c 300000 /dev/zero | tr '\\0' '[' > jobReport.json; exit 65", 1305, 65,
        experiment="atlas", analysis=True),
    Row("report: NaN", "echo '{\"exitCode\": NaN, \"exitMsg\": Infinity}' > jobReport.json; exit 65", 1305, 65,
        experiment="atlas", analysis=True),
    Row("report: null", report(65, exitCode=None, exitMsg=None), 1305, 65, experiment="atlas", analysis=True),
    Row("report: missing, production", "exit 0", 1187, 0, "release", experiment="atlas"),
    Row("report: missing, analysis", "exit 0", 0, 0, experiment="atlas", analysis=True),
    Row("report and kernel", report(65, exitCode=65, exitMsg="x", executor=errors("std::bad_alloc")), 1212, 65,
        retry=MEMORY, exe=65, oom=1, experiment="atlas", others=(1223,)),
    # several at once: the rank decides
    Row("container before memory", err("FATAL:   Failed to mount image\nstd::bad_alloc", 255), 1309, 255, *SITE,
        others=(1212,)),
    Row("memory and space", err("std::bad_alloc\nNo space left on device"), 1212, retry=MEMORY, others=(1098,)),
    Row("segfault and space", err("No space left on device\nboom", 139), 1328, 139, others=(1098,)),
    # connections
    Row("connection, nothing forbidden", trace("8.8.8.8:443"), 0, 0),
    Row("connection allowed", trace("10.1.1.1:3128"), 0, 0, allowed="10.0.0.0/8"),
    Row("connection forbidden", trace("8.8.8.8:443", "10.1.1.1:80"), 1387, 0, "user", "elsewhere", allowed="10.0.0.0/8",
        words="8.8.8.8:443 (python3)"),
    Row("connection forbidden, IPv6", trace("2001:db8::1:443"), 1387, 0, "user", "elsewhere", allowed=[],
        words="[2001:db8::1]:443"),
    Row("connection forbidden, payload failed", trace("8.8.8.8:443", end=3), 1387, 3, "user", "elsewhere", allowed=""),
    Row("tracer touched only", "touch pandatracerlog.txt", 0, 0, allowed=""),
]
