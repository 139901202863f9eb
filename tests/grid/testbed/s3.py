"""An object store that speaks S3: moto's server, which keeps everything in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

from tests.grid.testbed.packages import environment_of
from tests.grid.testbed.service import Service, free_port, listens

ACCESS_KEY = "testbed"
SECRET_KEY = "testbed-secret"
REGION = "us-east-1"


class S3(Service):
    """Any key is accepted; buckets are addressed by path."""

    name = "s3"
    access_key = ACCESS_KEY
    secret_key = SECRET_KEY

    def __init__(self, directory: Path, bound: bool = True) -> None:
        super().__init__(directory, bound)
        self.port = 0

    @property
    def endpoint(self) -> str:
        """URL of the service."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def env(self) -> Dict[str, str]:
        """What boto3 reads."""
        return {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_DEFAULT_REGION": REGION,
                "AWS_ENDPOINT_URL": self.endpoint, "S3_ENDPOINT_URL": self.endpoint}

    def describe(self) -> Dict[str, str]:
        """The endpoint and the keys."""
        return {"endpoint": self.endpoint, "keys": f"{ACCESS_KEY} / {SECRET_KEY}"}

    def client(self) -> Any:
        """A boto3 client."""
        import boto3
        from botocore.config import Config

        return boto3.client("s3", endpoint_url=self.endpoint, aws_access_key_id=ACCESS_KEY,
                            aws_secret_access_key=SECRET_KEY, region_name=REGION,
                            config=Config(s3={"addressing_style": "path"}, proxies={}))

    def _start(self) -> None:
        python = environment_of("moto")
        self.port = free_port()
        log = self.directory / "moto.log"
        process = self.launch([str(python.parent / "moto_server"), "-H", "127.0.0.1", "-p", str(self.port)], log)
        self.wait_until(lambda: listens(self.port), process, log)
