"""Delivers events, one after the other, each to a file, to a program that is started for it, or to a URL.

Each of those has a thread of its own, so that none waits for another, and the wallet for none. An event may come twice,
after a process was killed: its number tells.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event as Flag
from threading import Thread
from typing import Protocol
from urllib.parse import urlsplit

import requests

from picopayments_cli.client.happenings import UNDELIVERED, Event, lost, undelivered
from picopayments_cli.client.outbox import Outbox
from picopayments_cli.config import PASSPHRASE, check_url, place_of
from picopayments_cli.errors import PicopaymentsError, UsageError
from picopayments_cli.files import check_private, damaged, replace_file, usable
from picopayments_cli.transport import is_here

log = logging.getLogger(__name__)
SIGNATURE = "X-PicoPayments-Signature"
SECRET_SIZE = 32
PROGRAM_SECONDS = 30.0  # that a program may take for an event
ANSWER_SECONDS = 10.0  # that a webhook may let wait, and twice as long in all
FIRST_PAUSE, MOST_PAUSE = 1.0, 300.0  # before an event is delivered again
GIVEN_UP = 86_400.0  # seconds after which an event is not delivered again


class NotDelivered(Exception):
    """An event was not taken; the text tells why."""


class Sink(Protocol):
    """One that gets events. ``again``: whether one that was not taken is delivered again."""

    name: str
    again: bool

    def deliver(self, event: Event) -> None:
        """Deliver an event. Raises NotDelivered."""

    def stop(self) -> None:
        """Break off a delivery that is under way; from another thread."""


# Files --------------------------------------------------------------------------------------------------------------


@dataclass
class LineSink:
    """Adds each event to a file, as a line of JSON."""

    path: Path
    name: str = "file"
    again: bool = True

    def deliver(self, event: Event) -> None:
        """Write the line. The file is opened for each, so that it may be moved away."""
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(json.dumps(event) + "\n")
        except OSError as error:
            raise NotDelivered(f"{self.path} can't be written: {error.strerror or error}") from error

    def stop(self) -> None:
        """A line is written at once."""


@dataclass
class ShownSink:
    """Shows each event by a function that writes it on stdout."""

    show: Callable[[Event], None]
    name: str = "stdout"
    again: bool = False

    def deliver(self, event: Event) -> None:
        """Show the event."""
        try:
            self.show(event)
        except Exception as error:  # of a face, whose errors are its own
            raise NotDelivered(str(error)) from error

    def stop(self) -> None:
        """It ends with the process."""


# Programs -----------------------------------------------------------------------------------------------------------


class ProgramSink:
    """Starts a program for each event, which gets it on stdin. Its stdout goes nowhere, its stderr where ours does.

    It has the environment, less the wallet's passphrase. Raises UsageError where there is no such program.
    """

    name = "exec"
    again = False

    def __init__(self, program: str, seconds: float = PROGRAM_SECONDS) -> None:
        found = shutil.which(program)
        if found is None:
            raise UsageError(f"--exec {program}: there is no such program, or it can't be run.", program=program)
        self._program = os.path.abspath(found)
        self._seconds = seconds
        self._running: subprocess.Popen[bytes] | None = None

    def deliver(self, event: Event) -> None:
        """Run the program, without a shell, in a bounded time. Raises NotDelivered."""
        try:
            process = subprocess.Popen(  # noqa: S603 - the user names the program, and nothing of an event is a word
                [self._program],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
                env={name: value for name, value in os.environ.items() if name != PASSPHRASE},
            )
        except OSError as error:
            raise NotDelivered(f"{self._program} can't be run: {error.strerror or error}") from error
        self._running = process
        try:
            process.communicate(json.dumps(event).encode() + b"\n", timeout=self._seconds)
        except subprocess.TimeoutExpired:
            raise NotDelivered(f"{self._program} was stopped after {self._seconds:g} seconds") from None
        finally:
            self.stop()
            self._running = None
        if process.returncode:
            raise NotDelivered(f"{self._program} ended with code {process.returncode}")

    def stop(self) -> None:
        """End the program, if it still runs, with all that it has started."""
        process = self._running
        if process is not None and process.poll() is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


# Webhooks -----------------------------------------------------------------------------------------------------------


def webhook_secret(path: Path) -> bytes:
    """Read the secret that signs events, from a private file that is made where there is none.

    Raises StoreDamaged, StoreUnusable.
    """
    with usable(path):
        check_private(path)
        if not path.exists():
            replace_file(path, secrets.token_hex(SECRET_SIZE).encode() + b"\n")
        secret = path.read_bytes().strip()
    if len(secret) < SECRET_SIZE:
        raise damaged(path, f"the secret has less than {SECRET_SIZE} characters")
    return secret


def signature(secret: bytes, body: bytes) -> str:
    """Sign a body, as the header SIGNATURE has it."""
    return f"sha256={hmac.new(secret, body, hashlib.sha256).hexdigest()}"


class WebhookSink:
    """Posts each event, signed, to a URL; any answer from 200 to 299 takes it. Raises InvalidUrl."""

    name = "webhook"
    again = True

    def __init__(self, url: str, secret: bytes, seconds: float = ANSWER_SECONDS) -> None:
        self._url = check_url(url, "webhook", "http://127.0.0.1:8000/paid")
        self._place = place_of(url)  # its path may be a secret
        self._secret = secret
        self._seconds = seconds

    def deliver(self, event: Event) -> None:
        """Post the event in a bounded time: in a thread, as no time-out bounds one who answers byte by byte."""
        outcome: SimpleQueue[int | Exception] = SimpleQueue()

        def work() -> None:
            try:
                outcome.put(self._post(json.dumps(event, separators=(",", ":")).encode()))
            except Exception as error:  # handed over to the courier's thread
                outcome.put(error)

        Thread(target=work, daemon=True).start()
        try:
            status = outcome.get(timeout=2 * self._seconds)
        except Empty:
            raise NotDelivered(f"{self._place} gave no answer within {2 * self._seconds:g} seconds") from None
        if isinstance(status, Exception):
            raise NotDelivered(f"{self._place} did not answer: {type(status).__name__}") from status
        if not 200 <= status < 300:
            raise NotDelivered(f"{self._place} answered with HTTP status {status}")

    def _post(self, body: bytes) -> int:
        with requests.Session() as session:
            parts = urlsplit(self._url)
            session.trust_env = not is_here(parts.hostname or "")  # no proxy to this very machine
            session.auth = None if parts.username else _no_auth
            headers = {"Content-Type": "application/json", SIGNATURE: signature(self._secret, body)}
            with session.post(
                self._url, data=body, headers=headers, timeout=self._seconds, allow_redirects=False, stream=True
            ) as response:
                return response.status_code

    def stop(self) -> None:
        """The thread that posts ends with the process."""


def _no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request  # keeps requests from looking for a password in the user's .netrc


# The thread ---------------------------------------------------------------------------------------------------------


class Courier:
    """Delivers the events of an outbox to one sink, in order."""

    def __init__(self, outbox: Outbox, sink: Sink) -> None:
        self._outbox = outbox
        self._sink = sink
        self._stopped = Flag()
        self._thread = Thread(target=self._run, name=f"events to {sink.name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Break off, and wait for it for so long. The outbox is closed by then."""
        self._stopped.set()
        self._sink.stop()
        self._thread.join(seconds)

    def _run(self) -> None:
        while not self._stopped.is_set():
            event = self._outbox.next(self._sink.name)
            if event is None:
                return
            try:
                if self._deliver(event):
                    self._outbox.done(self._sink.name, event)
            except PicopaymentsError as error:  # of the outbox's file
                log.warning(error.message)

    def _deliver(self, event: Event) -> bool:
        """Deliver an event, again and again where the sink wants that; whether that is over."""
        pause, end, failed = FIRST_PAUSE, time.monotonic() + GIVEN_UP, False
        while True:
            try:
                self._sink.deliver(event)
                return True
            except NotDelivered as error:
                if self._stopped.is_set():
                    return False
                if not failed:
                    self._tell(event, str(error))
                failed = True
            if not self._sink.again:
                return True
            if time.monotonic() > end:
                self._outbox.add([lost(self._sink.name, 1, int(event["number"]))])
                return True
            if self._stopped.wait(pause):
                return False
            pause = min(2 * pause, MOST_PAUSE)

    def _tell(self, event: Event, message: str) -> None:
        """Make an event of a failure, but for one to tell of an earlier failure, which would never end."""
        log.warning("event %d to %s: %s", event["number"], self._sink.name, message)
        if event["event"] != UNDELIVERED:
            self._outbox.add([undelivered(self._sink.name, int(event["number"]), message)])


@contextmanager
def delivering(outbox: Outbox, sinks: list[Sink], seconds: float = 5.0) -> Iterator[None]:
    """Deliver for the length of a ``with`` block; ``seconds``: how long a delivery under way may still take then."""
    couriers = [Courier(outbox, sink) for sink in sinks]
    for courier in couriers:
        courier.start()
    try:
        yield
    finally:
        outbox.close()
        for courier in couriers:
            courier.stop(seconds)
