"""Google Cloud Storage as gcp-storage-emulator imitates it: objects are files, no login, no conditions on a write."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

from tests.grid.testbed.packages import environment_of
from tests.grid.testbed.service import Service, free_port, listens


class Gcs(Service):
    """The JSON API on a free port; clients find it by STORAGE_EMULATOR_HOST."""

    name = "gcs"

    def __init__(self, directory: Path, bound: bool = True) -> None:
        super().__init__(directory, bound)
        self.port = 0

    @property
    def env(self) -> Dict[str, str]:
        """What Google's library reads."""
        return self.env_at(self.port)

    @staticmethod
    def env_at(port: int) -> Dict[str, str]:
        """For a door before the service."""
        return {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}"}

    def describe(self) -> Dict[str, str]:
        """The endpoint."""
        return {"endpoint": f"http://127.0.0.1:{self.port} (no login)"}

    def client(self) -> Any:
        """A client of google-cloud-storage."""
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import storage

        options = {"api_endpoint": f"http://127.0.0.1:{self.port}"}
        return storage.Client(project="testbed", credentials=AnonymousCredentials(), client_options=options)

    def _start(self) -> None:
        python = environment_of("gcs")
        self.port = free_port()
        log = self.directory / "gcs.log"
        line = [str(python.parent / "gcp-storage-emulator"), "-d", str(self.directory / "data"), "start"]
        process = self.launch([*line, "-H", "127.0.0.1", "--port", str(self.port)], log)
        self.wait_until(lambda: listens(self.port), process, log)
