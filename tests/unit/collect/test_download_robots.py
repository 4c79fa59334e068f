"""What robots.txt and X-Robots-Tag forbid, and to whom."""

from __future__ import annotations

import pytest

from tezawari.collect.found import Refused
from tezawari.collect.robots import (
    MAX_ROBOTS_BYTES,
    crawl_delay,
    product_token,
    read_rules,
    refusal_by_rules,
    refusal_by_tag,
)


@pytest.mark.parametrize(
    ("user_agent", "token"),
    [("tezawari/0.1 (a; b)", "tezawari"), ("Tezawari", "tezawari"), (" my-bot 1.0", "my-bot")],
)
def test_the_product_token_is_the_name_without_the_version(user_agent: str, token: str) -> None:
    assert product_token(user_agent) == token


@pytest.mark.parametrize(
    ("robots", "forbidden"),
    [
        ("", False),
        ("User-agent: *\nDisallow: /", True),
        ("User-agent: *\nDisallow:", False),
        ("User-agent: other\nDisallow: /", False),
        ("User-agent: tezawari\nDisallow: /\nUser-agent: *\nDisallow:", True),
        ("User-agent: *\nDisallow: /\n\nUser-agent: tezawari\nDisallow: /private", False),
        ("User-agent: *\nDisallow: /*.png$", True),
        ("User-agent: *\nDisallow: /a\nAllow: /a/b", False),
        ("\ufeffUser-agent: *\nDisallow: /", True),
        ("<!DOCTYPE html><html>Disallow: /</html>", False),
    ],
)
def test_robots_txt_forbids_what_it_says(robots: str, forbidden: bool) -> None:
    rules = read_rules(200, robots.encode())
    assert (refusal_by_rules(rules, "http://h/a/b.png", "tezawari") is not None) == forbidden


@pytest.mark.parametrize(("status", "forbidden"), [(404, False), (403, False), (410, False), (500, True), (503, True)])
def test_without_rules_the_status_decides(status: int, forbidden: bool) -> None:
    rules = read_rules(status, b"User-agent: *\nDisallow: /")
    assert (refusal_by_rules(rules, "http://h/", "tezawari") is not None) == forbidden


def test_no_bytes_make_the_rules_unreadable() -> None:
    for body in (bytes(range(256)) * 9, b"\xff\xfe" * 99, b"Disallow", b":" * 1000, b"\x00\r\n\r"):
        assert not isinstance(read_rules(200, body), Refused)


def test_what_is_past_the_limit_does_not_count() -> None:
    head = b"User-agent: *\n"
    for padding, forbidden in ((MAX_ROBOTS_BYTES, False), (100, True)):
        rules = read_rules(200, head + b"#" * padding + b"\nDisallow: /")
        assert (refusal_by_rules(rules, "http://h/", "tezawari") is not None) == forbidden


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ([], None),
        (["all"], None),
        (["nofollow, noarchive"], None),
        (["noai"], "noai"),
        (["nofollow,NOAI"], "noai"),
        (["noimageai"], "noimageai"),
        (["none"], "none"),
        (["noindex"], "noindex"),
        (["noimageindex"], "noimageindex"),
        (["googlebot: noai"], None),
        (["googlebot: noai, noimageai"], None),
        (["googlebot: all", "noai"], "noai"),
        (["Tezawari: noai"], "noai"),
        (["unavailable_after: 25 Jun 2030 15:00:00 GMT, noai"], "noai"),
        (["max-snippet: 5"], None),
        (["noaidea"], None),
        ([""], None),
    ],
)
def test_the_tag_forbids_what_it_says_to_whom_it_speaks(headers: list[str], said: str | None) -> None:
    refused = refusal_by_tag(headers, "tezawari")
    assert (refused and refused.detail) == (said and f"X-Robots-Tag says {said}")


@pytest.mark.parametrize(
    ("robots", "seconds"),
    [
        ("", 0),
        ("User-agent: *\nCrawl-delay: 2.5", 2.5),
        ("User-agent: other\nCrawl-delay: 9", 0),
        ("User-agent: *\nCrawl-delay: 9\n\nUser-agent: Tezawari\nCrawl-delay: 1", 1),
        ("User-agent: *\nCrawl-delay: 9\n\nUser-agent: tezawari\nDisallow: /private", 0),
        ("User-agent: *\nCrawl-delay: soon", 0),
        ("User-agent: *\nCrawl-delay: -3", 0),
        ("User-agent: *\nCrawl-delay: nan", 0),
        ("User-agent: *\nCrawl-delay: inf", 0),
    ],
)
def test_the_crawl_delay_is_what_is_said_to_this_robot(robots: str, seconds: float) -> None:
    assert crawl_delay(read_rules(200, robots.encode()), "tezawari") == seconds


def test_a_site_that_forbids_all_has_no_crawl_delay() -> None:
    assert crawl_delay(read_rules(500, b""), "tezawari") == 0
