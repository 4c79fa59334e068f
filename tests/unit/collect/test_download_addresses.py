"""Which addresses are public, and how URLs and redirects are taken apart."""

from __future__ import annotations

import ipaddress
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tezawari.collect.addresses import is_public, is_url, numeric_addresses, parse_target, redirected
from tezawari.collect.limits import Refusal

# IANA's registries of special-purpose and multicast IPv4 addresses, as prefixes.
SPECIAL = [
    ipaddress.ip_network(prefix)
    for prefix in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24"),
        *("203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
    )
]
# Of 192.0.0.0/24 versions of Python differ about a few anycast addresses; no web server is there.
DISPUTED = ipaddress.ip_network("192.0.0.0/24")


@settings(deadline=None)
@given(st.ip_addresses(v=4))
@example(IPv4Address("8.8.8.8"))
@example(IPv4Address("169.254.169.254"))
@example(IPv4Address("100.127.255.255"))
@example(IPv4Address("172.32.0.0"))
def test_an_ipv4_address_is_public_if_no_registry_sets_it_aside(ip: IPv4Address) -> None:
    if ip not in DISPUTED:
        assert is_public(str(ip)) == (not any(ip in network for network in SPECIAL))


@pytest.mark.parametrize("network", SPECIAL, ids=str)
def test_both_ends_of_a_special_network_are_refused(network: ipaddress.IPv4Network) -> None:
    assert not is_public(str(network[0]))
    assert not is_public(str(network[-1]))


@settings(deadline=None)
@given(st.ip_addresses(v=4))
@example(IPv4Address("127.0.0.1"))
@example(IPv4Address("8.8.8.8"))
def test_an_ipv6_address_is_as_public_as_the_ipv4_one_it_carries(ip: IPv4Address) -> None:
    for carrier in ((0xFFFF << 32) + int(ip), (0x2002 << 112) + (int(ip) << 80), (0x64FF9B << 96) + int(ip)):
        assert is_public(str(IPv6Address(carrier))) == is_public(str(ip))


@pytest.mark.parametrize(
    "address",
    [
        *("::1", "::", "::7f00:1", "::ffff:0:7f00:1", "fe80::1", "fe80::1%lo", "fec0::1", "fc00::1", "fd12::1"),
        *("ff02::1", "2001:db8::1", "2001::7f00:1", "64:ff9b:1::7f00:1", "100::1", "3fff::1", "4000::1", "5f00::1"),
    ],
)
def test_an_ipv6_address_of_no_public_host_is_refused(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["2606:4700:4700::1111", "2a00:1450:4001:81b::200e", "2400:cb00::1"])
def test_an_ipv6_address_of_a_public_host_is_taken(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "0177.0.0.1", "127.1", "0x7f000001", "127.0.0.1"])
def test_odd_spellings_of_numbers_are_read_as_the_system_reads_them(host: str) -> None:
    assert numeric_addresses(host, 80) == ["127.0.0.1"]


def test_a_name_is_no_number() -> None:
    assert numeric_addresses("localhost", 80) == []


@pytest.mark.parametrize(
    ("url", "host", "port", "path"),
    [
        ("http://EXAMPLE.com", "example.com", 80, "/"),
        ("https://example.com/a b?q=ふ#part", "example.com", 443, "/a%20b?q=%E3%81%B5"),
        ("http://手触り.jp:8080/", "xn--" + "手触り".encode("punycode").decode() + ".jp", 8080, "/"),
        ("http://[2001:DB8::1]:81/x", "2001:db8::1", 81, "/x"),
        ("http://127.0.0.1\\@example.com/", "127.0.0.1", 80, "/%5C@example.com/"),
        ("http://example.com/a\r\nHost: b", "example.com", 80, "/a%0D%0AHost:%20b"),
        ("  http://example.com/%e3%81%b5/../a ", "example.com", 80, "/a"),
    ],
)
def test_a_url_is_taken_apart(url: str, host: str, port: int, path: str) -> None:
    target = parse_target(url)
    assert (target.origin.host, target.origin.port, target.path) == (host, port, path)
    assert parse_target(target.url) == target


@settings(deadline=None)
@given(st.text(max_size=80), st.sampled_from(["", "http://", "https://", "http://a/", "file:", "http://[", "//"]))
def test_any_text_is_a_target_or_an_address_refused(text: str, start: str) -> None:
    try:
        target = parse_target(start + text)
    except Refusal as refusal:
        refused = refusal.refused
        assert (refused.reason, refused.detail.isprintable()) == ("address", True)
        return
    assert target.origin.scheme in ("http", "https")
    assert target.origin.host
    assert target.path.startswith("/")
    assert target.path.isascii()
    assert not any(character <= " " or character == "\x7f" for character in target.path + target.origin.host)


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("b.png", "http://h/a/b.png"),
        ("/b.png", "http://h/b.png"),
        ("//other/b", "http://other/b"),
        ("https://other/b", "https://other/b"),
        ("?x=1", "http://h/a/a.png?x=1"),
        ("/手".encode().decode("latin-1"), "http://h/手"),
        ("/\xe9", "http://h/é"),
    ],
)
def test_a_location_is_read_as_browsers_do(location: str, url: str) -> None:
    assert redirected(parse_target("http://h/a/a.png"), location) == url


def test_a_drive_or_a_path_is_no_url() -> None:
    assert [is_url(text) for text in ("C:\\a.png", "/a:b.png", "a.png", "http://a", "data:,", "FILE:/a")] == [
        False,
        False,
        False,
        True,
        True,
        True,
    ]
