"""Whole pilots with an object store: inputs, outputs and log, keys from the server, loose logs."""

from __future__ import annotations

import json
import uuid
import zlib
from pathlib import Path
from typing import Any, Dict, Tuple

import pytest

from tests.grid.testbed.s3 import ACCESS_KEY, S3, SECRET_KEY
from tests.integration.harness import QUEUE, Farm

SECRET = "a-secret-key-of-the-server"


class Shop:
    """A queue whose storage is a bucket of its own."""

    def __init__(self, farm: Farm, store: S3, directory: Path) -> None:
        self.farm, self.store, self.client = farm, store, store.client()
        self.bucket = f"jobs-{uuid.uuid4().hex[:12]}"
        self.client.create_bucket(Bucket=self.bucket)
        self.storages = directory / "ddm.json"

    def open(self, tool: str, **row: Any) -> None:
        """Describe the endpoint and the queue."""
        protocol = {"endpoint": f"s3://127.0.0.1:{self.store.port}", "path": f"/{self.bucket}/data/", "flavour": "S3",
                    "id": 7}
        ways = {f"{way}_{net}": [protocol] for way in ("read", "write") for net in ("lan", "wan")}
        endpoint = {"name": "STORE", "id": 1, "state": "ACTIVE", "type": "DATADISK", "is_deterministic": True,
                    "site": "LOCAL", "arprotocols": ways}
        self.storages.write_text(json.dumps({"STORE": {**endpoint, **row}}))
        self.farm.set_queue(copytools={tool: {"is_secure": "False"}}, acopytools={"default": [tool]},
                            astorages={"read_lan": ["STORE"], "write_lan": ["STORE"]})

    def run(self, payload: str, env: Dict[str, str], **fields: Any) -> Tuple[Dict[str, Any], str]:
        """Run a job to its end; returns the final report and the pilot's output."""
        content = b"some input\n" * 1000
        key = f"data/test/{self._hashed('test', 'in.root')}/in.root"
        if fields.pop("own_path", False):
            key = f"data/{QUEUE}/test.in/in.root"
        self.client.put_object(Bucket=self.bucket, Key=key, Body=content)
        job = self.farm.submit_job(
            payload, inputs={"in.root": content}, outputs=["out.root"], ddmEndPointIn="STORE",
            ddmEndPointOut="STORE,STORE", **fields,
        )
        (self.farm.inputs / "in.root").unlink()
        pilot = self.farm.run_pilot("--storagedata-url", str(self.storages), files=False, env=env)
        self.job = job
        return self.farm.final(job), pilot.output

    @staticmethod
    def _hashed(scope: str, name: str) -> str:
        from hashlib import md5

        digest = md5(f"{scope}:{name}".encode()).hexdigest()
        return f"{digest[:2]}/{digest[2:4]}"

    def objects(self) -> Dict[str, bytes]:
        """Everything in the bucket."""
        found = self.client.list_objects_v2(Bucket=self.bucket).get("Contents", [])
        keys = [row["Key"] for row in found]
        return {key: self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read() for key in keys}


@pytest.fixture
def shop(farm: Farm, s3: S3, tmp_path: Path) -> Shop:
    return Shop(farm, s3, tmp_path)


def keys_of(store: S3) -> Dict[str, str]:
    return {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}


def test_a_job_reads_and_writes_objects(shop: Shop) -> None:
    shop.open("s3")
    final, output = shop.run("cp in.root out.root; echo more >> out.root", keys_of(shop.store))
    assert final["state"] == "finished", (final["pilotErrorDiag"], output[-3000:])
    stored = b"some input\n" * 1000 + b"more\n"
    entry = json.loads(final["xml"])["out.root"]
    assert (entry["fsize"], entry["adler32"]) == (len(stored), f"{zlib.adler32(stored):08x}")
    prefix = f"s3://127.0.0.1:{shop.store.port}/{shop.bucket}/"
    objects = shop.objects()
    assert objects[entry["surl"][len(prefix):]] == stored
    assert len(objects) == 3, "input, output, log"


def test_a_job_gets_the_keys_of_its_object_store_from_the_server(shop: Shop) -> None:
    settings = {"access_key": "pub-name", "secret_key": "priv-name", "is_secure": "False"}
    shop.open("s3", type="OS_ES", is_deterministic=False, rprotocols={"7": {"settings": settings}})
    shop.farm.server.creds.flags["Robot Pilot"] = "k"
    shop.farm.server.creds.key_pairs["pub-name", "priv-name"] = (ACCESS_KEY, SECRET)
    final, output = shop.run("cp in.root out.root", {"AWS_EC2_METADATA_DISABLED": "true"}, own_path=True,
                             realDatasets="out.#{pandaid},log.ds")
    assert final["state"] == "finished", (final["pilotErrorDiag"], output[-3000:])
    objects = shop.objects()
    assert objects[f"data/{QUEUE}/out.{shop.job}/out.root"] == b"some input\n" * 1000
    assert SECRET not in output
    for path in shop.farm.directory.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert SECRET.encode() not in path.read_bytes(), f"the key stands in {path}"
    assert not any(SECRET.encode() in content for content in objects.values())


def test_without_keys_the_job_says_so(shop: Shop) -> None:
    shop.open("s3")
    final, _ = shop.run("true", {"AWS_EC2_METADATA_DISABLED": "true"})
    assert (final["state"], final["pilotErrorCode"]) == ("failed", 1364)


def test_the_log_may_go_as_loose_files_that_the_monitor_links(shop: Shop) -> None:
    shop.open("s3", type="OS_LOGS", is_deterministic=False)
    environ = {**keys_of(shop.store), "PANDA_PILOT_COPY_OUT_EXTEND": "1"}
    final, output = shop.run("cp in.root out.root; echo hello", environ, own_path=True, logFile="x.log.tgz",
                             outFiles="out.root,x.log.tgz")
    assert final["state"] == "finished", (final["pilotErrorDiag"], output[-3000:])
    objects = shop.objects()
    directory = f"data/{QUEUE}/test.ds"
    assert b"hello\n" in objects[f"{directory}/payload.stdout"]
    assert f"{directory}/pilotlog.txt" in objects and f"{directory}/x.log.tgz" not in objects
    link = f"{shop.store.endpoint}/{shop.bucket}/{directory}/pilotlog.txt"
    assert final["pilotID"].partition("|")[0] == link
