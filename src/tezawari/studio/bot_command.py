"""``tezawari bot``: answer the photos that people send to an account on Mastodon."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tezawari.collect.download import Downloader
from tezawari.collect.found import Fetched
from tezawari.collect.limits import Limits
from tezawari.core.errors import UserError, describe_os_error
from tezawari.core.files import write_atomically
from tezawari.studio.bot import MOST_PIXELS, PhotoBot, RateLimit, alt_text, decode_photo, reply_text
from tezawari.studio.safety import is_loopback

log = logging.getLogger(__name__)

SCOPES = "read:accounts read:notifications read:statuses write:media write:statuses"
"""What the access token must allow."""

_PAGE = 40
_MOST_WAITING, _MOST_OF_ONE = 400, 3
_MOST_TRIES = 3
_FIRST_HOURS = 24
_REQUEST_SECONDS = 30.0
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 300.0
_MEDIA_LOOKS, _MEDIA_SECONDS = 20, 1.0
_MOST_TOKEN = 512

_UNREADABLE = {
    False: "Sorry, I could not fetch or read that picture. A JPEG, PNG, GIF, WebP or AVIF photo of at most 40 "
    "megapixels will do.",
    True: "ごめんなさい、その画像を読み込めませんでした。4,000万画素以下の JPEG・PNG・GIF・WebP・AVIF "
    "の写真を送ってください。",
}
_WARNING = {False: "A restyled photo", True: "画風を変換した写真"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``tezawari bot``."""
    parser.description = (
        "Answer the photos that people send to a Mastodon account by mentioning it: what they may show, the kcal of "
        f"dishes, and the photo in a random mix of styles. The access token needs {SCOPES}."
    )
    parser.epilog = "tezawari bot --server https://SERVER --token-file TOKEN   |   … --dry-run --once"
    parser.add_argument("--server", metavar="URL", required=True, help="of the account, like https://mastodon.example")
    parser.add_argument("--token-file", metavar="FILE", type=Path, required=True, help="a file of the access token")
    parser.add_argument(
        "--state",
        metavar="FILE",
        type=Path,
        default=Path("tezawari-bot.json"),
        help="where it remembers what is answered (default: tezawari-bot.json)",
    )
    parser.add_argument(
        "--classifier", metavar="RUN", type=Path, help="of model=material (default: ImageNet's classes)"
    )
    parser.add_argument("--checkpoint", metavar="C", type=Path, help="of the styles (default: the eight paintings)")
    parser.add_argument("--kcal", metavar="FILE", type=Path, help="a table of dishes in place of the package's")
    parser.add_argument(
        "--every", metavar="SECONDS", type=float, default=15.0, help="between looks for mentions (default: 15)"
    )
    parser.add_argument(
        "--user-seconds", metavar="N", type=float, default=60.0, help="between two answers to a user (default: 60)"
    )
    parser.add_argument("--per-hour", metavar="N", type=int, default=60, help="the most answers an hour (default: 60)")
    parser.add_argument("--once", action="store_true", help="answer what is there and may be answered now, and end")
    parser.add_argument("--dry-run", action="store_true", help="print answers instead of posting; remembers nothing")
    parser.add_argument(
        "--allow-private", action="store_true", help="let it fetch photos from this machine and the local network too"
    )


def run(args: argparse.Namespace) -> int:
    """Answer until Ctrl-C, or once.

    Raises:
        UserError: no Mastodon.py, a server that cannot be reached or does not take the token, an argument that makes
            no sense, a network, table or state file that cannot be read, or another bot that uses the state file.
    """
    for option, value in (
        ("--every", args.every),
        ("--user-seconds", args.user_seconds),
        ("--per-hour", args.per_hour),
    ):
        if not value > 0:
            raise UserError(f"{option} {value:g}: must be above 0")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    client = _connect(args.server, _read_token(args.token_file))
    account = str(_first_answer(client, args.server, args.token_file).id)
    bot = PhotoBot.load(args.checkpoint, args.classifier, args.kcal)
    limits = Limits(max_pixels=MOST_PIXELS, min_side=16, allow_private=args.allow_private)
    agent = f"tezawari/{version('tezawari')} (answers photos that people send to it)"
    with contextlib.ExitStack() as stack:
        if not args.dry_run:
            stack.enter_context(_alone(args.state))
        memory = Memory.load(args.state, urlsplit(args.server).netloc, account)
        downloader = stack.enter_context(Downloader(agent, limits))
        adapter = Adapter(
            client,
            bot,
            downloader,
            memory,
            state=None if args.dry_run else args.state,
            user_seconds=args.user_seconds,
            per_hour=args.per_hour,
        )
        if args.once:
            _answer_once(adapter, args.server)
        else:
            print(f"bot: answering on {args.server} (Ctrl-C ends it)", file=sys.stderr, flush=True)
            answer_for_ever(adapter, args.every)
    return 0


@dataclass
class Mention:
    """A mention that waits for its answer: the ids of its post and of its author, and how often it was begun."""

    status: str
    account: str
    tries: int = 0


@dataclass
class Memory:
    """What is remembered between two runs.

    ``server`` and ``account`` it is of; ``newest``: the last mention that was seen, None before the first; ``waiting``:
    those seen and not answered, oldest first; ``users`` and ``all``: when answers were given, see
    :class:`tezawari.studio.bot.RateLimit`.
    """

    server: str
    account: str
    newest: str | None = None
    waiting: list[Mention] = field(default_factory=list)
    users: dict[str, list[float]] = field(default_factory=dict)
    all: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path, server: str, account: str) -> Memory:
        """Read a state file, or begin anew where there is none; raises :class:`UserError` for any other file."""
        if not path.exists():
            return cls(server, account)
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            memory = cls(**{**known, "waiting": [Mention(**each) for each in known["waiting"]]})
            owner = (memory.server, memory.account)
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"--state {path}: not a state of tezawari bot ({type(error).__name__}): name another file, or remove it"
            ) from error
        except OSError as error:
            raise UserError(f"--state {path}: {error.strerror or describe_os_error(error)}") from error
        if owner != (server, account):
            raise UserError(f"--state {path}: of another account, on {owner[0]}: name another file")
        return memory

    def save(self, path: Path) -> None:
        """Write the state file; it is the old or the new one, whatever stops the machine."""
        write_atomically(path, json.dumps(asdict(self), ensure_ascii=False, indent=1).encode())


class TransientError(Exception):
    """The server is busy, down or out of reach: the same may succeed after ``seconds``, where it says how long."""

    def __init__(self, reason: str, seconds: float | None = None) -> None:
        super().__init__(reason)
        self.seconds = seconds


class RefusedError(Exception):
    """The server refuses one request for good, such as one about a post that was deleted."""


class Adapter:
    """Answers the mentions of one account.

    A mention is remembered on disk before the next ones are asked for, and forgotten after its answer was posted. In
    between, a stop of any kind leaves it waiting; the post's own replies then say whether it was answered.

    Args:
        client: a ``mastodon.Mastodon`` that throws at its rate limit.
        bot: makes the answers.
        downloader: fetches the photos.
        memory: is changed, and written to ``state`` after each change.
        state: None for a rehearsal, which prints answers and posts nothing.
        user_seconds: between two answers to one user.
        per_hour: the most answers in any hour.
        pause: waits for seconds.
    """

    def __init__(
        self,
        client: Any,
        bot: PhotoBot,
        downloader: Downloader,
        memory: Memory,
        *,
        state: Path | None,
        user_seconds: float,
        per_hour: int,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.pause = pause
        self._client = client
        self._bot = bot
        self._downloader = downloader
        self._memory = memory
        self._state = state
        self._users = RateLimit(1, user_seconds, memory.users)
        self._all = RateLimit(per_hour, 3600.0, memory.all)

    def look(self) -> None:
        """Take in the mentions since the last look, as many as fit; of one user three at most wait.

        The first look of all takes only those of the last day.
        """
        memory = self._memory
        while len(memory.waiting) <= _MOST_WAITING - _PAGE:
            since = {} if memory.newest is None else {"min_id": memory.newest}
            page = _asked(self._client.notifications, types=["mention"], limit=_PAGE, **since)
            if not page or str(page[0].id) == memory.newest:  # the latter by a server that knows no min_id
                return
            for notification in reversed(page):
                if memory.newest is not None or _is_fresh(notification.status):
                    self._take_in(notification)
            memory.newest = str(page[0].id)
            self._save()

    def answer_all(self) -> None:
        """Answer all waiting mentions whose turn has come.

        Raises:
            TransientError: the server did not do as it was asked; the mention waits behind the others.
        """
        while (mention := self._next()) is not None:
            self._begin(mention)
            try:
                self._answer(mention)
            except TransientError:
                mention.tries -= 1
                self._memory.waiting.append(mention)
                self._save()
                raise
            except RefusedError as refused:
                log.warning("the mention %s is left unanswered: %s", mention.status, refused)
            self._save()

    def _take_in(self, notification: Any) -> None:
        status, account = notification.status, notification.account
        waiting = self._memory.waiting
        if notification.type != "mention" or status is None or account.bot or str(account.id) == self._memory.account:
            return
        if not _pictures(status) or any(mention.status == str(status.id) for mention in waiting):
            return
        if sum(mention.account == str(account.id) for mention in waiting) >= _MOST_OF_ONE:
            log.warning("the mention %s is left unanswered: %d of its author wait already", status.id, _MOST_OF_ONE)
            return
        waiting.append(Mention(str(status.id), str(account.id)))

    def _next(self) -> Mention | None:
        now = time.time()
        if self._all.wait("", now) > 0:
            return None
        return next((each for each in self._memory.waiting if self._users.wait(each.account, now) == 0), None)

    def _begin(self, mention: Mention) -> None:
        # Written before any work on it, so that a photo that ends the process does so a few times only.
        mention.tries += 1
        self._save()

    def _answer(self, mention: Mention) -> None:
        self._memory.waiting.remove(mention)
        if mention.tries > _MOST_TRIES:
            raise RefusedError(f"the bot ended {_MOST_TRIES} times while it answered")
        status = _asked(self._client.status, mention.status)
        pictures = _pictures(status)
        if not pictures or self._has_answered(mention.status):
            return
        japanese = _is_japanese(status)
        text, described, picture = self._made(mention, pictures[0], japanese)
        post = {
            "status": f"@{status.account.acct} {text}",
            "in_reply_to_id": mention.status,
            "visibility": "unlisted" if status.visibility in ("public", "unlisted") else "direct",
            "language": "ja" if japanese else "en",
            "sensitive": bool(status.sensitive),
            # Not the author's own warning: what strangers write is never posted in the bot's name.
            "spoiler_text": _WARNING[japanese] if status.spoiler_text else None,
            "idempotency_key": f"tezawari-{self._memory.account}-{mention.status}",
        }
        if self._state is None:
            print(f"{post['status']}\n[{described or 'no picture'}: {len(picture)} bytes]", flush=True)
        else:
            media = [self._uploaded(picture, described)] if picture else None
            _asked(self._client.status_post, media_ids=media, **post)
            print(f"answered {mention.status}", flush=True)
        self._note(mention)

    def _note(self, mention: Mention) -> None:
        now = time.time()
        self._users.note(mention.account, now)
        self._all.note("", now)
        self._memory.users, self._memory.all = self._users.past, self._all.past

    def _has_answered(self, status: str) -> bool:
        replies = _asked(self._client.status_context, status).descendants
        return any(
            str(reply.in_reply_to_id) == status and str(reply.account.id) == self._memory.account for reply in replies
        )

    def _made(self, mention: Mention, attachment: Any, japanese: bool) -> tuple[str, str, bytes]:
        """Return the text of an answer, and its picture with a description, both empty where there is none."""
        content = self._photo(mention, attachment)
        if content is None:
            return _UNREADABLE[japanese], "", b""
        # A function of the post: whoever asks twice about a stop in between gets the same picture.
        seed = int.from_bytes(hashlib.sha256(mention.status.encode()).digest()[:4], "big")
        try:
            answer = self._bot(decode_photo(content), seed)
        except UserError as error:
            log.warning("the photo of %s: %s", mention.status, error)
            return _UNREADABLE[japanese], "", b""
        return reply_text(answer, japanese), alt_text(answer, japanese), answer.picture

    def _photo(self, mention: Mention, attachment: Any) -> bytes | None:
        # A server's own copy is nearer, the original is there where the copy is not.
        for url in filter(None, (attachment.url, attachment.get("remote_url"))):
            outcome = self._downloader.fetch(url)
            if isinstance(outcome, Fetched):
                return outcome.content
            log.warning("the photo of %s: %s: %s", mention.status, outcome.reason, outcome.detail)
        return None

    def _uploaded(self, picture: bytes, described: str) -> Any:
        media = _asked(
            self._client.media_post, picture, mime_type="image/jpeg", description=described, file_name="restyled.jpg"
        )
        for _ in range(_MEDIA_LOOKS):
            if media.get("url"):
                return media.id
            self.pause(_MEDIA_SECONDS)
            media = _asked(self._client.media, media.id)
        raise TransientError("it is still busy with the picture")

    def _save(self) -> None:
        if self._state is not None:
            self._memory.save(self._state)


def answer_for_ever(adapter: Adapter, every: float) -> None:
    """Look and answer in turn, ``every`` so many seconds; back off, up to five minutes, while the server is in trouble.

    Raises :class:`UserError` where the token is no longer taken.
    """
    failures = 0
    while True:
        try:
            adapter.look()
            adapter.answer_all()
        except TransientError as error:
            seconds = min(_LONGEST_PAUSE, max(error.seconds or 0.0, _FIRST_PAUSE * 2**failures))
            failures = min(failures + 1, 10)
            log.warning("the server: %s; trying again in %.0f s", error, seconds)
        except RefusedError as error:  # of the look itself, which may be a server in the middle of an upgrade
            seconds = _LONGEST_PAUSE
            log.warning("the server: %s; trying again in %.0f s", error, seconds)
        else:
            failures, seconds = 0, every
        adapter.pause(seconds)


def _answer_once(adapter: Adapter, server: str) -> None:
    try:
        adapter.look()
        adapter.answer_all()
    except (TransientError, RefusedError) as error:
        raise UserError(f"--server {server}: {error}; what is unanswered waits: try again later") from error


def _connect(server: str, token: str) -> Any:
    try:
        from mastodon import Mastodon
    except ImportError:
        raise UserError("the bot needs Mastodon.py: pip install 'tezawari[bot]'") from None
    try:
        parts, _ = urlsplit(server), urlsplit(server).port
    except ValueError as error:
        raise UserError(f"--server: not a URL ({error}), like https://mastodon.example") from None
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.username is not None:
        raise UserError(f"--server {parts.hostname or server}: not the URL of a server, like https://mastodon.example")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise UserError(f"--server {server}: without TLS anybody on the way reads the token: write https://")
    return Mastodon(
        api_base_url=server,
        access_token=token,
        ratelimit_method="throw",
        request_timeout=_REQUEST_SECONDS,
        # Not asked of the server: where that fails, the library asks for ever. What is used here is older than this.
        mastodon_version="4.0.0",
        version_check_mode="created",
        user_agent=f"tezawari/{version('tezawari')}",
    )


def _read_token(path: Path) -> str:
    try:
        with path.expanduser().open(encoding="utf-8") as file:
            token = file.read(_MOST_TOKEN + 1).strip()
    except UnicodeDecodeError:
        token = ""
    except OSError as error:
        raise UserError(f"--token-file {path}: {error.strerror or describe_os_error(error)}") from error
    # Checked here: a header that cannot be sent would be shown, token and all, by the error about it.
    if not (0 < len(token) <= _MOST_TOKEN and token.isascii() and token.isprintable() and " " not in token):
        raise UserError(f"--token-file {path}: holds no access token: one line, from Preferences > Development")
    return token


def _first_answer(client: Any, server: str, token_file: Path) -> Any:
    try:
        return _asked(client.account_verify_credentials)
    except UserError as error:
        raise UserError(f"--server {server} --token-file {token_file}: {error}") from error
    except (TransientError, RefusedError) as error:
        raise UserError(f"--server {server}: {error}: check the address, or try again later") from error


def _asked(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call the server, and sort what goes wrong into what waiting mends, what it does not, and a matter of the token.

    No message has more of an error than its status: the library's own quote what was sent and answered.
    """
    from mastodon import MastodonAPIError, MastodonError, MastodonNetworkError, MastodonRatelimitError

    try:
        return call(*args, **kwargs)
    except MastodonRatelimitError as error:
        reset = getattr(call.__self__, "ratelimit_reset", None)  # type: ignore[attr-defined]
        raise TransientError("it asks for fewer requests", reset and reset - time.time()) from error
    except MastodonNetworkError as error:
        raise TransientError("no connection") from error
    except MastodonAPIError as error:
        status = next((value for value in error.args[1:2] if isinstance(value, int)), None)
        if status == 401:
            raise UserError("the token is not taken: make a new one in Preferences > Development") from error
        if status == 403:
            raise UserError(f"the token does not allow it: make one with {SCOPES}") from error
        if status is None or status >= 500:
            raise TransientError("no answer of Mastodon's" if status is None else f"it answers {status}") from error
        raise RefusedError(f"it answers {status}") from error
    except MastodonError as error:
        raise RefusedError(type(error).__name__) from error


def _pictures(status: Any) -> list[Any]:
    return [each for each in status.media_attachments if each.type == "image"]


def _is_fresh(status: Any) -> bool:
    return status is not None and status.created_at > datetime.now(UTC) - timedelta(hours=_FIRST_HOURS)


def _is_japanese(status: Any) -> bool:
    language = status.get("language")
    if language:
        return str(language).lower().startswith("ja")
    return any("\u3041" <= letter <= "\u30ff" for letter in status.content)


@contextlib.contextmanager
def _alone(state: Path) -> Iterator[None]:
    """Hold the lock of a state file; raises :class:`UserError` where another bot has it."""
    try:
        handle = os.open(state.with_name(f".{state.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise UserError(f"--state {state}: {describe_os_error(error)}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise UserError(f"--state {state}: another bot uses it: end that one, or name another file") from None
    try:
        yield
    finally:
        os.close(handle)
