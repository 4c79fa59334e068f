"""The photo bot: what it makes of a photo, its route in the studio, and its account on a local Mastodon."""

from __future__ import annotations

import io
import json
import logging
import random
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image
from tests.hostile.pictures import encoded, png_bomb
from tests.unit.studio.fake_mastodon import TOKEN, FakeMastodon, serving

from tezawari import cli
from tezawari.collect.download import Downloader
from tezawari.collect.limits import Limits
from tezawari.core.errors import UserError
from tezawari.core.package_photos import package_photo
from tezawari.recognition.classifier import MaterialClassifier
from tezawari.recognition.package import save_classifier
from tezawari.studio import bot_command
from tezawari.studio.bot import (
    BotAnswer,
    Dish,
    PhotoBot,
    RateLimit,
    Recogniser,
    SeenClass,
    alt_text,
    decode_photo,
    imagenet_recogniser,
    read_kcal,
    reply_text,
)
from tezawari.studio.bot_command import Adapter, Memory, TransientError, answer_for_ever
from tezawari.studio.job_work import Settings, open_work
from tezawari.studio.state import Studio
from tezawari.style.stylize import Stylizer

pytestmark = pytest.mark.usefixtures("one_thread")

PHOTO = encoded("JPEG", (64, 48))


# --- the method -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def imagenet() -> Recogniser:
    return imagenet_recogniser()


@pytest.fixture(scope="module")
def stylizer() -> Stylizer:
    return Stylizer.load()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of model=material with three classes, which has learnt nothing."""
    network = MaterialClassifier("efficientnet_lite0", 3, "random", "block1")
    folder = tmp_path_factory.mktemp("run")
    save_classifier(folder / "material.safetensors", network, ["wood", "pizza", "stone"], 32, {})
    return folder


def test_a_cup_of_coffee_is_seen_and_restyled(imagenet: Recogniser, stylizer: Stylizer) -> None:
    bot = PhotoBot(imagenet, stylizer, read_kcal())
    photo = decode_photo(package_photo("coffee").read_bytes())[:, ::2, ::2]
    answer = bot(photo, seed=0)
    assert answer.classes[0].name == "espresso"
    assert answer.classes[0].dish == Dish(3, 30, "エスプレッソ")
    assert "cup" in [seen.name for seen in answer.classes]
    values = [seen.probability for seen in answer.classes]
    assert len(values) == 5
    assert values == sorted(values, reverse=True)
    assert 0 < sum(values) <= 1 + 1e-5
    assert sum(answer.mix.values()) == pytest.approx(1, abs=1e-5)
    picture = Image.open(io.BytesIO(answer.picture))
    assert (picture.format, picture.size) == ("JPEG", (answer.width, answer.height))
    assert picture.size == (photo.shape[2], photo.shape[1])
    assert not picture.getexif()


def test_the_picture_is_a_function_of_the_seed(stylizer: Stylizer) -> None:
    bot = PhotoBot(_pizza_everywhere(), stylizer, {})
    photo = decode_photo(PHOTO)
    assert bot(photo, 1).picture == bot(photo, 1).picture
    assert bot(photo, 1).picture != bot(photo, 2).picture


def test_a_trained_classifier_answers_with_its_own_classes(run: Path) -> None:
    answer = PhotoBot.load(classifier=run)(decode_photo(PHOTO), 0)
    assert sorted(seen.name for seen in answer.classes) == ["pizza", "stone", "wood"]
    assert sum(seen.probability for seen in answer.classes) == pytest.approx(1, abs=1e-5)
    assert [seen.dish is not None for seen in answer.classes] == [seen.name == "pizza" for seen in answer.classes]


def test_the_table_of_the_package_names_classes_of_imagenet(imagenet: Recogniser) -> None:
    dishes = read_kcal()
    assert len(dishes) > 40
    assert dishes.keys() <= set(imagenet.class_names)
    for name, dish in dishes.items():
        assert dish.japanese, name
        assert dish.kcal / dish.grams < 9.1, name  # pure fat has nine


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (b"# mine\npizza\t530\n", "line 2: 2 fields"),
        (b"pizza 530 200\n", "line 1: 1 fields"),
        (b"pizza\tmany\t200\n", "kcal 'many' is not a whole number"),
        (b"pizza\t530\t0\n", "grams '0' is not a whole number"),
        ("pizza\t530\t２\n".encode(), "grams '２' is not"),
        (b"pizza\t530\t200\npizza\t1\t1\n", "line 2: pizza has a row already"),
        (b"piza\t530\t200\n", "no class 'piza' (did you mean pizza?)"),
        (b"pizza\t530\t\xff\n", "not a text file in UTF-8"),
    ],
)
def test_a_bad_row_is_one_clear_line(tmp_path: Path, rows: bytes, said: str) -> None:
    table = tmp_path / "mine.tsv"
    table.write_bytes(rows)
    with pytest.raises(UserError) as error:
        read_kcal(table, ["pizza", "wood"])
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert str(table) in str(error.value)


def test_a_table_of_ones_own_replaces_the_package_s(tmp_path: Path) -> None:
    table = tmp_path / "mine.tsv"
    table.write_text("\ufeff# mine\r\n\r\nsun dried\t5\t7\t\r\npizza\t1\t2\tピザ\n", encoding="utf-8")
    assert read_kcal(table) == {"sun dried": Dish(5, 7, ""), "pizza": Dish(1, 2, "ピザ")}
    with pytest.raises(UserError, match="No such file"):
        read_kcal(tmp_path / "none.tsv")


def test_texts_fit_in_a_post_and_speak_the_language() -> None:
    long = SeenClass("x" * 200, 1.0, Dish(9999, 9999, "あ" * 200))
    worst = BotAnswer([long] * 5, {f"{'y' * 100}{n}": 1.0 for n in range(9)}, b"", 1, 1)
    answer = BotAnswer([SeenClass("pizza", 0.87, Dish(530, 200, "ピザ"))], {"the_scream": 1.0}, b"", 1, 1)
    for japanese in (False, True):
        assert len(reply_text(worst, japanese)) <= 450
        assert len(alt_text(worst, japanese)) <= 1500
    assert "1. pizza 87 % (≈530 kcal in 200 g)" in reply_text(answer, False)
    assert "1. ピザ 87 %（200 g 約530 kcal）" in reply_text(answer, True)
    assert "the scream" in alt_text(answer, False)


def test_no_window_of_time_ever_holds_more_than_its_limit() -> None:
    draw = random.Random(0)
    limit, now, taken = RateLimit(3, 10.0), 1000.0, []
    for _ in range(400):
        now += draw.expovariate(1.0)
        wait = limit.wait("a", now)
        inside = [time for time in taken if time > now - 10]
        assert (wait == 0) == (len(inside) < 3)
        if wait:
            assert limit.wait("a", now + wait) == 0
            assert limit.wait("a", now + wait - 0.01) > 0
        else:
            limit.note("a", now)
            taken.append(now)
        assert limit.wait("b", now) == 0
    assert len(limit.past["a"]) <= 3
    assert RateLimit(3, 10.0, limit.past).wait("a", now) == limit.wait("a", now)
    assert 0 < limit.wait("a", taken[0] - 5000) <= 10  # the clock was set back


# --- the studio's route -----------------------------------------------------------------------------------------------


def test_the_job_names_classes_and_leaves_a_picture(tmp_path: Path, studio: Studio) -> None:
    stored = studio.uploads.add_photo(PHOTO)
    work = open_work(Settings(studio.settings.store))
    made = work("bot", {"photo": stored.id, "seed": 5}, tmp_path / "job", lambda *_: None)
    assert json.loads(json.dumps(made)) == made
    assert [set(each) for each in made["classes"]] == [{"name", "probability", "kcal", "grams"}] * 5
    with Image.open(tmp_path / "job" / made["files"][0]) as picture:
        assert picture.size == (made["width"], made["height"]) == (64, 48)


def test_a_photo_that_is_sent_becomes_a_job(client: TestClient) -> None:
    answer = client.post("/api/bot", params={"wait": 0}, content=PHOTO)
    assert answer.status_code == 202
    said = answer.json()
    assert (said["kind"], said["state"], said["picture"]) == ("bot", "queued", None)
    client.post(f"/api/jobs/{said['id']}/cancel")


def test_a_client_that_sends_too_much_is_told_when_to_come_back(client: TestClient) -> None:
    answers = [client.post("/api/bot", content=b"no picture") for _ in range(13)]
    assert [answer.status_code for answer in answers] == [415] * 12 + [429]
    assert 0 < int(answers[12].headers["retry-after"]) <= 60


# --- the account ------------------------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[FakeMastodon]:
    pytest.importorskip("mastodon", reason="needs Mastodon.py: pip install 'tezawari[bot]'")
    with serving() as running:
        yield running


class Bot:
    """A bot that may be stopped and begun again."""

    def __init__(self, server: FakeMastodon, stylizer: Stylizer, state: Path) -> None:
        self.server, self.stylizer, self.state = server, stylizer, state
        self.pauses: list[float] = []
        self.rounds = 1

    def begin(self, user_seconds: float = 1e-6, per_hour: int = 100, dry: bool = False) -> Adapter:
        client = bot_command._connect(self.server.url, TOKEN)
        limits = Limits(allow_private=True, min_side=16, max_pixels=1_000_000)
        host = self.server.url.removeprefix("http://")
        return Adapter(
            client,
            PhotoBot(_pizza_everywhere(), self.stylizer, {"pizza": Dish(530, 200, "ピザ")}),
            Downloader("tezawari/test", limits),
            Memory.load(self.state, host, "1"),
            state=None if dry else self.state,
            user_seconds=user_seconds,
            per_hour=per_hour,
            pause=self._pause,
        )

    def round(self, **options: float) -> None:
        """Begin, look, answer and end."""
        adapter = self.begin(**options)
        adapter.look()
        adapter.answer_all()

    def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        if len(self.pauses) >= self.rounds:
            raise KeyboardInterrupt


@pytest.fixture
def bot(server: FakeMastodon, stylizer: Stylizer, tmp_path: Path) -> Bot:
    return Bot(server, stylizer, tmp_path / "state.json")


def _pizza_everywhere() -> Recogniser:
    return Recogniser(["cat", "pizza"], lambda image: torch.tensor([0.1, 0.9]))


def _answered(server: FakeMastodon) -> list[str]:
    return [reply["in_reply_to_id"] for reply in server.replies]


def test_a_photo_comes_back_restyled_with_words_in_its_language(bot: Bot, server: FakeMastodon) -> None:
    english = server.mention(PHOTO)
    server.mention(PHOTO, "3", language="ja", visibility="private", spoiler_text="@all rude", sensitive=True)
    server.mention(PHOTO, "4", language=None, content="<p>おひるごはん</p>")
    server.looks_until_processed = 1
    bot.rounds = 10
    bot.round()
    first, second, third = server.replies
    assert first["in_reply_to_id"] == english
    assert first["status"].startswith("@user2@far.example I think I see:\n1. pizza 90 % (≈530 kcal in 200 g)\n")
    assert (first["visibility"], first["language"], first.get("sensitive", "0")) == ("unlisted", "en", "0")
    assert "spoiler_text" not in first
    assert (second["visibility"], second["language"], second["sensitive"]) == ("direct", "ja", "1")
    assert "1. ピザ 90 %" in second["status"]
    assert "rude" not in str(second)
    assert third["language"] == "ja"
    for reply in server.replies:
        upload = server.uploads[reply["media_ids"]]
        assert Image.open(io.BytesIO(upload["file"])).size == (64, 48)
        assert ("写真" in upload["description"]) == (reply["language"] == "ja")
        assert upload["looks"] == 2


def test_a_restart_answers_nothing_twice_and_loses_none(bot: Bot, server: FakeMastodon) -> None:
    mentions = [server.mention(PHOTO)]
    bot.round()
    before = bot.state.read_bytes()
    mentions += [server.mention(PHOTO), server.mention(PHOTO, "3")]
    bot.round()
    bot.round()
    assert _answered(server) == mentions
    bot.state.write_bytes(before)  # killed before it wrote down what it had posted
    bot.round()
    bot.state.unlink()  # lost altogether
    bot.round()
    assert _answered(server) == mentions


def test_a_post_whose_answer_was_lost_is_not_posted_again(bot: Bot, server: FakeMastodon) -> None:
    mention = server.mention(PHOTO)
    server.trouble = [("/statuses", 0, {})]
    with pytest.raises(TransientError, match="no connection"):
        bot.round()
    assert [each["status"] for each in json.loads(bot.state.read_text())["waiting"]] == [mention]
    bot.round()
    bot.round()
    assert _answered(server) == [mention]
    assert len(server.uploads) == 1


def test_more_mentions_than_a_page_are_all_answered(
    bot: Bot, server: FakeMastodon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bot_command, "_PAGE", 3)
    wanted = [server.mention(PHOTO)]
    bot.round()
    wanted += [server.mention(b"no picture", str(author)) for author in range(10, 17)]
    bot.round()
    assert _answered(server) == wanted


def test_the_first_look_leaves_old_mentions_alone(bot: Bot, server: FakeMastodon) -> None:
    server.mention(PHOTO, hours_ago=50)
    fresh = server.mention(PHOTO, hours_ago=1)
    bot.round()
    assert _answered(server) == [fresh]
    late = server.mention(PHOTO, hours_ago=50)  # the bot was away since
    bot.round()
    assert _answered(server) == [fresh, late]


def test_a_busy_server_is_left_alone_for_as_long_as_it_says(bot: Bot, server: FakeMastodon) -> None:
    mention = server.mention(PHOTO)
    until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 90))
    reset = {"X-RateLimit-Limit": "300", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": until}
    server.trouble = [("/notifications", 503, {}), ("/notifications", 502, {}), ("/media", 429, reset)]
    bot.rounds = 4
    with pytest.raises(KeyboardInterrupt):
        answer_for_ever(bot.begin(), every=7.0)
    assert bot.pauses[:2] == [5.0, 10.0]
    assert 80 < bot.pauses[2] <= 91
    assert bot.pauses[3] == 7.0
    assert _answered(server) == [mention]


def test_another_mention_of_the_same_user_waits(bot: Bot, server: FakeMastodon) -> None:
    first, second, third, fourth = (server.mention(PHOTO, author) for author in "2232")
    server.mention(PHOTO, "2")
    bot.round(user_seconds=60)
    assert _answered(server) == [first, third]
    bot.round(user_seconds=60)
    assert _answered(server) == [first, third]
    bot.round()
    assert _answered(server) == [first, third, second, fourth]  # of one user three wait at most


def test_the_hour_holds_so_many_answers(bot: Bot, server: FakeMastodon) -> None:
    mentions = [server.mention(PHOTO, author) for author in "234"]
    bot.round(per_hour=2)
    bot.round(per_hour=2)
    assert _answered(server) == mentions[:2]
    memory = json.loads(bot.state.read_text())
    memory["all"] = {"": [then - 3600 for then in memory["all"][""]]}
    bot.state.write_text(json.dumps(memory))
    bot.round(per_hour=2)
    assert _answered(server) == mentions


def test_hostile_attachments_are_answered_by_a_polite_line(bot: Bot, server: FakeMastodon) -> None:
    for author, content in (("2", b"<html>"), ("3", png_bomb(5000)), ("4", PHOTO[:400]), ("5", b"")):
        server.mention(content, author)
    server.posts[server.mention(PHOTO, "6")]["media_attachments"][0]["url"] = "file:///etc/passwd"
    server.mention(b"", "7", language="ja")
    good = server.mention(PHOTO, "8")
    bot.round()
    assert [("Sorry" in reply["status"]) for reply in server.replies] == [True] * 5 + [False] * 2
    assert "ごめんなさい" in server.replies[5]["status"]
    assert len(server.uploads) == 1
    assert _answered(server)[-1] == good


def test_a_copy_that_is_gone_is_fetched_from_where_it_came(bot: Bot, server: FakeMastodon) -> None:
    attachment = server.posts[server.mention(PHOTO)]["media_attachments"][0]
    attachment["remote_url"], attachment["url"] = attachment["url"], f"{server.url}/gone"
    bot.round()
    assert "pizza" in server.replies[0]["status"]


def test_other_bots_itself_and_posts_without_photos_are_left_alone(bot: Bot, server: FakeMastodon) -> None:
    server.mention(PHOTO, "2", bot=True)
    server.mention(PHOTO, "1")
    server.mention(None, "3")
    server.mention(PHOTO, "4", kind="video")
    deleted = server.mention(PHOTO, "5")
    server.notifications.append({"id": server.new_id(), "type": "favourite", "account": {"id": "6"}, "status": deleted})
    adapter = bot.begin()
    adapter.look()
    del server.posts[deleted]
    adapter.answer_all()
    assert server.replies == []
    assert json.loads(bot.state.read_text())["waiting"] == []


def test_a_photo_that_ends_the_bot_is_tried_a_few_times_only(bot: Bot, server: FakeMastodon) -> None:
    server.mention(PHOTO)
    well = server.mention(PHOTO, "3")
    for _ in range(3):
        adapter = bot.begin()
        adapter.look()
        adapter._begin(adapter._memory.waiting[0])  # what is written before the work that ends the process
    bot.round()
    assert _answered(server) == [well]


def test_a_rehearsal_prints_and_leaves_no_trace(
    bot: Bot, server: FakeMastodon, capsys: pytest.CaptureFixture[str]
) -> None:
    server.mention(PHOTO)
    bot.round(dry=True)
    assert "@user2@far.example I think I see:\n1. pizza" in capsys.readouterr().out
    assert (server.replies, server.uploads, bot.state.exists()) == ([], {}, False)


def _command(server: str, tmp_path: Path, *words: str, token: str = TOKEN) -> int:
    (tmp_path / "token").write_text(f"{token}\n")
    files = ["--token-file", str(tmp_path / "token"), "--state", str(tmp_path / "state.json")]
    return cli.main(["bot", "--server", server, *files, "--once", *words])


def test_the_command_answers_once(server: FakeMastodon, tmp_path: Path, run: Path) -> None:
    mention = server.mention(PHOTO)
    assert _command(server.url, tmp_path, "--classifier", str(run), "--allow-private") == 0
    assert _answered(server) == [mention]
    assert "stone" in server.replies[0]["status"]
    state = tmp_path / "state.json"
    with bot_command._alone(state), pytest.raises(UserError, match="another bot uses it"), bot_command._alone(state):
        pass
    with pytest.raises(UserError, match="of another account"):
        Memory.load(state, "elsewhere.example", "1")
    state.write_text('{"waiting": 3}')
    with pytest.raises(UserError, match="not a state of tezawari bot"):
        Memory.load(state, "elsewhere.example", "1")


def test_mistakes_are_one_line_without_the_token(
    server: FakeMastodon,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.DEBUG)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = f"http://127.0.0.1:{listener.getsockname()[1]}"

    def said(url: str, *words: str, token: str = TOKEN) -> str:
        assert _command(url, tmp_path, *words, token=token) == 2
        line = capsys.readouterr().err
        assert line.startswith("error: ")
        assert line.count("\n") == 1
        assert token.strip() not in line + caplog.text
        return line

    assert "the token is not taken" in said(server.url, token="a-wrong-token")
    assert "holds no access token" in said(server.url, token="two\nlines")
    assert "no connection" in said(closed)
    assert "without TLS" in said("http://far.example")
    assert "not the URL of a server" in said("mastodon.example")
    assert "not a URL" in said("https://[x")
    assert "--per-hour 0: must be above 0" in said(server.url, "--per-hour", "0")
    server.trouble = [("/verify_credentials", 403, {})]
    assert "write:statuses" in said(server.url)
    server.trouble = [("/verify_credentials", 404, {})]
    assert "it answers 404" in said(server.url)
    monkeypatch.setitem(sys.modules, "mastodon", None)
    assert "pip install 'tezawari[bot]'" in said(server.url)
