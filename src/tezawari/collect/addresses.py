"""Which addresses may be asked: http(s) ones of hosts that are on the public internet.

A URL is judged by the numbers its host resolves to, so that every spelling of an address (``2130706433``, ``0x7f.1``,
``[::ffff:127.0.0.1]``, a name that points there) is judged alike, and the connection goes to the very numbers that
were judged (:mod:`tezawari.collect.connections`): a name that changes its mind between two look-ups gains nothing.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple
from urllib.parse import urljoin

from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

from tezawari.collect.limits import Refusal, quoted

Resolver = Callable[[str, int], list[str]]
"""(host, port) → addresses as text, in the order to try; raises OSError where there are none."""

_PORTS = {"http": 80, "https": 443}
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
# What is routed to hosts at all (RFC 4291, IANA's registry); the rest of IPv6 is local, multicast or unassigned.
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# Not public, and not known as such to every version of Python that we run on.
_MORE_PRIVATE = (ipaddress.ip_network("192.88.99.0/24"), ipaddress.ip_network("3fff::/20"))


class Origin(NamedTuple):
    """Whom a request is addressed to: politeness, robots.txt and connections are kept by origin."""

    scheme: str
    host: str
    """ASCII (IDNA), lower case; an IPv6 address without brackets."""
    port: int


class Target(NamedTuple):
    """A URL that was taken apart once, so that what is judged is what is asked."""

    origin: Origin
    path: str
    """With the query; percent-encoded."""
    url: str
    """Normalised, without fragment."""


def is_url(text: str) -> bool:
    """Say whether ``text`` begins with a scheme; ``C:`` is a drive, not a scheme."""
    return _SCHEME.match(text) is not None


def parse_target(url: str) -> Target:
    """Take an http(s) URL apart.

    Raises:
        Refusal: ``address`` for another scheme, a user name or password in the URL (it would be sent to whoever the
            URL names), no host, a host that cannot be a name, or no URL at all.
    """
    try:
        parts = parse_url(url.strip())
    except (LocationParseError, UnicodeError, ValueError) as error:
        raise Refusal("address", f"not a URL: {quoted(url)}") from error
    if parts.scheme not in _PORTS:
        raise Refusal("address", f"only http and https are fetched, not {quoted(url)}")
    if parts.auth is not None:
        raise Refusal("address", "a URL with a user name or password is not fetched")
    if not parts.host:
        raise Refusal("address", f"no host in {quoted(url)}")
    port = _PORTS[parts.scheme] if parts.port is None else parts.port
    origin = Origin(parts.scheme, parts.host.strip("[]"), port)
    return Target(origin, parts.request_uri, parts._replace(fragment=None).url)


def redirected(target: Target, location: str) -> str:
    """Return the URL that a Location header leads to, as HTTP libraries read it: UTF-8 bytes in a Latin-1 field."""
    with contextlib.suppress(UnicodeError):  # then it was Latin-1 indeed, and is percent-encoded as it stands
        location = location.encode("latin-1").decode("utf-8")
    try:
        return urljoin(target.url, location)
    except ValueError as error:
        raise Refusal("address", f"not a URL: {quoted(location)}") from error


def is_public(address: str) -> bool:
    """Say whether an IP address is one of a host on the public internet.

    Private, loopback, link-local, shared (100.64.0.0/10), multicast, reserved, unspecified and documentation addresses
    are not. An IPv6 address that carries an IPv4 one (mapped, 6to4, NAT64) is as public as what it carries; Teredo and
    everything outside of 2000::/3 is not.

    Raises:
        ValueError: not an address.
    """
    ip = _unwrapped(ipaddress.ip_address(address))
    if isinstance(ip, IPv6Address) and ip not in _GLOBAL_UNICAST:
        return False
    if any(ip in network for network in _MORE_PRIVATE if network.version == ip.version):
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


def numeric_addresses(host: str, port: int) -> list[str]:
    """Return the address that ``host`` spells, in any form the system reads as numbers; ``[]`` for a name."""
    try:
        return _addresses(host, port, socket.AI_NUMERICHOST)
    except OSError:
        return []


def look_up(host: str, port: int) -> list[str]:
    """Ask the system's resolver; raises OSError for a host without address."""
    return _addresses(host, port, 0)


def _addresses(host: str, port: int, flags: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _unwrapped(ip: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    if isinstance(ip, IPv4Address):
        return ip
    if ip in _NAT64:
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or ip
