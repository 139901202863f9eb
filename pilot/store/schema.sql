-- The PilotDB. Times are epoch seconds (UTC); JSON columns hold text. Secrets are never stored.
CREATE TABLE IF NOT EXISTS pilot (
    token     TEXT PRIMARY KEY,          -- random name of this pilot process; also marks its payloads' environment
    pid       INTEGER NOT NULL,
    host      TEXT NOT NULL,
    boot_id   TEXT NOT NULL,
    version   TEXT NOT NULL,
    queue     TEXT NOT NULL DEFAULT '',
    base_url  TEXT NOT NULL DEFAULT '',  -- PanDA server
    started   REAL NOT NULL,
    ended     REAL,
    exit_code INTEGER
);
CREATE TABLE IF NOT EXISTS facts (       -- of this pilot, for people
    name TEXT PRIMARY KEY, value TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS jobs (
    job_id    TEXT PRIMARY KEY,
    attempt   INTEGER NOT NULL DEFAULT 0,
    token     TEXT NOT NULL,             -- the pilot that took it
    granted   REAL NOT NULL,
    state     TEXT NOT NULL,             -- stage of the life cycle
    workdir   TEXT NOT NULL DEFAULT '',
    definition TEXT NOT NULL DEFAULT '', -- as dispatched, without secrets
    skeleton  TEXT NOT NULL DEFAULT '',  -- latest update message: what a report made by a later process starts from
    transformation TEXT NOT NULL DEFAULT '',
    exit_code INTEGER,
    timing    TEXT NOT NULL DEFAULT '',
    ended     REAL
);
CREATE TABLE IF NOT EXISTS transitions (
    job_id TEXT NOT NULL, at REAL NOT NULL, event TEXT NOT NULL, state TEXT NOT NULL, detail TEXT NOT NULL DEFAULT ''
);
CREATE TABLE IF NOT EXISTS errors (
    job_id TEXT NOT NULL, at REAL NOT NULL, code INTEGER NOT NULL, diagnosis TEXT NOT NULL,
    who TEXT NOT NULL DEFAULT '',        -- must act
    retry TEXT NOT NULL DEFAULT '',      -- advice
    evidence TEXT NOT NULL DEFAULT '',   -- the rule and what it saw
    rank INTEGER                         -- overrides that of the code's table
);
CREATE TABLE IF NOT EXISTS transfers (
    job_id TEXT NOT NULL, lfn TEXT NOT NULL, direction TEXT NOT NULL, tool TEXT NOT NULL DEFAULT '',
    at REAL NOT NULL, seconds REAL NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0,
    status TEXT NOT NULL, code INTEGER NOT NULL DEFAULT 0, detail TEXT NOT NULL DEFAULT '', checksum TEXT NOT NULL DEFAULT '',
    transfer_id TEXT NOT NULL DEFAULT '' -- joins log, trace and report
);
CREATE TABLE IF NOT EXISTS progress (    -- copies that run for some seconds already; no row = none
    job_id TEXT NOT NULL, direction TEXT NOT NULL, lfn TEXT NOT NULL, tool TEXT NOT NULL, began REAL NOT NULL,
    at REAL NOT NULL, bytes INTEGER NOT NULL,    -- moved until then; 0 = its tool does not tell
    total INTEGER NOT NULL               -- 0 = not known
);
CREATE TABLE IF NOT EXISTS samples (
    job_id TEXT NOT NULL, at REAL NOT NULL, cpu REAL NOT NULL, cores REAL NOT NULL, rss INTEGER NOT NULL,
    processes INTEGER NOT NULL,
    pss INTEGER NOT NULL DEFAULT 0,      -- bytes, as rss; 0 = unknown
    swap INTEGER NOT NULL DEFAULT 0,
    read_bytes INTEGER NOT NULL DEFAULT 0,   -- from the payload's start
    write_bytes INTEGER NOT NULL DEFAULT 0,
    workdir INTEGER NOT NULL DEFAULT 0   -- bytes in the job's directory
);
CREATE TABLE IF NOT EXISTS limits (
    job_id TEXT NOT NULL, name TEXT NOT NULL, value REAL NOT NULL, unit TEXT NOT NULL, origin TEXT NOT NULL,
    PRIMARY KEY (job_id, name)
);
CREATE TABLE IF NOT EXISTS notes (       -- what checks have to say beside errors: what cannot be measured, breaches
    job_id TEXT NOT NULL, at REAL NOT NULL, topic TEXT NOT NULL, text TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS outbox (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id    TEXT NOT NULL,
    final     INTEGER NOT NULL,          -- 1: a final report, never superseded
    state     TEXT NOT NULL,             -- server state in the message
    message   TEXT NOT NULL,             -- JSON, field names of the legacy dialect
    created   REAL NOT NULL,
    attempts  INTEGER NOT NULL DEFAULT 0,
    last_error TEXT NOT NULL DEFAULT '',
    delivered REAL,
    refused   INTEGER NOT NULL DEFAULT 0 -- 1: the server called it invalid; kept, not repeated
);
CREATE INDEX IF NOT EXISTS outbox_open ON outbox (delivered, refused, job_id);
CREATE TABLE IF NOT EXISTS traces (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id    TEXT NOT NULL,
    transfer_id TEXT NOT NULL,
    created   REAL NOT NULL,
    trace     TEXT NOT NULL,             -- JSON; '' once nothing is to be done any more
    attempts  INTEGER NOT NULL DEFAULT 0,
    last_error TEXT NOT NULL DEFAULT '',
    sent      REAL,                      -- the trace server has it
    done      REAL                       -- sent, or dropped (then last_error says why)
);
CREATE INDEX IF NOT EXISTS traces_open ON traces (attempts, id) WHERE done IS NULL;
CREATE TABLE IF NOT EXISTS status (
    component TEXT PRIMARY KEY, at REAL NOT NULL, line TEXT NOT NULL
);
