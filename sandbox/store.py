"""The SQLite tables of the sandbox. No rules in here."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Union

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
  panda_id INTEGER PRIMARY KEY, site TEXT NOT NULL, label TEXT NOT NULL, state TEXT NOT NULL,
  attempt_nr INTEGER NOT NULL, priority INTEGER NOT NULL, min_ram INTEGER, max_disk INTEGER, max_walltime INTEGER,
  resource_type TEXT, task_id INTEGER, prod_user TEXT, processing_type TEXT,
  backgroundable INTEGER NOT NULL DEFAULT 0, use_secrets INTEGER NOT NULL DEFAULT 0,
  definition TEXT NOT NULL, raw INTEGER NOT NULL DEFAULT 0,
  archived INTEGER NOT NULL DEFAULT 0, by_pilot INTEGER NOT NULL DEFAULT 0,
  debug INTEGER NOT NULL DEFAULT 0, command TEXT, commands TEXT NOT NULL DEFAULT '[]',
  batch_id TEXT, node TEXT, harvester_id TEXT, worker_id TEXT,
  fields TEXT NOT NULL DEFAULT '{}', final TEXT, finals INTEGER NOT NULL DEFAULT 0, meta_data TEXT,
  errors TEXT NOT NULL DEFAULT '{}', files TEXT NOT NULL DEFAULT '{}',
  created REAL NOT NULL, modified REAL NOT NULL, started REAL, ended REAL);
CREATE INDEX IF NOT EXISTS jobs_waiting ON jobs (site, priority DESC, panda_id) WHERE state = 'activated';
CREATE INDEX IF NOT EXISTS jobs_live ON jobs (archived, state);
CREATE TABLE IF NOT EXISTS history (panda_id INTEGER NOT NULL, time REAL NOT NULL, state TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS history_job ON history (panda_id);
CREATE TABLE IF NOT EXISTS updates (
  panda_id INTEGER NOT NULL, time REAL NOT NULL, dialect TEXT NOT NULL, stored INTEGER NOT NULL,
  status_code INTEGER NOT NULL, command TEXT, message TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS updates_job ON updates (panda_id);
CREATE TABLE IF NOT EXISTS workers (
  harvester_id TEXT NOT NULL, worker_id TEXT NOT NULL, status TEXT NOT NULL, node TEXT, time REAL NOT NULL);
CREATE TABLE IF NOT EXISTS nodes (
  site TEXT NOT NULL, host TEXT NOT NULL, gpu INTEGER NOT NULL, description TEXT NOT NULL,
  PRIMARY KEY (site, host, gpu));
CREATE TABLE IF NOT EXISTS events (
  range_id TEXT PRIMARY KEY, panda_id INTEGER NOT NULL, seq INTEGER NOT NULL, segment INTEGER, status TEXT NOT NULL,
  description TEXT NOT NULL, error TEXT, dialog TEXT);
CREATE INDEX IF NOT EXISTS events_job ON events (panda_id, seq);
"""


def open_store(path: Union[str, Path]) -> sqlite3.Connection:
    """Open (and create) the data base; ``:memory:`` or a file. The caller serialises access.

    Loss of the last moments in a power cut is harmless here, so the file is not synchronised: cheap per request.
    """
    connection = sqlite3.connect(str(path), check_same_thread=False, isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=OFF")
    connection.executescript(_SCHEMA)
    return connection
