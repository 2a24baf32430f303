"""How far a connection has come, in one word: for the client's files, the hub's database, the wire and ``status``."""

from __future__ import annotations

ASKED = "asked"  # the client has asked for a handle
REQUESTED = "requested"  # the hub has given one
PROPOSED = "proposed"  # the client has signed its deposit, and the hub has not agreed yet
AGREED = "agreed"  # both have agreed to the deposits: the hub names this stage in a refusal until they are buried
OPENING = "opening"  # ``status`` shows it for proposed, and for agreed until both deposits are buried
OPEN = "open"  # payments are possible
CLOSING = "closing"  # nothing new is signed, and each side takes back its own
CLOSED = "closed"  # nothing is left to take back
