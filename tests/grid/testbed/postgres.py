"""PostgreSQL for the Rucio server: SQLite loses most uploads when eight clients write at once."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Dict, List

from tests.grid.testbed.service import Service, as_user, free_port, needs, own

USER = "postgres"
# Nothing has to survive a power cut here.
_SETTINGS = """port = {port}
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = off
synchronous_commit = off
full_page_writes = off
max_connections = 60
shared_buffers = 64MB
shared_preload_libraries = ''
"""


class Postgres(Service):
    """A cluster of its own with the database ``rucio`` of the user ``rucio``."""

    name = "postgres"

    def __init__(self, directory: Path, bound: bool = True) -> None:
        super().__init__(directory, bound)
        self.port = 0

    @property
    def url(self) -> str:
        """For SQLAlchemy."""
        return f"postgresql+psycopg://rucio:rucio@127.0.0.1:{self.port}/rucio"

    def describe(self) -> Dict[str, str]:
        """How to look into the database."""
        return {"database": f"psql -h 127.0.0.1 -p {self.port} -U rucio rucio"}

    def sql(self, statement: str, user: str = "rucio", database: str = "rucio") -> str:
        """Run a statement and return what it prints, unaligned."""
        return self.run([*self._psql(user, database), "-c", statement], cwd=Path("/")).strip()

    def _psql(self, user: str, database: str) -> List[str]:
        return [self._program("psql"), "-X", "-qAt", "-h", "127.0.0.1", "-p", str(self.port), "-U", user, database]

    @staticmethod
    def _program(name: str) -> str:
        versions = Path("/usr/lib/postgresql").glob("*/bin")  # Debian keeps the server's programs out of PATH
        return needs(name, *map(str, sorted(versions, reverse=True)))

    def _start(self) -> None:
        self.port = free_port()
        server = self._program("postgres")
        data = own(self.directory / "data", USER, 0o700)
        if not (data / "PG_VERSION").exists():
            self.run(as_user(USER, [self._program("initdb"), "-D", str(data), "-A", "trust", "-U", USER, "-N",
                                    "-E", "UTF8", "--locale=C.UTF-8"]), cwd=Path("/"))
        (data / "postgresql.auto.conf").write_text(_SETTINGS.format(port=self.port), encoding="ascii")
        log = self.directory / "postgres.log"
        # TERM would wait for the clients to go; INT rolls them back.
        process = self.launch(as_user(USER, [server, "-D", str(data)]), log, cwd=Path("/"), death=signal.SIGINT)
        self.wait_until(self._answers, process, log)
        if not self.sql("select 1 from pg_roles where rolname = 'rucio'", USER, "postgres"):
            self.sql("create role rucio login password 'rucio'", USER, "postgres")
            self.sql("create database rucio owner rucio", USER, "postgres")

    def _answers(self) -> bool:
        done = subprocess.run([*self._psql(USER, "postgres"), "-c", "select 1"], stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=30, env=dict(os.environ))
        return done.returncode == 0

    def stop(self) -> None:
        """End the server without waiting for its clients."""
        while self.processes:
            self.end(self.processes.pop(), signal.SIGINT)
