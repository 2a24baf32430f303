"""Wait until connections are open or closed, take the steps that are due meanwhile, and tell how far they are.

Nothing is held while the wait sleeps, the folder's lock neither, and it may be ended at any moment: what is under way
goes on by itself, or with the next ``sync``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, TypeVar, cast

from picopayments_cli.chain import Query
from picopayments_cli.channel.outlook import WaitsFor
from picopayments_cli.channel.stages import CLOSED, CLOSING, OPENING
from picopayments_cli.channel.values import Handle
from picopayments_cli.client import causes, hubs, life, showing
from picopayments_cli.client.arguments import handle_named
from picopayments_cli.client.closing import Outcome
from picopayments_cli.client.session import Session
from picopayments_cli.errors import (
    ConnectionNotOpen,
    HubUnreachable,
    InvalidSetting,
    LocalFiles,
    PicopaymentsError,
    SyncIncomplete,
    Unreachable,
    UsageError,
    WaitRanOut,
)

log = logging.getLogger(__name__)
PACE = 15.0  # seconds between two questions for the tip
QUICK = 0.2  # where blocks come as they are mined
PATIENCE = 20  # questions without another tip, after which the chain is looked at all the same
Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class Stand:
    """How far a connection is at a tip of ``height``; ``begun``: the tip at which it began to wait for this."""

    handle: str
    status: str
    waiting_for: str | None
    until: int | None
    height: int
    begun: int

    def __str__(self) -> str:
        if self.waiting_for is None:
            return f"{self.handle[:8]} is {self.status}"
        until = "" if self.until is None else f" until block {self.until}, now at {self.height}"
        return f"{self.handle[:8]} is {self.status}, waits for {self.waiting_for.replace('_', ' ')}{until}"


Tell = Callable[[Sequence[Stand]], None]


@dataclass
class Wait:
    """A wait for connections to be open, closed, or either: ``ends`` are the statuses that it ends with.

    ``seconds``: after which it runs out, None never. ``result``: the command's, which an error tells in its place.
    """

    session: Session
    handles: Sequence[Handle]
    ends: tuple[str, ...]
    seconds: float | None = None
    result: Any = None
    stands: dict[str, Stand] = field(default_factory=dict)
    at: Session | None = None  # the session that has seen the chain last
    told: set[tuple[str, ...]] = field(default_factory=set)  # the causes of what failed

    def run(self) -> None:
        """Wait. Raises WaitRanOut, ConnectionNotOpen, KeyboardInterrupt with a text that says how to go on."""
        limit = None if self.seconds is None else time.monotonic() + self.seconds
        try:
            with (self.session.progress or _lines)() as tell:
                while not self._step(tell):
                    self._sleep(limit)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"The wait was stopped. {self._goes_on()}") from None

    def _step(self, tell: Tell) -> bool:
        """Take what steps are due, and tell how far all are; whether all have come to their end."""
        acted = self._look(act=True)
        if acted:
            self._look(act=False)
        tell(list(self.stands.values()))
        for stand in self.stands.values():
            if CLOSED not in self.ends and stand.status in (CLOSING, CLOSED):
                raise ConnectionNotOpen(
                    f"The connection {stand.handle} closes, and does not open any more. Run `picopayments-cli close "
                    f"{stand.handle} --wait` to settle it.",
                    handle=stand.handle,
                    result=self.result,
                )
        self.session.home.let_go()
        seen = self.stands.keys() >= {handle.hex() for handle in self.handles}
        return seen and all(stand.status in self.ends for stand in self.stands.values())

    def _look(self, *, act: bool) -> bool:
        """Look at the connections, and take their steps where ``act``; whether any was taken."""
        acted = False
        chosen = [self.session.connection(handle) for handle in self.handles]
        for group in hubs.seen(self.session, chosen):
            for item in group.connections:
                shown = showing.shown(group, item, verbose=False)
                self._tell(item.handle, shown.failed)
                if shown.members["status"] == CLOSED or shown.seen is not None:
                    self.at = group.session
                    self._stands_at(item.handle.hex(), shown.members, (shown.seen or {}).get("height", 0))
                    if act and self._is_due(shown.members):
                        acted = self._act(group, item.handle) or acted
        return acted

    def _stands_at(self, handle: str, members: Mapping[str, Any], height: int) -> None:
        status, waits, until = members["status"], members.get("waiting_for"), members.get("until_height")
        before = self.stands.get(handle)
        same = before is not None and (before.status, before.waiting_for) == (status, waits)
        begun = before.begun if same and before is not None else height
        self.stands[handle] = Stand(handle, status, waits, until, height, begun)

    @staticmethod
    def _is_due(members: Mapping[str, Any]) -> bool:
        """Whether there is a step to take: never a sync of an open connection, which costs a fee."""
        return members["status"] == CLOSING or members.get("waiting_for") == WaitsFor.SYNC.value

    def _act(self, group: hubs.Seen, handle: Handle) -> bool:
        """Take a connection's step; what stands in its way may be away later."""
        try:
            life.sync(group.session, group.session.connection(handle), group.look(), Outcome(), pays=False)
        except LocalFiles:
            raise
        except PicopaymentsError as error:
            self._tell(handle, error)
        return True

    def _tell(self, handle: Handle, error: PicopaymentsError | None) -> None:
        """Say what stands in the way, once for each cause."""
        if error is not None:
            causes.tell({handle: error}, self.told)
            self.told.add(causes.cause(error))

    def _sleep(self, limit: float | None) -> None:
        """Sleep until there is another block, or long enough. Raises WaitRanOut."""
        pace = PACE if self.session.network.block_seconds else QUICK
        heights = [stand.height for stand in self.stands.values()]
        for _ in range(PATIENCE):
            left = pace if limit is None else min(pace, limit - time.monotonic())
            if left <= 0:
                raise self._ran_out()
            time.sleep(left)
            if self._height() not in heights:
                return

    def _height(self) -> int | None:
        """The tip's height; that of the last look where nobody tells."""
        try:
            return (self.at or self.session).chain.view(Query()).height
        except (InvalidSetting, Unreachable):
            return next((stand.height for stand in self.stands.values()), None)

    def _ran_out(self) -> WaitRanOut:
        left = {name: stand for name, stand in self.stands.items() if stand.status not in self.ends}
        told = {name: {"status": item.status, "waiting_for": item.waiting_for, "until_height": item.until}
                for name, item in left.items()}  # fmt: skip
        return WaitRanOut(f"{self.seconds:g} seconds are over. {self._goes_on()}", connections=told, result=self.result)

    def _goes_on(self) -> str:
        """Say that nothing is lost, and how to go on."""
        left = [stand for stand in self.stands.values() if stand.status not in self.ends]
        unseen = [handle.hex() for handle in self.handles if handle.hex() not in self.stands]
        told = "; ".join((*map(str, left), *(f"the connection {handle} was not seen yet" for handle in unseen)))
        if left and all(stand.status == OPENING and stand.waiting_for != WaitsFor.SYNC.value for stand in left):
            advice = "It opens by itself: `picopayments-cli status` shows when."
        else:
            advice = "`picopayments-cli sync` takes the next step, and with --wait goes on waiting."
            if left and all(stand.status == CLOSING for stand in left):
                advice = f"Its transactions are mined without this command. {advice}"
        return f"Nothing is lost: {told}. {advice}"


# Commands that wait -------------------------------------------------------------------------------------------------


def until(*ends: str) -> Callable[[Command], Command]:
    """Have a command take ``wait``, and ``patience`` in seconds: it waits until its connections are at these ends.

    They are those that the command names or has made, else all that are not closed.
    """

    def waiting(command: Command) -> Command:
        @wraps(command)
        def run(session: Session, *values: Any, wait: bool = False, patience: float | None = None, **named: Any) -> Any:
            if patience is not None and not wait:
                raise UsageError("--timeout goes with --wait: without it nothing is waited for.")
            if not wait or named.get("dry_run"):
                return command(session, *values, **named)
            try:
                result = command(session, *values, **named)
            except (HubUnreachable, SyncIncomplete) as error:
                result = error.result
                if not _all_closing(session, _awaited(session, result, named)):
                    raise
                log.warning(error.message)
            Wait(session, _awaited(session, result, named), ends, patience, result).run()
            return result

        return cast(Command, run)

    return waiting


def _awaited(session: Session, result: Any, named: Mapping[str, Any]) -> list[Handle]:
    """The connections that a command was about."""
    live = session.connections()
    text = named.get("handle") or (result.get("handle") if isinstance(result, dict) else None)
    if text is not None:
        return [handle_named(text, live)]
    return [handle for handle, item in live.items() if item.stage != CLOSED]


def _all_closing(session: Session, handles: Sequence[Handle]) -> bool:
    return bool(handles) and all(session.connection(handle).stage == CLOSING for handle in handles)


@contextmanager
def _lines() -> Iterator[Tell]:
    """Tell how far all are by lines of the log, as often as one changes."""
    told: dict[str, str] = {}

    def tell(stands: Sequence[Stand]) -> None:
        for stand in stands:
            if told.get(stand.handle) != str(stand):
                told[stand.handle] = str(stand)
                log.info("%s", stand)

    yield tell
