"""THE table of pilot error codes: number, name, text, rank, who must act, retry advice, shell exit code.

Source of numbers and texts: the published error code list of the pilot; the default texts are protocol (server retry
rules match regular expressions on them), dynamic detail goes behind ``<text>:``. Numbers are never reused; new codes
start at 1387. SIGUSR1 is 1206 and SIGBUS 1207 as in the published signal table (the reference has them swapped: to
swap them back, exchange the two lines below and nothing else).

The module imports only the standard library, opens nothing and logs nothing: Harvester imports it on its edge nodes.
"""
from __future__ import annotations

from typing import NamedTuple


class ErrorEntry(NamedTuple):
    """One row of the table."""

    code: int
    name: str
    text: str
    rank: int
    """Priority when several errors are known: the lowest rank is the reported one (1 = killed by the server, ... ,
    10 = trouble inside the pilot). Ties go by time."""
    who: str
    """Who can do something about it, unless a rule knows better: one of ``WHO``."""
    retry: str
    """What another attempt is good for, unless a rule knows better: one of ``RETRY``."""


USER, SITE, STORAGE, RELEASE, PILOT, NOBODY = WHO = ("user", "site", "storage", "release", "pilot", "nobody")
"""Who must act: the job's owner; the administrators of the queue's nodes and set-up; those of the storage or catalogue;
the makers of the experiment's software; the makers of the pilot; nobody (the job was ended on purpose)."""

NEVER, SAME, ELSEWHERE, MEMORY = RETRY = ("never", "same site", "elsewhere", "with more memory")
"""Retry advice; rules that know the numbers say ``with 500 MB more`` in the place of ``with more memory``."""

_TABLE = (
    ErrorEntry(1008, "GENERALERROR", "General pilot error, consult batch log", 10, PILOT, ELSEWHERE),
    ErrorEntry(1098, "NOLOCALSPACE", "Not enough local space", 3, SITE, ELSEWHERE),
    ErrorEntry(1099, "STAGEINFAILED", "Failed to stage-in file", 4, STORAGE, ELSEWHERE),
    ErrorEntry(1100, "REPLICANOTFOUND", "Replica not found", 4, STORAGE, ELSEWHERE),
    ErrorEntry(1103, "NOSUCHFILE", "No such file or directory", 4, STORAGE, ELSEWHERE),
    ErrorEntry(1104, "USERDIRTOOLARGE", "User work directory too large", 3, USER, NEVER),
    ErrorEntry(1106, "STDOUTTOOBIG", "Payload log or stdout file too big", 3, USER, NEVER),
    ErrorEntry(1110, "SETUPFAILURE", "Failed during payload setup", 5, SITE, ELSEWHERE),
    ErrorEntry(1115, "NFSSQLITE", "NFS SQLite locking problems", 6, SITE, ELSEWHERE),
    ErrorEntry(1116, "QUEUEDATA", "Pilot could not download queuedata", 8, SITE, ELSEWHERE),
    ErrorEntry(1117, "QUEUEDATANOTOK", "Pilot found non-valid queuedata", 8, SITE, ELSEWHERE),
    ErrorEntry(1124, "OUTPUTFILETOOLARGE", "Output file too large", 3, USER, NEVER),
    ErrorEntry(1133, "NOSTORAGE", "Fetching default storage failed: no activity related storage defined",
               4, SITE, ELSEWHERE),
    ErrorEntry(1137, "STAGEOUTFAILED", "Failed to stage-out file", 9, STORAGE, ELSEWHERE),
    ErrorEntry(1141, "PUTMD5MISMATCH", "md5sum mismatch on output file", 9, STORAGE, ELSEWHERE),
    ErrorEntry(1143, "CHMODTRF", "Failed to chmod transform", 5, SITE, ELSEWHERE),
    ErrorEntry(1144, "PANDAKILL", "This job was killed by panda server", 1, NOBODY, NEVER),
    ErrorEntry(1145, "GETMD5MISMATCH", "md5sum mismatch on input file", 4, STORAGE, ELSEWHERE),
    ErrorEntry(1149, "TRFDOWNLOADFAILURE", "Transform could not be downloaded", 5, USER, SAME),
    ErrorEntry(1150, "LOOPINGJOB", "Looping job killed by pilot", 3, USER, NEVER),
    ErrorEntry(1151, "STAGEINTIMEOUT", "File transfer timed out during stage-in", 4, STORAGE, SAME),
    ErrorEntry(1152, "STAGEOUTTIMEOUT", "File transfer timed out during stage-out", 9, STORAGE, SAME),
    ErrorEntry(1163, "NOPROXY", "Grid proxy not valid", 3, SITE, ELSEWHERE),
    ErrorEntry(1165, "MISSINGOUTPUTFILE", "Local output file is missing", 7, USER, NEVER),
    ErrorEntry(1168, "SIZETOOLARGE", "Total file size too large", 4, USER, NEVER),
    ErrorEntry(1171, "GETADMISMATCH", "adler32 mismatch on input file", 4, STORAGE, ELSEWHERE),
    ErrorEntry(1172, "PUTADMISMATCH", "adler32 mismatch on output file", 9, STORAGE, ELSEWHERE),
    ErrorEntry(1177, "NOVOMSPROXY", "Voms proxy not valid", 3, SITE, ELSEWHERE),
    ErrorEntry(1180, "GETGLOBUSSYSERR", "Globus system error during stage-in", 4, STORAGE, ELSEWHERE),
    ErrorEntry(1181, "PUTGLOBUSSYSERR", "Globus system error during stage-out", 9, STORAGE, ELSEWHERE),
    ErrorEntry(1186, "NOSOFTWAREDIR", "Software directory does not exist", 5, SITE, ELSEWHERE),
    ErrorEntry(1187, "NOPAYLOADMETADATA", "Payload metadata does not exist", 7, RELEASE, NEVER),
    ErrorEntry(1190, "LFNTOOLONG", "LFN too long (exceeding limit of 255 characters)", 7, USER, NEVER),
    ErrorEntry(1191, "ZEROFILESIZE", "File size cannot be zero", 7, USER, NEVER),
    ErrorEntry(1199, "MKDIR", "Failed to create directory", 5, SITE, ELSEWHERE),
    ErrorEntry(1200, "KILLSIGNAL", "Job terminated by unknown kill signal", 2, SITE, ELSEWHERE),
    ErrorEntry(1201, "SIGTERM", "Job killed by signal: SIGTERM", 2, SITE, ELSEWHERE),
    ErrorEntry(1202, "SIGQUIT", "Job killed by signal: SIGQUIT", 2, SITE, ELSEWHERE),
    ErrorEntry(1203, "SIGSEGV", "Job killed by signal: SIGSEGV", 2, SITE, ELSEWHERE),
    ErrorEntry(1204, "SIGXCPU", "Job killed by signal: SIGXCPU", 2, SITE, ELSEWHERE),
    ErrorEntry(1205, "USERKILL", "Job killed by user", 2, NOBODY, NEVER),
    ErrorEntry(1206, "SIGUSR1", "Job killed by signal: SIGUSR1", 2, SITE, ELSEWHERE),
    ErrorEntry(1207, "SIGBUS", "Job killed by signal: SIGBUS", 2, SITE, ELSEWHERE),
    ErrorEntry(1208, "SIGINT", "Job killed by signal: SIGINT", 2, SITE, ELSEWHERE),
    ErrorEntry(1211, "MISSINGINSTALLATION", "Missing installation", 5, SITE, ELSEWHERE),
    ErrorEntry(1212, "PAYLOADOUTOFMEMORY", "Payload ran out of memory", 6, USER, MEMORY),
    ErrorEntry(1213, "REACHEDMAXTIME", "Reached batch system time limit", 2, USER, ELSEWHERE),
    ErrorEntry(1220, "UNKNOWNPAYLOADFAILURE", "Job failed due to unknown reason (consult log file)", 8, USER, NEVER),
    ErrorEntry(1221, "FILEEXISTS", "File already exists", 9, STORAGE, SAME),
    ErrorEntry(1223, "BADALLOC", "Transform failed due to bad_alloc", 6, USER, MEMORY),
    ErrorEntry(1224, "ESRECOVERABLE", "Event service: recoverable error", 8, RELEASE, SAME),
    ErrorEntry(1228, "ESFATAL", "Event service: fatal error", 8, RELEASE, NEVER),
    ErrorEntry(1234, "EXECUTEDCLONEJOB", "Clone job is already executed", 8, NOBODY, NEVER),
    ErrorEntry(1235, "PAYLOADEXCEEDMAXMEM", "Payload exceeded maximum allowed memory", 3, USER, MEMORY),
    ErrorEntry(1236, "FAILEDBYSERVER", "Failed by server", 8, NOBODY, NEVER),
    ErrorEntry(1238, "ESNOEVENTS", "Event service: no events", 8, NOBODY, NEVER),
    ErrorEntry(1240, "MESSAGEHANDLINGFAILURE", "Failed to handle message from payload", 8, RELEASE, SAME),
    ErrorEntry(1242, "CHKSUMNOTSUP", "Query checksum is not supported", 4, STORAGE, ELSEWHERE),
    ErrorEntry(1244, "NORELEASEFOUND", "No release candidates found", 5, RELEASE, ELSEWHERE),
    ErrorEntry(1246, "NOUSERTARBALL", "User tarball could not be downloaded from PanDA server", 6, USER, SAME),
    ErrorEntry(1247, "BADXML", "Badly formed XML", 7, RELEASE, NEVER),
    ErrorEntry(1300, "NOTIMPLEMENTED", "The class or function is not implemented", 10, PILOT, NEVER),
    ErrorEntry(1301, "UNKNOWNEXCEPTION", "An unknown pilot exception has occurred", 10, PILOT, ELSEWHERE),
    ErrorEntry(1302, "CONVERSIONFAILURE", "Failed to convert object data", 5, USER, NEVER),
    ErrorEntry(1303, "FILEHANDLINGFAILURE", "Failed during file handling", 9, SITE, ELSEWHERE),
    ErrorEntry(1305, "PAYLOADEXECUTIONFAILURE", "Failed to execute payload", 8, USER, NEVER),
    ErrorEntry(1306, "SINGULARITYGENERALFAILURE", "Singularity/Apptainer: general failure", 5, SITE, ELSEWHERE),
    ErrorEntry(1307, "SINGULARITYNOLOOPDEVICES", "Singularity/Apptainer: No more available loop devices",
               5, SITE, ELSEWHERE),
    ErrorEntry(1308, "SINGULARITYBINDPOINTFAILURE", "Singularity/Apptainer: Not mounting requested bind point",
               5, SITE, ELSEWHERE),
    ErrorEntry(1309, "SINGULARITYIMAGEMOUNTFAILURE", "Singularity/Apptainer: Failed to mount image",
               5, SITE, ELSEWHERE),
    ErrorEntry(1310, "PAYLOADEXECUTIONEXCEPTION", "Exception caught during payload execution", 8, PILOT, ELSEWHERE),
    ErrorEntry(1311, "NOTDEFINED", "Not defined", 8, PILOT, NEVER),
    ErrorEntry(1312, "NOTSAMELENGTH", "Not same length", 8, PILOT, NEVER),
    ErrorEntry(1313, "NOSTORAGEPROTOCOL", "No protocol defined for storage endpoint", 4, SITE, ELSEWHERE),
    ErrorEntry(1314, "UNKNOWNCHECKSUMTYPE", "Unknown checksum type", 4, PILOT, NEVER),
    ErrorEntry(1315, "UNKNOWNTRFFAILURE", "Unknown transform failure", 8, USER, NEVER),
    ErrorEntry(1316, "RUCIOSERVICEUNAVAILABLE", "Rucio: Service unavailable", 4, STORAGE, SAME),
    ErrorEntry(1317, "EXCEEDEDMAXWAITTIME", "Exceeded maximum waiting time", 10, PILOT, ELSEWHERE),
    ErrorEntry(1318, "COMMUNICATIONFAILURE", "Failed to communicate with server", 10, SITE, ELSEWHERE),
    ErrorEntry(1319, "INTERNALPILOTPROBLEM", "An internal Pilot problem has occurred (consult Pilot log)",
               10, PILOT, ELSEWHERE),
    ErrorEntry(1320, "LOGFILECREATIONFAILURE", "Failed during creation of log file", 9, SITE, ELSEWHERE),
    ErrorEntry(1321, "RUCIOLOCATIONFAILED", "Failed to get client location for Rucio", 4, STORAGE, SAME),
    ErrorEntry(1322, "RUCIOLISTREPLICASFAILED", "Failed to get replicas from Rucio", 4, STORAGE, SAME),
    ErrorEntry(1323, "UNKNOWNCOPYTOOL", "Unknown copy tool", 4, SITE, ELSEWHERE),
    ErrorEntry(1324, "SERVICENOTAVAILABLE", "Service not available at the moment", 4, STORAGE, SAME),
    ErrorEntry(1325, "SINGULARITYNOTINSTALLED", "Singularity: not installed", 5, SITE, ELSEWHERE),
    ErrorEntry(1326, "NOREPLICAS", "No matching replicas were found in list_replicas() output", 4, STORAGE, ELSEWHERE),
    ErrorEntry(1327, "UNREACHABLENETWORK", "Unable to stage-in file since network is unreachable", 4, SITE, ELSEWHERE),
    ErrorEntry(1328, "PAYLOADSIGSEGV", "SIGSEGV: Invalid memory reference or a segmentation fault", 6, USER, NEVER),
    ErrorEntry(1329, "NONDETERMINISTICDDM", "Failed to construct SURL for non-deterministic ddm (update CRIC)",
               4, STORAGE, NEVER),
    ErrorEntry(1330, "JSONRETRIEVALTIMEOUT", "JSON retrieval timed out", 8, SITE, ELSEWHERE),
    ErrorEntry(1331, "MISSINGINPUTFILE", "Input file is missing in storage element", 4, STORAGE, ELSEWHERE),
    ErrorEntry(1332, "BLACKHOLE", "Black hole detected in file system (consult Pilot log)", 3, SITE, ELSEWHERE),
    ErrorEntry(1333, "NOREMOTESPACE", "No space left on device", 9, STORAGE, ELSEWHERE),
    ErrorEntry(1334, "SETUPFATAL", "Setup failed with a fatal exception (consult Payload log)", 5, SITE, ELSEWHERE),
    ErrorEntry(1335, "MISSINGUSERCODE", "User code not available on PanDA server (resubmit task with --useNewCode)",
               6, USER, NEVER),
    ErrorEntry(1336, "JOBALREADYRUNNING", "Job is already running elsewhere", 8, NOBODY, NEVER),
    ErrorEntry(1337, "BADMEMORYMONITORJSON", "Memory monitor produced bad output", 10, PILOT, SAME),
    ErrorEntry(1338, "STAGEINAUTHENTICATIONFAILURE", "Authentication failure during stage-in", 4, SITE, ELSEWHERE),
    ErrorEntry(1339, "DBRELEASEFAILURE", "Local DBRelease handling failed (consult Pilot log)", 5, SITE, ELSEWHERE),
    ErrorEntry(
        1340, "SINGULARITYNEWUSERNAMESPACE", "Singularity/Apptainer: Failed invoking the NEWUSER namespace runtime",
        5, SITE, ELSEWHERE),
    ErrorEntry(1341, "BADQUEUECONFIGURATION", "Bad queue configuration detected", 4, SITE, ELSEWHERE),
    ErrorEntry(1342, "MIDDLEWAREIMPORTFAILURE", "Failed to import middleware (consult Pilot log)", 4, SITE, ELSEWHERE),
    ErrorEntry(1343, "NOOUTPUTINJOBREPORT", "Found no output in job report", 7, USER, NEVER),
    ErrorEntry(1344, "RESOURCEUNAVAILABLE", "Resource temporarily unavailable", 10, SITE, SAME),
    ErrorEntry(1345, "SINGULARITYFAILEDUSERNAMESPACE", "Singularity/Apptainer: Failed to create user namespace",
               5, SITE, ELSEWHERE),
    ErrorEntry(1346, "TRANSFORMNOTFOUND", "Transform not found", 5, USER, NEVER),
    ErrorEntry(1347, "UNSUPPORTEDSL5OS", "Unsupported SL5 OS", 6, SITE, ELSEWHERE),
    ErrorEntry(1348, "SINGULARITYRESOURCEUNAVAILABLE", "Singularity/Apptainer: Resource temporarily unavailable",
               5, SITE, SAME),
    ErrorEntry(1349, "UNRECOGNIZEDTRFARGUMENTS", "Unrecognized transform arguments", 6, USER, NEVER),
    ErrorEntry(1350, "EMPTYOUTPUTFILE", "Empty output file detected", 3, USER, NEVER),
    ErrorEntry(1351, "UNRECOGNIZEDTRFSTDERR", "Unrecognized fatal error in transform stderr", 8, USER, NEVER),
    ErrorEntry(1352, "STATFILEPROBLEM", "Failed to stat proc file for CPU consumption calculation", 10, PILOT, SAME),
    ErrorEntry(1353, "NOSUCHPROCESS", "CPU consumption calculation failed: No such process", 10, PILOT, SAME),
    ErrorEntry(1354, "GENERALCPUCALCPROBLEM", "General CPU consumption calculation problem (consult Pilot log)",
               10, PILOT, SAME),
    ErrorEntry(1355, "COREDUMP", "Core dump detected", 6, USER, NEVER),
    ErrorEntry(1356, "PREPROCESSFAILURE", "Pre-process command failed", 6, USER, NEVER),
    ErrorEntry(1357, "POSTPROCESSFAILURE", "Post-process command failed", 6, USER, NEVER),
    ErrorEntry(1358, "MISSINGRELEASEUNPACKED", "Missing release setup in unpacked container", 5, RELEASE, NEVER),
    ErrorEntry(1359, "PANDAQUEUENOTACTIVE", "PanDA queue is not active", 8, SITE, ELSEWHERE),
    ErrorEntry(1360, "IMAGENOTFOUND", "Image not found", 5, USER, ELSEWHERE),
    ErrorEntry(1361, "REMOTEFILECOULDNOTBEOPENED", "Remote file could not be opened", 5, STORAGE, ELSEWHERE),
    ErrorEntry(1362, "XRDCPERROR", "Xrdcp was unable to open file", 4, STORAGE, ELSEWHERE),
    ErrorEntry(1363, "KILLPAYLOAD", "Raythena has decided to kill payload", 8, NOBODY, NEVER),
    ErrorEntry(1364, "MISSINGCREDENTIALS", "Unable to locate credentials for S3 transfer", 4, SITE, ELSEWHERE),
    ErrorEntry(1365, "NOCTYPES", "Python module ctypes not available on worker node", 8, SITE, ELSEWHERE),
    ErrorEntry(1366, "CHECKSUMCALCFAILURE", "Failure during checksum calculation", 4, SITE, ELSEWHERE),
    ErrorEntry(1367, "COMMANDTIMEDOUT", "Command timed out", 5, SITE, ELSEWHERE),
    ErrorEntry(1368, "REMOTEFILEOPENTIMEDOUT", "Remote file open timed out", 5, STORAGE, ELSEWHERE),
    ErrorEntry(1369, "FRONTIER", "Frontier error", 6, SITE, ELSEWHERE),
    ErrorEntry(1370, "VOMSPROXYABOUTTOEXPIRE", "VOMS proxy is about to expire", 3, SITE, ELSEWHERE),
    ErrorEntry(1371, "BADOUTPUTFILENAME", "Output file name contains illegal characters", 7, USER, NEVER),
    ErrorEntry(1372, "APPTAINERNOTINSTALLED", "Apptainer: not installed", 5, SITE, ELSEWHERE),
    ErrorEntry(1373, "CERTIFICATEHASEXPIRED", "Certificate has expired", 3, SITE, ELSEWHERE),
    ErrorEntry(1374, "REMOTEFILEDICTDOESNOTEXIST", "Remote file open dictionary does not exist", 5, PILOT, ELSEWHERE),
    ErrorEntry(1375, "LEASETIME", "Lease time is up", 5, NOBODY, NEVER),
    ErrorEntry(1376, "LOGCREATIONTIMEOUT", "Log file creation timed out", 9, SITE, ELSEWHERE),
    ErrorEntry(1377, "CVMFSISNOTALIVE", "CVMFS is not responding", 5, SITE, ELSEWHERE),
    ErrorEntry(1378, "LSETUPTIMEDOUT", "Lsetup command timed out during remote file open", 5, SITE, ELSEWHERE),
    ErrorEntry(1379, "PREEMPTION", "Job was preempted", 2, NOBODY, SAME),
    ErrorEntry(1380, "ARCPROXYFAILURE", "General arcproxy failure", 8, SITE, ELSEWHERE),
    ErrorEntry(1381, "ARCPROXYLIBFAILURE", "Arcproxy failure while loading shared libraries", 8, SITE, ELSEWHERE),
    ErrorEntry(1382, "PROXYTOOSHORT", "Proxy is too short", 3, SITE, ELSEWHERE),
    ErrorEntry(1383, "STAGEOUTAUTHENTICATIONFAILURE", "Authentication failure during stage-out", 9, SITE, ELSEWHERE),
    ErrorEntry(1384, "QUEUENOTSETUPFORCONTAINERS", "Queue is not set up for containers", 5, SITE, ELSEWHERE),
    ErrorEntry(1385, "NOJOBSINPANDA", "No jobs in PanDA", 8, NOBODY, NEVER),
    ErrorEntry(1386, "PANDAQUEUENOTONLINE", "PanDA queue is not online", 8, SITE, ELSEWHERE),
    # ours; existing pilots do not know them
    ErrorEntry(1387, "FORBIDDENCONNECTION", "Outbound connection not allowed", 3, USER, ELSEWHERE),
    ErrorEntry(1388, "WRONGARCHITECTURE", "Payload was built for another architecture or operating system",
               5, RELEASE, ELSEWHERE),
)

ERROR_TABLE = {entry.code: entry for entry in _TABLE}

# Pilot code -> (shell exit code, text). Range 64-113 is the pilot's own, 128+n belongs to signal n. The order is
# protocol: Harvester's look-up takes the first entry that has the wanted shell code. SIGINT is reported as 1200 but
# exits 130.
_SHELL_TABLE: dict[int, tuple[int, str]] = {
    -1: (64, "Site offline"),
    1377: (64, "CVMFS is not responding"),
    1008: (65, "General pilot error, consult batch log"),
    1199: (66, "Could not create directory"),
    1103: (67, "No such file or directory"),
    1177: (68, "Voms proxy not valid"),
    1163: (68, "Proxy not valid"),
    1373: (68, "Proxy not valid"),
    1098: (69, "No space left on local disk"),
    1301: (70, "Exception caught by pilot"),
    1116: (71, "Pilot could not download queuedata"),
    1117: (72, "Pilot found non-valid queuedata"),
    1186: (73, "Software directory does not exist"),
    1330: (74, "JSON retrieval timed out"),
    1332: (75, "Black hole detected in file system"),
    1342: (76, "Failed to import middleware module"),
    1331: (77, "Missing input file in SE"),
    1359: (78, "PanDA queue is not active"),
    1318: (79, "PanDA server communication failure"),
    1382: (80, "Proxy too short"),
    1213: (81, "Reached maximum time limit"),
    1385: (82, "No jobs in PanDA"),
    1386: (83, "Site offline"),
    1200: (137, "General kill signal"),
    1201: (143, "Job killed by signal: SIGTERM"),
    1202: (131, "Job killed by signal: SIGQUIT"),
    1203: (139, "Job killed by signal: SIGSEGV"),
    1204: (152, "Job killed by signal: SIGXCPU"),
    1206: (138, "Job killed by signal: SIGUSR1"),
    1208: (130, "Job killed by signal: SIGINT"),
    1207: (135, "Job killed by signal: SIGBUS"),
}

# Signal name -> pilot code, for the report (decision 1 of the design). Every other one is 1200, its name in the text.
SIGNAL_CODES = {"SIGTERM": 1201, "SIGQUIT": 1202, "SIGSEGV": 1203, "SIGXCPU": 1204, "SIGUSR1": 1206, "SIGBUS": 1207}

DIAGNOSIS_LIMIT = 256
"""Longest diagnosis in characters (the server would cut at 500)."""


def message_of(code: int) -> str:
    """Return the default text of ``code``, or ``unknown error code: <n>``."""
    entry = ERROR_TABLE.get(code)
    return entry.text if entry else f"unknown error code: {code}"


def format_diagnosis(code: int, detail: str = "", limit: int = DIAGNOSIS_LIMIT) -> str:
    """Return ``<default text>: <detail>``, at most ``limit`` characters, on one line.

    The default text always stands first (server rules match on it) and never twice; when the whole is too long the
    beginning of the detail is cut, because the end of a message usually names the cause.
    """
    prefix = message_of(code) if code in ERROR_TABLE else ""
    detail = " ".join(detail.split())
    if prefix and detail.startswith(prefix):
        detail = detail[len(prefix):].lstrip(" :")
    if not detail:
        return prefix[:limit]
    if not prefix:
        return detail[-limit:]
    room = limit - len(prefix) - 2
    if len(detail) > room:
        detail = "..." + detail[-(room - 3):]
    return f"{prefix}: {detail}"


def shell_exit_code(code: int) -> int:
    """Return the shell exit code for a pilot code: 0 for 0, the table's value, 1 for a code that has no translation."""
    if code == 0:
        return 0
    return _SHELL_TABLE[code][0] if code in _SHELL_TABLE else 1


def process_exit_code(code: int) -> int:
    """Return the exit code of a pilot that ends with ``code``: the shell exit code, 65 for a code without translation.

    Exit 1 means 'wrapper fault' to the submitter: the pilot never chooses it.
    """
    shell = shell_exit_code(code)
    return shell if shell != 1 else shell_exit_code(1008)


def error_code_translation_dictionary() -> dict[int, list[object]]:
    """Return pilot code -> [shell code, text], the form that Harvester copies."""
    return {code: [shell, text] for code, (shell, text) in _SHELL_TABLE.items()}


class ErrorCodes:
    """The codes as named integers: ``ErrorCodes.STAGEINFAILED == 1099``.

    Harvester depends on the class attributes and on ``_error_messages`` (code -> default text).
    """

    _error_messages = {entry.code: entry.text for entry in _TABLE}

    GENERALERROR = 1008
    NOLOCALSPACE = 1098
    STAGEINFAILED = 1099
    REPLICANOTFOUND = 1100
    NOSUCHFILE = 1103
    USERDIRTOOLARGE = 1104
    STDOUTTOOBIG = 1106
    SETUPFAILURE = 1110
    NFSSQLITE = 1115
    QUEUEDATA = 1116
    QUEUEDATANOTOK = 1117
    OUTPUTFILETOOLARGE = 1124
    NOSTORAGE = 1133
    STAGEOUTFAILED = 1137
    PUTMD5MISMATCH = 1141
    CHMODTRF = 1143
    PANDAKILL = 1144
    GETMD5MISMATCH = 1145
    TRFDOWNLOADFAILURE = 1149
    LOOPINGJOB = 1150
    STAGEINTIMEOUT = 1151
    STAGEOUTTIMEOUT = 1152
    NOPROXY = 1163
    MISSINGOUTPUTFILE = 1165
    SIZETOOLARGE = 1168
    GETADMISMATCH = 1171
    PUTADMISMATCH = 1172
    NOVOMSPROXY = 1177
    GETGLOBUSSYSERR = 1180
    PUTGLOBUSSYSERR = 1181
    NOSOFTWAREDIR = 1186
    NOPAYLOADMETADATA = 1187
    LFNTOOLONG = 1190
    ZEROFILESIZE = 1191
    MKDIR = 1199
    KILLSIGNAL = 1200
    SIGTERM = 1201
    SIGQUIT = 1202
    SIGSEGV = 1203
    SIGXCPU = 1204
    USERKILL = 1205
    SIGUSR1 = 1206
    SIGBUS = 1207
    SIGINT = 1208
    MISSINGINSTALLATION = 1211
    PAYLOADOUTOFMEMORY = 1212
    REACHEDMAXTIME = 1213
    UNKNOWNPAYLOADFAILURE = 1220
    FILEEXISTS = 1221
    BADALLOC = 1223
    ESRECOVERABLE = 1224
    ESFATAL = 1228
    EXECUTEDCLONEJOB = 1234
    PAYLOADEXCEEDMAXMEM = 1235
    FAILEDBYSERVER = 1236
    ESNOEVENTS = 1238
    MESSAGEHANDLINGFAILURE = 1240
    CHKSUMNOTSUP = 1242
    NORELEASEFOUND = 1244
    NOUSERTARBALL = 1246
    BADXML = 1247
    NOTIMPLEMENTED = 1300
    UNKNOWNEXCEPTION = 1301
    CONVERSIONFAILURE = 1302
    FILEHANDLINGFAILURE = 1303
    PAYLOADEXECUTIONFAILURE = 1305
    SINGULARITYGENERALFAILURE = 1306
    SINGULARITYNOLOOPDEVICES = 1307
    SINGULARITYBINDPOINTFAILURE = 1308
    SINGULARITYIMAGEMOUNTFAILURE = 1309
    PAYLOADEXECUTIONEXCEPTION = 1310
    NOTDEFINED = 1311
    NOTSAMELENGTH = 1312
    NOSTORAGEPROTOCOL = 1313
    UNKNOWNCHECKSUMTYPE = 1314
    UNKNOWNTRFFAILURE = 1315
    RUCIOSERVICEUNAVAILABLE = 1316
    EXCEEDEDMAXWAITTIME = 1317
    COMMUNICATIONFAILURE = 1318
    INTERNALPILOTPROBLEM = 1319
    LOGFILECREATIONFAILURE = 1320
    RUCIOLOCATIONFAILED = 1321
    RUCIOLISTREPLICASFAILED = 1322
    UNKNOWNCOPYTOOL = 1323
    SERVICENOTAVAILABLE = 1324
    SINGULARITYNOTINSTALLED = 1325
    NOREPLICAS = 1326
    UNREACHABLENETWORK = 1327
    PAYLOADSIGSEGV = 1328
    NONDETERMINISTICDDM = 1329
    JSONRETRIEVALTIMEOUT = 1330
    MISSINGINPUTFILE = 1331
    BLACKHOLE = 1332
    NOREMOTESPACE = 1333
    SETUPFATAL = 1334
    MISSINGUSERCODE = 1335
    JOBALREADYRUNNING = 1336
    BADMEMORYMONITORJSON = 1337
    STAGEINAUTHENTICATIONFAILURE = 1338
    DBRELEASEFAILURE = 1339
    SINGULARITYNEWUSERNAMESPACE = 1340
    BADQUEUECONFIGURATION = 1341
    MIDDLEWAREIMPORTFAILURE = 1342
    NOOUTPUTINJOBREPORT = 1343
    RESOURCEUNAVAILABLE = 1344
    SINGULARITYFAILEDUSERNAMESPACE = 1345
    TRANSFORMNOTFOUND = 1346
    UNSUPPORTEDSL5OS = 1347
    SINGULARITYRESOURCEUNAVAILABLE = 1348
    UNRECOGNIZEDTRFARGUMENTS = 1349
    EMPTYOUTPUTFILE = 1350
    UNRECOGNIZEDTRFSTDERR = 1351
    STATFILEPROBLEM = 1352
    NOSUCHPROCESS = 1353
    GENERALCPUCALCPROBLEM = 1354
    COREDUMP = 1355
    PREPROCESSFAILURE = 1356
    POSTPROCESSFAILURE = 1357
    MISSINGRELEASEUNPACKED = 1358
    PANDAQUEUENOTACTIVE = 1359
    IMAGENOTFOUND = 1360
    REMOTEFILECOULDNOTBEOPENED = 1361
    XRDCPERROR = 1362
    KILLPAYLOAD = 1363
    MISSINGCREDENTIALS = 1364
    NOCTYPES = 1365
    CHECKSUMCALCFAILURE = 1366
    COMMANDTIMEDOUT = 1367
    REMOTEFILEOPENTIMEDOUT = 1368
    FRONTIER = 1369
    VOMSPROXYABOUTTOEXPIRE = 1370
    BADOUTPUTFILENAME = 1371
    APPTAINERNOTINSTALLED = 1372
    CERTIFICATEHASEXPIRED = 1373
    REMOTEFILEDICTDOESNOTEXIST = 1374
    LEASETIME = 1375
    LOGCREATIONTIMEOUT = 1376
    CVMFSISNOTALIVE = 1377
    LSETUPTIMEDOUT = 1378
    PREEMPTION = 1379
    ARCPROXYFAILURE = 1380
    ARCPROXYLIBFAILURE = 1381
    PROXYTOOSHORT = 1382
    STAGEOUTAUTHENTICATIONFAILURE = 1383
    QUEUENOTSETUPFORCONTAINERS = 1384
    NOJOBSINPANDA = 1385
    PANDAQUEUENOTONLINE = 1386
    FORBIDDENCONNECTION = 1387
    WRONGARCHITECTURE = 1388

    RECOVERABLE = (0, 1135, 1136, 1137, 1141, 1152, 1181)

    @classmethod
    def get_error_message(cls, code: int) -> str:
        """Return the default text of ``code``."""
        return message_of(code)

    @classmethod
    def is_recoverable(cls, code: int) -> bool:
        """Return True when another attempt of a user job may help (the published recoverable set)."""
        return code in cls.RECOVERABLE
