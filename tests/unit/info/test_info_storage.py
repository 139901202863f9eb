from __future__ import annotations

import pytest

from pilot.info.storage import StorageData


def test_fields_of_the_example(endpoints):
    data = StorageData.from_raw("EXAMPLE-T2_DATADISK", endpoints["EXAMPLE-T2_DATADISK"])
    assert (data.name, data.pk, data.type, data.token) == ("EXAMPLE-T2_DATADISK", 301, "DATADISK", "ATLASDATADISK")
    assert data.is_deterministic is True
    assert data.bucket_id is None
    assert not data.is_object_store
    protocols = data.protocols_for(["nothing", "read_lan", "read_wan"])
    assert [item["endpoint"] for item in protocols] == ["root://se.example.org:1094/", "davs://se.example.org:443"]
    assert protocols[0]["path"] == "/atlas/datadisk/rucio/"
    assert protocols[0]["id"] == 92
    assert data.protocols_for(["delete"]) == []


def test_keys_of_an_object_store(endpoints):
    data = StorageData.from_raw("EXAMPLE-T1_ES", endpoints["EXAMPLE-T1_ES"])
    assert data.bucket_id == 9041
    assert data.s3_keys(175) == {"access_key": "Access_Name", "secret_key": "Secret_Name", "is_secure": "True"}
    assert data.s3_keys(176) is None
    assert data.s3_keys(None) is None


def test_keys_belong_to_their_endpoint(endpoints):
    other = {**endpoints["EXAMPLE-T1_ES"], "rprotocols": {"175": {"settings": {"access_key": "A"}}}}
    assert StorageData.from_raw("EXAMPLE-T1_ES", endpoints["EXAMPLE-T1_ES"]).s3_keys(175)
    assert StorageData.from_raw("OTHER", other).s3_keys(175) is None


@pytest.mark.parametrize(
    "raw",
    [{}, {"arprotocols": "no literal", "id": "x"}, {"arprotocols": {"read_lan": None, "w": ["text", {"path": "/x"}]}},
     {"resource": [], "rprotocols": {"1": None}}],
)  # fmt: skip
def test_bad_values_become_defaults(raw):
    data = StorageData.from_raw("X", raw)
    assert data.name == "X"
    assert data.pk == 0
    assert data.protocols_for(["read_lan", "w"]) == []
    assert data.bucket_id is None
    assert data.s3_keys(1) is None


def test_protocol_without_path_or_id():
    raw = {"arprotocols": {"read_lan": [{"endpoint": "file://localhost", "id": None}]}}
    expected = {"endpoint": "file://localhost", "path": "", "flavour": "", "id": 0}
    assert StorageData.from_raw("X", raw).protocols_for(["read_lan"]) == [expected]
