"""What the hub answers to GET: health for anybody, figures for who has the token, and JSON-RPC as ever by POST."""

from __future__ import annotations

import hashlib
import logging
import re
import stat
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from hub_support import DEPOSIT, Client, Desk, payment, serving
from hypothesis import given
from hypothesis import strategies as st

from picopayments_cli.channel.networks import NETWORKS
from picopayments_cli.errors import DatabaseUnusable, StoreDamaged, StoreUnusable
from picopayments_cli.hub import front
from picopayments_cli.hub.folder import Folder
from picopayments_cli.hub.front import Front
from picopayments_cli.hub.health import Health
from picopayments_cli.hub.metrics import MOST_EVENTS, OTHER, Metrics
from picopayments_cli.hub.overview import Overview, Overviews
from picopayments_cli.hub.page import BAR, BINS, GROUND, LEAST, Page, bar, picture, shown
from picopayments_cli.limits import Limits

TOKEN = "ab" * 32
WAIT = 20


@contextmanager
def front_of(desk: Desk) -> Iterator[tuple[str, Metrics]]:
    """A hub that answers to GET; its root, and what it counts."""
    overviews = Overviews(desk.hub)
    metrics = Metrics(desk.hub, overviews)
    desk.rounds.timed = metrics.rounds.time
    pages = Front(Page(desk.hub, overviews), Health(desk.hub), metrics, TOKEN).routes()
    with metrics.counting_events(), serving(desk, counted=metrics.counted, pages=pages) as url:
        yield url.removesuffix("api/"), metrics


def get(url: str, token: str | None = None) -> requests.Response:
    """The answer to GET."""
    return requests.get(url, headers={} if token is None else {"Authorization": f"Bearer {token}"}, timeout=WAIT)


def figures(metrics: Metrics) -> dict[str, float]:
    """The figures by their names with labels."""
    rows = re.findall(r"(?m)^(picopayments_\S+(?:\{[^}]*\})?) (\S+)$", metrics.text().decode())
    return {name: float(value) for name, value in rows}


def test_an_operator_sees_what_to_be_woken_for(desk: Desk, alice: Client, bob: Client) -> None:
    with front_of(desk) as (url, _):
        shown = get(f"{url}healthz")
        assert (shown.status_code, shown.json()) == (200, {"ok": True, "reasons": []})
        ask = {"jsonrpc": "2.0", "id": 1, "method": "mph_status", "params": {}}
        for path in ("", "api/", "metrics", "healthz", "elsewhere"):  # JSON-RPC is at any path, as ever
            assert requests.post(url + path, json=ask, timeout=WAIT).json()["result"]["funds"]
        sync, _moved = alice.sync_request(301, payment(bob.handle, 300))
        wrong = {**ask, "method": "mph_sync", "params": sync.as_json()}  # nobody signed it
        assert "error" in requests.post(url, json=wrong, timeout=WAIT).json()
        assert requests.post(url, json={**ask, "method": "x" * 50}, timeout=WAIT).json()["error"]["code"] == -32601
        assert get(f"{url}metrics").status_code == 401
        assert get(f"{url}metrics", TOKEN[:-1]).status_code == 401
        desk.rounds.await_round()
        text = get(f"{url}metrics", TOKEN).text
        assert 'picopayments_calls_total{method="mph_status",outcome="ok"} 5.0' in text
        assert re.search(r'picopayments_calls_total\{method="mph_sync",outcome="Bad\w+"\} 1.0', text)
        assert "xxxx" not in text
        assert re.search(r'picopayments_connections\{stage="open"\} [2-9]', text)
        deposited = re.search(r'picopayments_liquidity\{asset="XCP",state="deposited"\} (\S+)', text)
        assert deposited
        assert float(deposited[1]) in {count * DEPOSIT for count in range(2, 10)}
        assert re.search(r"picopayments_round_seconds_count [1-9]", text)
        assert "picopayments_reserve_missing_coins 0.0" in text
        assert alice.handle.hex() not in text


def test_health_names_what_is_wrong_and_nothing_more(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    health = Health(desk.hub)
    assert health.reasons() == []
    monkeypatch.setattr(desk.hub.follower, "seen_at", float("-inf"))
    assert health.reasons() == ["NodeBehind"]
    written = desk.rows("select value from meta where key = 'last trial'")
    assert health.reasons() == ["NodeBehind"]
    assert desk.rows("select value from meta where key = 'last trial'") == written  # not at each question

    def fails(label: str) -> Any:
        raise DatabaseUnusable("disk full")

    monkeypatch.setattr(desk.database, "transaction", fails)
    assert Health(desk.hub).reasons() == ["NodeBehind", "DatabaseUnusable"]
    stuck = Health(desk.hub)
    assert stuck._trying.acquire()
    assert stuck.reasons() == ["NodeBehind", "DatabaseUnusable"]


def test_no_stranger_asks_without_end(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "LIMITS", Limits(calls=1, burst=2))
    with front_of(desk) as (url, _):
        asked = [requests.get(f"{url}healthz", headers={"X-Forwarded-For": "1.2.3.4"}, timeout=WAIT) for _ in range(4)]
        assert [answer.status_code for answer in asked] == [200, 200, 429, 429]
        assert [answer.headers.get("Connection") for answer in asked] == [None, None, "close", "close"]
        assert get(f"{url}healthz").status_code == 200


def test_a_long_head_costs_its_address_as_much_as_a_body(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "LIMITS", Limits(size=1_000, burst=20))
    with front_of(desk) as (url, _):
        sent = {"X-Forwarded-For": "1.2.3.4", "X": "x" * 30_000}
        asked = [requests.get(f"{url}healthz", headers=sent, timeout=WAIT) for _ in range(2)]
        assert [answer.status_code for answer in asked] == [200, 429]


def test_what_is_logged_adds_few_labels(desk: Desk) -> None:
    metrics = Metrics(desk.hub, Overviews(desk.hub))
    log = logging.getLogger("picopayments_cli.hub.test")
    with metrics.counting_events():
        log.info("open")
        log.warning("waits")
        log.warning("waits")
        log.error("The address mibYmHDKRniAJ1yvJaTKbqhPMGtoLwoPtt is bad")
        for number in range(MOST_EVENTS + 50):
            log.warning("event " + "abcdefghij"[number % 10] * (number // 10 + 1))
    shown = figures(metrics)
    assert shown['picopayments_log_events_total{event="waits",level="warning"}'] == 2
    assert shown[f'picopayments_log_events_total{{event="{OTHER}",level="error"}}'] == 1
    assert sum(name.startswith("picopayments_log_events_total") for name in shown) <= MOST_EVENTS + 2


def test_the_token_is_made_once_and_private(tmp_path: Path) -> None:
    folder = Folder(tmp_path, NETWORKS["regtest"])
    path, token = folder.token_path, folder.token()
    assert folder.token() == token == path.read_text()
    assert (len(token), stat.S_IMODE(path.stat().st_mode)) == (64, 0o600)
    path.chmod(0o644)
    with pytest.raises(StoreUnusable):
        folder.token()
    path.write_text("short")
    path.chmod(0o600)
    with pytest.raises(StoreDamaged):
        folder.token()


# The page -----------------------------------------------------------------------------------------------------------


def test_people_see_how_to_connect_and_nothing_runs_in_their_browser(desk: Desk, alice: Client) -> None:
    with front_of(desk) as (url, _):
        answer = get(url)
        assert answer.status_code == 200
        lines = f"picopayments-cli --regtest \\\n  --hub-url {url}api/ \\\n  connect XCP 1000000"
        assert lines in answer.text
        elsewhere = requests.get(url, headers={"Host": "hub.example:25000"}, timeout=WAIT).text
        assert "--hub-url http://hub.example:25000/api/ " in elsewhere
        assert url not in elsewhere
        for host in ('x"><script>', "a b", "@@"):
            assert requests.get(url, headers={"Host": host}, timeout=WAIT).status_code == 400
    text, policy = answer.text, answer.headers["Content-Security-Policy"]
    assert "PicoPayments hub on regtest" in text
    assert not re.search(r"<script|javascript:| on\w+=| style=|<form|<iframe|@import|url\(", text)
    assert set(re.findall(r"(?:src|href)=\"([^\"]*)\"", text)) == {"data:,"}
    style = re.findall(r"(?s)<style>(.*)</style>", text)[0]
    assert f"style-src 'sha256-{b64encode(hashlib.sha256(style.encode()).digest()).decode()}'" in policy
    assert policy.startswith("default-src 'none';")
    assert alice.handle.hex() not in text


def test_reloads_render_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    overviews = Overviews(desk.hub)
    made: list[int] = []
    page = Page(desk.hub, overviews)
    make = overviews._make

    def counted() -> Overview:
        made.append(1)
        return make()

    monkeypatch.setattr(overviews, "_make", counted)
    assert len({page.html("http://one/") for _ in range(100)}) == 1
    assert len(made) == 1
    page._next = overviews._next = 0.0
    page.html("http://two/")
    assert len(made) == 2


def test_a_name_is_no_markup(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(desk.hub.longnames, "XCP", "<b>@@hub_url@@</b>")
    assert "<b>@@" not in Page(desk.hub, Overviews(desk.hub)).html("http://one/")
    assert "&lt;b&gt;" in Page(desk.hub, Overviews(desk.hub)).html("http://one/")


@given(st.lists(st.integers(0, 2**63 - 1), max_size=5))
def test_a_bar_is_as_long_as_it_is_and_leaves_nothing_out(quantities: list[int]) -> None:
    pieces = bar([("open", quantity) for quantity in quantities])
    assert len(pieces) == sum(quantity > 0 for quantity in quantities)
    assert all(piece["width"] >= LEAST for piece in pieces)
    assert not pieces or abs(sum(piece["width"] for piece in pieces) - BAR) < 1


@given(
    st.dictionaries(st.tuples(st.sampled_from(["agreed", "open", "closing"]), st.integers(0, 65535)), st.integers(1))
)
def test_a_picture_stays_in_its_frame(left: dict[tuple[str, int], int]) -> None:
    drawn = picture(left)
    parts = [part for each in drawn["bins"] for part in each["parts"]]
    assert bool(parts) == bool(left)
    assert all(part["y"] > 0 and part["y"] + part["height"] <= GROUND + 0.1 for part in parts)
    assert len(drawn["bins"]) in (0, BINS)


@pytest.mark.parametrize(
    ("quantity", "divisible", "text"),
    [
        (150_000_000, True, "1.5"),
        (123_456_700_000_000, True, "1,234,567"),
        (1, True, "0.00000001"),
        (0, True, "0"),
        (10, True, "0.0000001"),
        (1_000, False, "1,000"),
        (1_000, None, "1,000 satoshis"),
    ],
)
def test_quantities_are_for_people(quantity: int, divisible: bool | None, text: str) -> None:
    assert shown(quantity, divisible) == text
