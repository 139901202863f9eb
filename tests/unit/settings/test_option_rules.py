"""Pure rules on options: job label, Harvester mode, server URL, workflows, real-time log server."""

from __future__ import annotations

import pytest

from pilot.option_rules import (
    canonical_workflow,
    is_harvester_mode,
    job_label,
    realtime_server,
    server_base_url,
    str2bool,
)
from pilot.options import Options
from pilot.settings import default_settings


@pytest.mark.parametrize(("tag", "label", "status", "expected"), [
    ("RC", "rc_test2", "online", "rc_test2"),
    ("RC", "rc_test2", "test", "rc_test2"),
    ("RC", "ptest", "online", "ptest"),
    ("RC", "managed", "online", "managed"),
    ("RC", "managed", "test", "test"),
    ("RCM", "ptest", "test", "rcm_test2"),
    ("RCM", "managed", "online", "managed"),
    ("ALRB", "managed", "test", "rc_alrb"),
    ("ALRB", "ptest", "online", "rc_alrb"),
    ("PR", "managed", "test", "test"),
    ("PR", "ptest", "test", "ptest"),
    ("PR", "self", "online", "self"),
    ("PR", "managed", "TEST", "managed"),
])
def test_job_label(tag, label, status, expected):
    assert job_label(Options(version_tag=tag, job_label=label), status) == expected


@pytest.mark.parametrize(("values", "environ", "expected"), [
    ({}, {}, False),
    ({"update_server": False}, {}, False),
    ({"harvester_workdir": "/d"}, {}, False),
    ({"harvester_workdir": "/d", "update_server": False}, {}, True),
    ({"harvester_datadir": "/d", "update_server": False}, {}, True),
    ({"harvester_eventstatusdump": "f", "update_server": False}, {}, True),
    ({"harvester_workerattributes": "f", "update_server": False}, {}, True),
    ({}, {"HARVESTER_ID": "h", "HARVESTER_WORKER_ID": "1"}, False),
    ({"harvester_submitmode": "PUSH"}, {}, False),
    ({"harvester_submitmode": "PUSH"}, {"HARVESTER_ID": ""}, True),
    ({"harvester_submitmode": "push"}, {"HARVESTER_WORKER_ID": "1"}, True),
])
def test_harvester_mode(values, environ, expected):
    assert is_harvester_mode(Options(**values), environ) is expected


@pytest.mark.parametrize(("url", "port", "expected"), [
    ("https://pandaserver.cern.ch", 25443, "https://pandaserver.cern.ch:25443"),
    ("https://pandaserver.cern.ch:25443", 443, "https://pandaserver.cern.ch:25443"),
    ("pandaserver.cern.ch", 25443, "https://pandaserver.cern.ch:25443"),
    ("pandaserver.cern.ch:25080", 25443, "https://pandaserver.cern.ch:25080"),
    ("http://localhost", 8080, "http://localhost:8080"),
    ("HTTP://localhost/", 8080, "http://localhost:8080"),
    ("https://host/panda/prefix/", 443, "https://host:443/panda/prefix"),
    ("host/panda", 443, "https://host:443/panda"),
    ("https://host:1/a:2", 443, "https://host:1/a:2"),
    ("https://[2001:db8::1]", 443, "https://[2001:db8::1]:443"),
    ("https://[2001:db8::1]:8443/x", 443, "https://[2001:db8::1]:8443/x"),
    ("2001:db8::1", 443, "https://[2001:db8::1]:443"),
    ("http://user@host", 80, "http://user@host:80"),
    (" https://host: ", 443, "https://host:443"),
])
def test_server_url_is_composed_from_url_and_port(url, port, expected):
    assert server_base_url(Options(url=url, port=port), default_settings()) == expected


@pytest.mark.parametrize(("setting", "expected"), [
    ("https://pandaserver.cern.ch:25443", "https://pandaserver.cern.ch:25443"),
    ("panda.example.org:25443", "https://panda.example.org:25443"),
    ("http://panda.example.org", "http://panda.example.org"),
])
def test_server_url_without_option_is_the_setting_as_it_is(setting, expected):
    assert server_base_url(Options(port=1), default_settings(**{"pilot.pandaserver": setting})) == expected


@pytest.mark.parametrize(("name", "expected"), [
    ("generic", "generic"), ("generic_hpc", "generic_hpc"), ("production", "generic"), ("production_hpc", "generic"),
    ("analysis", "generic"), ("analysis_hpc", "generic"), ("eventservice_hpc", "eventservice_hpc"),
    ("stager", "stager"), ("stagein", "stager"),
])
def test_workflow_aliases(name, expected):
    assert canonical_workflow(name) == expected


@pytest.mark.parametrize("text", ["yes", "TRUE", "t", "Y", "1", " true "])
def test_true_words(text):
    assert str2bool(text) is True


@pytest.mark.parametrize("text", ["no", "False", "F", "n", "0"])
def test_false_words(text):
    assert str2bool(text) is False


@pytest.mark.parametrize("text", [
    "logserver=logstash;https://h.org:8443", "logserver='logstash;https://h.org:8443'", "logstash;https://h.org:8443",
])
def test_realtime_server_forms(text):
    assert realtime_server(text) == ("logstash", "https", "h.org", 8443)


def test_realtime_server_short_form_and_refusals():
    assert str(realtime_server("google-cloud-logging:h.org:80")) == "google-cloud-logging;http://h.org:80"
    assert realtime_server("") is None
    for bad in ("h.org", "logstash;h.org:1", "logstash:h.org:port", "a;b://c"):
        with pytest.raises(ValueError, match="neither"):
            realtime_server(bad)
