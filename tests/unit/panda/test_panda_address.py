"""The server's address from options, and the choice of a machine behind the CERN alias."""

from __future__ import annotations

import pytest

from pilot.panda.address import CERN_ALIAS, HostChooser, base_url
from pilot.util.backoff import Backoff


@pytest.mark.parametrize(
    ("url", "port", "wanted"),
    [
        ("", 25443, "https://pandaserver.cern.ch:25443"),
        ("host", 25443, "https://host:25443"),
        ("host:1", 25443, "https://host:1"),
        ("http://host", 80, "http://host:80"),
        ("https://host:2/", 1, "https://host:2"),
        ("https://host/prefix/", 5, "https://host:5/prefix"),
        ("[::1]", 25443, "https://[::1]:25443"),
        ("http://[::1]:3", 1, "http://[::1]:3"),
        ("host", 0, "https://host"),
    ],
)
def test_base_url(url: str, port: int, wanted: str) -> None:
    assert base_url(url, port) == wanted


def test_the_setting_may_lack_a_scheme() -> None:
    assert base_url("", 25443, "panda.example:1") == "https://panda.example:1"


def test_only_the_alias_is_spread() -> None:
    def never(ipv4: bool) -> list[str]:
        raise AssertionError("no look-up for other hosts")

    assert HostChooser("https://panda.example:1", never).url() == "https://panda.example:1"


def test_a_machine_is_kept_until_it_fails_and_all_get_their_turn() -> None:
    names = ["a.cern.ch", "b.cern.ch", "c.cern.ch"]
    chooser = HostChooser(f"https://{CERN_ALIAS}:25443", lambda ipv4: names)
    seen = []
    for _ in names:
        first = chooser.url()
        assert chooser.url() == first
        seen.append(first)
        chooser.failed()
    assert sorted(seen) == [f"https://{name}:25443" for name in names]
    assert chooser.url() in seen


def test_a_success_forgives_earlier_failures() -> None:
    chooser = HostChooser(f"https://{CERN_ALIAS}", lambda ipv4: ["a"])
    chooser.url()
    chooser.failed()
    chooser.succeeded()
    assert chooser.url() == "https://a"


def test_without_dns_the_alias_stays() -> None:
    assert HostChooser(f"https://{CERN_ALIAS}:25443", lambda ipv4: []).url() == f"https://{CERN_ALIAS}:25443"


def test_backoff_doubles_up_to_its_cap_with_full_jitter() -> None:
    top = Backoff(1, 60, lambda: 1.0)
    assert [top.next() for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    top.reset()
    assert top.next() == 1
    assert Backoff(1, 60, lambda: 0.0).next() == 0
    endless = Backoff(1, 60)
    assert all(0 <= endless.next() <= 60 for _ in range(2000))
    with pytest.raises(ValueError, match="back-off"):
        Backoff(2, 1)
