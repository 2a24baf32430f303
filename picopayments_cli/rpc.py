"""Calls to a hub or a node over HTTP: each bounded in time and size, each failure an error with a name."""

from __future__ import annotations

import itertools
import json
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit, urlunsplit

import requests
from requests.auth import HTTPBasicAuth
from urllib3.exceptions import HTTPError
from urllib3.util.retry import Retry

from picopayments_cli import errors
from picopayments_cli.config import check_url
from picopayments_cli.errors import (
    BadAnswer,
    HubRefused,
    HubUnreachable,
    InvalidParams,
    NodeRefused,
    NodeUnreachable,
    PicopaymentsError,
    TooMuchAsked,
    UnknownMethod,
    Unreachable,
)
from picopayments_cli.jsontext import parse_json
from picopayments_cli.transport import SYSTEM, PinningAdapter, Trust, is_here, lacks_socks, proxy_to

Auth = tuple[str, str] | Callable[[requests.PreparedRequest], requests.PreparedRequest] | None

TIMEOUT = (10.0, 60.0)  # seconds for a connection, and for the whole call with it
RETRIES = 2
MAX_ANSWER = 64_000_000
MAX_TEXT = 2000  # characters of a peer's message that are kept
BATCH = 500  # calls in one POST
_BUSY = (429, 502, 503, 504)
_REST_BUSY = (429, 502, 504)  # 503 is a node's refusal too
_NOT_THERE = (404, 405)
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")  # what OpenSSL says of an answer in the clear
_WARMING_UP = -28  # Bitcoin Core's code while it starts
_NEXT_STEP = {
    "hub": "See that it runs and that --hub-url names it, then repeat the command.",
    "node": "See that it runs and that its URL in the settings is right, then repeat the command.",
}
_ELSEWHERE = {
    "hub": "See that the URL has the hub's path, such as /api/, and https where the hub has that: the hub's page, "
    "which a browser shows at its address, names the URL to use.",
    "node": "See that its URL in the settings has the right port and path.",
}


@dataclass(frozen=True)
class _Answer:
    status: int
    body: bytes
    location: str | None


class _Session(requests.Session):
    """Requests' own, but it leaves redirects alone: to say where one leads, that one takes in a body of any size."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


class _Http:
    """One server, and the way to it: keep-alive, time-outs, bounded repetition, no redirects."""

    def __init__(
        self,
        url: str,
        *,
        timeout: tuple[float, float] = TIMEOUT,
        retries: int = RETRIES,
        trust: Trust = SYSTEM,
        auth: Auth = None,
        unreachable: type[Unreachable] = HubUnreachable,
        busy: tuple[int, ...] = _BUSY,
    ) -> None:
        parts = urlsplit(check_url(url, "server's URL"))
        host = parts.netloc.rpartition("@")[2]
        self.url = urlunsplit(parts._replace(netloc=host))  # without credentials: it is shown in messages
        self._auth: Auth = auth
        if isinstance(auth, tuple):
            self._auth = HTTPBasicAuth(*(part.encode("utf-8", "replace") for part in auth))
        elif auth is None and parts.username is not None:
            self._auth = HTTPBasicAuth(unquote_to_bytes(parts.username), unquote_to_bytes(parts.password or ""))
        self._timeout = timeout
        self._retries = retries
        self._busy = busy
        self._trust = trust
        self._unreachable = unreachable
        self._local = is_here(parts.hostname or "")
        self._peer = "node" if issubclass(unreachable, NodeUnreachable) else "hub"
        self._refused = NodeRefused if self._peer == "node" else HubRefused
        self._sessions: dict[bool, requests.Session] = {}

    def send(self, verb: str, url: str, what: str, *, retry: bool, **content: Any) -> _Answer:
        """Make one exchange, which ``what`` names in errors. Raises the server's Unreachable, and BadAnswer.

        It runs in a thread of its own, because no time-out of the libraries bounds a server (or a resolver of names)
        that goes on for ever, byte by byte.
        """
        outcome: queue.SimpleQueue[_Answer | Exception] = queue.SimpleQueue()
        session = self._session(retry)

        def work() -> None:
            try:
                outcome.put(self._exchange(session, verb, url, content))
            except Exception as error:  # handed over to the caller's thread
                outcome.put(error)

        threading.Thread(target=work, daemon=True).start()
        try:
            answer = outcome.get(timeout=self._timeout[1])
        except queue.Empty:
            raise self.silent(what, self._too_late()) from None
        if isinstance(answer, (requests.RequestException, HTTPError)):  # some of urllib3's come through requests
            raise self.silent(what, self._reason(answer)) from answer
        if isinstance(answer, Exception):
            raise answer
        if answer.location is not None or 300 <= answer.status < 400:
            raise self.bad(what, f"a redirect to {_shown(answer.location)}, which is not followed")
        if answer.status in (401, 403, 407):
            raise self.bad(what, f"HTTP status {answer.status}: user or password are missing or wrong")
        if answer.status in self._busy:
            raise self.silent(what, self.text_of_error(answer))
        return answer

    def silent(self, what: str, reason: str) -> Unreachable:
        """Return the error of a server that gave no answer."""
        text = f"The {self._peer} at {self.url} did not answer {what}: {reason}. {_NEXT_STEP[self._peer]}"
        told, data = self._by_proxy()
        return self._unreachable(text + told, url=self.url, call=what, reason=reason, **data)

    def bad(self, what: str, reason: str) -> BadAnswer:
        """Return the error of an answer that is not in the protocol."""
        text = f"The {self._peer} at {self.url} answered {what} with {reason}. {_NEXT_STEP[self._peer]}"
        told, data = self._by_proxy()
        return BadAnswer(text + told, url=self.url, call=what, reason=reason, **data)

    def nobody(self, what: str, answer: _Answer) -> BadAnswer:
        """Return the error of a web server that is no hub or node, or not at this URL."""
        reason = f"HTTP status {answer.status} and " + ("a page" if _is_page(answer.body) else "no JSON-RPC")
        text = f"There is no {self._peer} at {self.url}: a web server answered {what} with {reason}. "
        told, data = self._by_proxy()
        return BadAnswer(text + _ELSEWHERE[self._peer] + told, url=self.url, call=what, reason=reason, **data)

    def _by_proxy(self) -> tuple[str, dict[str, str]]:
        """Name the proxy that the server is called through, where there is one: the fault may be the proxy's."""
        proxy = None if self._local else proxy_to(self.url)
        if proxy is None:
            return "", {}
        return f" It was called through the proxy {proxy}, which the environment names: see that it runs.", {
            "proxy": proxy
        }

    def refused(self, text: str, **data: Any) -> PicopaymentsError:
        """Return the error of a refusal that has no class of its own."""
        return self._refused(_shown(text), **data)

    def parse(self, answer: _Answer, what: str) -> Any:
        """Read the JSON of an answer. Raises BadAnswer, or Unreachable for a server's failure."""
        try:
            return parse_json(answer.body)
        except ValueError as error:
            if answer.status >= 500:
                raise self.silent(what, f"HTTP status {answer.status}") from error
            if answer.status in _NOT_THERE or _is_page(answer.body):
                raise self.nobody(what, answer) from error
            beginning = answer.body[:60].decode("utf-8", "replace")
            raise self.bad(what, f"something else than JSON (HTTP status {answer.status}, {beginning!r})") from error

    def _session(self, retry: bool) -> requests.Session:
        if not self._sessions:
            pin = self._trust.fingerprint
            once, again = (PinningAdapter(pin, max_retries=self._patience(retry)) for retry in (False, True))
            again.poolmanager = once.poolmanager  # both use the same kept-alive connections
            self._sessions = {False: self._new_session(once), True: self._new_session(again)}
        return self._sessions[retry]

    @cached_property
    def _authorities(self) -> bool | str:
        """Read who may vouch for the server's certificate. Raises InvalidSetting."""
        return self._trust.authorities() if self.url.startswith("https:") else True

    def _patience(self, retry: bool) -> Retry:
        """Let a connection that was never made be tried again always, all else only where the caller says so."""
        return Retry(
            self._retries,
            read=None if retry else 0,
            status=None if retry else 0,
            other=None if retry else 0,
            redirect=0,
            allowed_methods=None,
            status_forcelist=self._busy if retry else (),
            backoff_factor=0.2,
            raise_on_status=False,
            respect_retry_after_header=False,
        )

    def _new_session(self, adapter: PinningAdapter) -> requests.Session:
        session = _Session()
        session.trust_env = not self._local  # no proxy to this very machine
        session.headers.update({"Accept-Encoding": "identity"})
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        return session

    def _exchange(self, session: requests.Session, verb: str, url: str, content: dict[str, Any]) -> _Answer:
        request = requests.PreparedRequest()  # by itself: a session takes as long to prepare one as to send it
        headers = {**session.headers, **content.pop("headers", {})}
        request.prepare(verb, url, headers=headers, auth=self._auth, **content)
        with session.send(
            request, timeout=self._timeout, verify=self._authorities, allow_redirects=False, stream=True
        ) as response:
            body = bytearray()
            for chunk in response.iter_content(65536):
                body += chunk
                if len(body) > MAX_ANSWER:
                    raise self.bad("a call", f"more than {MAX_ANSWER} bytes")
            return _Answer(response.status_code, bytes(body), response.headers.get("Location"))

    def _reason(self, error: requests.RequestException | HTTPError) -> str:
        if isinstance(error, requests.exceptions.SSLError):
            in_clear = any(sign in str(error) for sign in _NO_TLS)
            return "no TLS is spoken there" if in_clear else f"its TLS certificate does not hold ({_tail(error)})"
        if isinstance(error, requests.exceptions.ConnectTimeout):
            return f"no connection within {self._timeout[0]:g} s"
        if isinstance(error, requests.exceptions.Timeout) or "Read timed out" in str(error):
            return self._too_late()
        if not self._local and lacks_socks(error, proxy_to(self.url)):
            return "a library is missing that speaks SOCKS, install it with: pip install 'picopayments-cli[socks]'"
        if not self._local and (proxy_to(self.url) or "").endswith("***"):  # a password could be in the library's words
            return type(error).__name__
        told = _tail(error)
        hangs_up = self.url.startswith("http:") and "closed connection without response" in told
        return f"{told}, as one does that speaks https alone" if hangs_up else told

    def _too_late(self) -> str:
        return f"no complete answer within {self._timeout[1]:g} s"

    @staticmethod
    def text_of_error(answer: _Answer) -> str:
        """Return what a server's failure says of itself."""
        try:
            value = parse_json(answer.body)
        except ValueError:
            value = None
        text = value.get("error") if isinstance(value, dict) else None
        if isinstance(text, dict):
            text = text.get("message")
        return f"HTTP status {answer.status}" + (f", {_shown(text)}" if isinstance(text, str) else "")


def _is_page(body: bytes) -> bool:
    """Tell whether a server has answered with HTML."""
    return body[:200].lstrip().lower().startswith((b"<!doctype html", b"<html"))


def _tail(error: BaseException) -> str:
    """Return what the innermost of nested errors says."""
    inner = [part for part in (*error.args, getattr(error, "reason", None)) if isinstance(part, BaseException)]
    if inner:
        return _tail(inner[-1])
    text = getattr(error, "strerror", None) or str(error).rpartition(": ")[2]
    return text.removesuffix(".") or type(error).__name__


# JSON-RPC -----------------------------------------------------------------------------------------------------------


class RpcClient:
    """Calls to one JSON-RPC server. ``timeout``: seconds for a connection, and for the whole call with it.

    ``retries``: how often a call that is safe to repeat is repeated; ``auth``: user and password (as in the URL), or a
    function that adds them to a request; ``unreachable``: the error of silence, which also tells hub from node.
    One connection is kept; threads may share a client.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: tuple[float, float] = TIMEOUT,
        retries: int = RETRIES,
        trust: Trust = SYSTEM,
        auth: Auth = None,
        unreachable: type[Unreachable] = HubUnreachable,
    ) -> None:
        self._http = _Http(url, timeout=timeout, retries=retries, trust=trust, auth=auth, unreachable=unreachable)
        self._numbers = itertools.count()

    @property
    def url(self) -> str:
        """Return the server's URL, without credentials."""
        return self._http.url

    def call(self, method: str, params: Mapping[str, Any] | Sequence[Any], *, retry: bool) -> Any:
        """Call a method; its result. ``retry``: whether the call may reach the server more than once.

        Raises HubUnreachable or NodeUnreachable (no answer: whether it was carried out is unknown), BadAnswer (not the
        protocol), and a refusal as the error class that it names, else as UnknownMethod, InvalidParams, HubRefused or
        NodeRefused with the server's text and data.
        """
        reply = self._post(method, self._request(method, params), retry=retry)
        outcome = self._outcome(method, reply)
        if isinstance(outcome, PicopaymentsError):
            raise outcome
        return outcome

    def batch(self, calls: Sequence[tuple[str, Mapping[str, Any] | Sequence[Any]]], *, retry: bool = True) -> list[Any]:
        """Make several calls in one POST; their results in order. Raises as ``call``; the first refusal counts."""
        results = self.outcomes(calls, retry=retry)
        for result in results:
            if isinstance(result, PicopaymentsError):
                raise result
        return results

    def outcomes(
        self, calls: Sequence[tuple[str, Mapping[str, Any] | Sequence[Any]]], *, retry: bool = True
    ) -> list[Any]:
        """Make several calls as ``batch`` does, but a refused call's place holds its error.

        Those that had no place in the answer are made again, in further POSTs.
        """
        results: list[Any] = []
        for start in range(0, len(calls), BATCH):
            results += self._part(calls[start : start + BATCH], retry=retry)
        return results

    def _part(self, calls: Sequence[tuple[str, Mapping[str, Any] | Sequence[Any]]], *, retry: bool) -> list[Any]:
        asked = [self._request(method, params) for method, params in calls]
        what = ", ".join(dict.fromkeys(method for method, _ in calls))
        replies = self._post(what, asked, retry=retry)
        if isinstance(replies, dict):
            outcome = self._outcome(what, replies)
            raise outcome if isinstance(outcome, PicopaymentsError) else self._http.bad(what, "no list")
        by_id = {reply.get("id"): reply for reply in replies if isinstance(reply, dict) and _is_id(reply)}
        results = [self._outcome(request["method"], by_id.get(request["id"])) for request in asked]
        left = [place for place, result in enumerate(results) if _had_no_place(result)]
        if 0 < len(left) < len(calls):
            for place, result in zip(left, self._part([calls[place] for place in left], retry=retry), strict=True):
                results[place] = result
        return results

    def _request(self, method: str, params: Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
        return {"method": method, "params": params, "jsonrpc": "2.0", "id": next(self._numbers)}

    def _post(self, what: str, request: Any, *, retry: bool) -> Any:
        body = json.dumps(request).encode()
        headers = {"Content-Type": "application/json"}
        answer = self._http.send("POST", self._http.url, what, retry=retry, data=body, headers=headers)
        reply = self._http.parse(answer, what)
        if answer.status in _NOT_THERE and not (isinstance(reply, dict) and "id" in reply):
            raise self._http.nobody(what, answer)
        if not isinstance(reply, (dict, list)):
            raise self._http.bad(what, "no JSON object")
        return reply

    def _outcome(self, method: str, reply: Any) -> Any:
        if not isinstance(reply, dict):
            raise self._http.bad(method, "no reply to it")
        error = reply.get("error")
        if error is not None:
            return self._refusal(method, error)
        if "result" not in reply:
            raise self._http.bad(method, "neither result nor error")
        return reply["result"]

    def _refusal(self, method: str, error: Any) -> PicopaymentsError:
        if not isinstance(error, dict):
            return self._http.refused(f"{method} was refused: {error}", call=method)
        code, data = error.get("code"), error.get("data")
        details = data if isinstance(data, dict) else {}
        text = _shown(details.get("message") or error.get("message"))
        if code == _WARMING_UP:
            return self._http.silent(method, text)
        named = error_class(details.get("type"))
        if named is not None:
            known = named(text)
            known.data = details["data"] if isinstance(details.get("data"), dict) else {}
            known.said = details
            return known
        if code == -32601:
            return UnknownMethod(f"The server at {self.url} has no method {method}.", call=method)
        if code == -32602:
            return InvalidParams(f"{method} does not take these arguments: {text}", call=method)
        return self._http.refused(f"{method} was refused: {text}", call=method, code=code, details=data)


def controls_of(chain_url: str, timeout: tuple[float, float] = TIMEOUT, trust: Trust = SYSTEM) -> RpcClient:
    """The methods by which the regtest network of a node is steered: blocks, money, fees."""
    return RpcClient(chain_url.rstrip("/") + "/regtest/", timeout=timeout, trust=trust, unreachable=NodeUnreachable)


def _had_no_place(result: Any) -> bool:
    """Whether an answer was too large together with others; who has asked too much waits instead."""
    return isinstance(result, TooMuchAsked) and "limit" in result.data


def _is_id(reply: Mapping[str, Any]) -> bool:
    return isinstance(reply.get("id"), int)


def error_class(name: Any) -> type[PicopaymentsError] | None:
    """Return the class of errors.py that has this name, or None; of this machine and its commands no peer can tell."""
    found = getattr(errors, name, None) if isinstance(name, str) else None
    if not isinstance(found, type) or not issubclass(found, PicopaymentsError):
        return None
    return None if issubclass(found, (errors.LocalFiles, errors.UsageError, errors.CommandUnfinished)) else found


def _shown(text: Any) -> str:
    """Return a peer's text as it may stand on a terminal: its beginning, without control characters."""
    return "".join(letter if letter.isprintable() else " " for letter in str(text)[:MAX_TEXT])


# REST ---------------------------------------------------------------------------------------------------------------

# A Counterparty server's errors about the servers behind it are known by their text: Bitcoin Core's failures and
# refusals are both 503 (400 before 11.3), those of an index of addresses are 400.
_BROADCAST = "Error broadcasting transaction: "
_UNKNOWN = "No such mempool or blockchain transaction"
_FAILED = (
    "Error calling ",
    "429 Too Many Requests",
    "No result returned",
    "Loading ",
    "Verifying ",
    "Rescanning",
    "Cannot communicate",
    "Malformed ",
    "Electrs server not configured",
    "All Electrs backends failed",
    "This request exceeds the maximum number of Bitcoin backend RPC calls",
)


def _is_refusal(status: int, text: str) -> bool:
    """Whether an error is the node's verdict on what was asked, and no failure of something behind it."""
    said = text.removeprefix(_BROADCAST)
    if said.startswith(_FAILED):
        return False
    return 400 <= status < 500 or (status == 503 and (said != text or said.startswith(_UNKNOWN)))


class RestClient:
    """Calls to one server in the style of Counterparty Core's v2: JSON objects, errors as ``{"error": text}``."""

    def __init__(
        self,
        url: str,
        *,
        timeout: tuple[float, float] = TIMEOUT,
        retries: int = RETRIES,
        trust: Trust = SYSTEM,
    ) -> None:
        url = url if url.endswith("/") else url + "/"
        self._http = _Http(
            url, timeout=timeout, retries=retries, trust=trust, unreachable=NodeUnreachable, busy=_REST_BUSY
        )

    @property
    def url(self) -> str:
        """Return the server's URL, without credentials, with a slash at its end."""
        return self._http.url

    def rest_get(self, path: str, params: Mapping[str, str | int] | None = None) -> dict[str, Any]:
        """Return the JSON object at a path; repeated on failure. Raises NodeUnreachable, BadAnswer, and NodeRefused.

        NodeRefused bears the server's text, and the HTTP status in ``data["status"]``.
        """
        return self._object(path, self._http.send("GET", self.url + path, path, retry=True, params=params))

    def rest_post(self, path: str, form: Mapping[str, str], *, retry: bool) -> dict[str, Any]:
        """Return the JSON object that answers a form. Raises as ``rest_get``."""
        return self._object(path, self._http.send("POST", self.url + path, path, retry=retry, data=form))

    def bad(self, path: str, reason: str) -> BadAnswer:
        """Return the error of an answer whose content is not what the path promises."""
        return self._http.bad(path, reason)

    def _object(self, path: str, answer: _Answer) -> dict[str, Any]:
        value = self._http.parse(answer, path)
        text = value.get("error") if isinstance(value, dict) else None
        if isinstance(text, str) and _is_refusal(answer.status, text):
            shown = _shown(text)
            raise self._http.refused(f"The node refused {path}: {shown}", call=path, status=answer.status, reason=shown)
        if answer.status >= 500 or (answer.status >= 400 and isinstance(text, str)):
            raise self._http.silent(path, self._http.text_of_error(answer))
        if not isinstance(value, dict) or answer.status >= 400:
            raise self._http.bad(path, f"HTTP status {answer.status} and no JSON object of this interface")
        return value
