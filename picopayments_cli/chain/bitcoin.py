"""Bitcoin Core's JSON-RPC, as far as somebody needs it who follows blocks and mempool, and hands in packages."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING
from pathlib import Path
from typing import Any

import requests

from picopayments_cli.chain import Waiting
from picopayments_cli.chain.answers import (
    checked_transaction,
    member,
    members,
    package_fault,
    package_faults,
    raw_of,
    satoshis_of,
    txid_of,
    txid_to_broadcast,
    whole,
)
from picopayments_cli.channel.fees import FeeFrac
from picopayments_cli.channel.values import Outpoint
from picopayments_cli.errors import (
    BadAnswer,
    BroadcastRefused,
    NodeRefused,
    NodeUnreachable,
    PicopaymentsError,
    UnknownTransaction,
)
from picopayments_cli.rpc import RETRIES, TIMEOUT, RpcClient
from picopayments_cli.transport import SYSTEM, Trust

_NOT_FOUND = -5
_OUT_OF_RANGE = -8
_ALREADY_IN_CHAIN = -27
_ALREADY_KNOWN = ("txn-already-known", "txn-already-in-mempool", "already in utxo set", "already in block chain")
_FEE_BLOCKS = 3


@dataclass(frozen=True)
class Unspent:
    """An output that nothing spends: its confirmations, satoshis and scriptPubKey."""

    confirmations: int
    value: int
    script: bytes


class BitcoinNode:
    """Typed calls of one Bitcoin Core node. Hashes of blocks and txids are bytes in wire order.

    ``url`` may hold user and password; ``cookie`` names the node's cookie file instead. ``timeout``: seconds for a
    connection, and for the whole call with it. Every call raises NodeUnreachable, BadAnswer, NodeRefused.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: tuple[float, float] = TIMEOUT,
        retries: int = RETRIES,
        cookie: Path | None = None,
        trust: Trust = SYSTEM,
    ) -> None:
        self._rpc = RpcClient(
            url,
            timeout=timeout,
            retries=retries,
            trust=trust,
            auth=None if cookie is None else _Cookie(cookie),
            unreachable=NodeUnreachable,
        )

    @property
    def url(self) -> str:
        """Return the node's URL, without credentials."""
        return self._rpc.url

    def best_block(self) -> bytes:
        """Return the hash of the tip."""
        return txid_of(self._call("getbestblockhash"), "block hash")

    def height_of(self, block_hash: bytes) -> int:
        """Return a block's height. Raises NodeRefused where the node knows no such block."""
        return whole(self._call("getblockheader", block_hash[::-1].hex(), True), "height")

    def block_hash(self, height: int) -> bytes | None:
        """Return the hash of the best chain's block at a height; None above its tip."""
        try:
            return txid_of(self._call("getblockhash", height), "block hash")
        except NodeRefused as error:
            if error.data.get("code") != _OUT_OF_RANGE:
                raise
            return None

    def block(self, block_hash: bytes) -> bytes:
        """Return a block's bytes. Raises NodeRefused where the node has it not (any more)."""
        return raw_of(self._call("getblock", block_hash[::-1].hex(), 0), "block")

    def mempool(self) -> list[bytes]:
        """Return the txids of the mempool."""
        return [txid_of(text) for text in members(self._call("getrawmempool"), "txids")]

    def transactions(self, txids: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return raw transactions by txid in one round trip, each checked against it; unknown ones are left out.

        Without an index of transactions the node knows those of its mempool only.
        """
        wanted = list(dict.fromkeys(txids))
        outcomes = self._rpc.outcomes([("getrawtransaction", [txid[::-1].hex()]) for txid in wanted])
        found = {}
        for txid, outcome in zip(wanted, outcomes, strict=True):
            if not isinstance(outcome, PicopaymentsError):
                found[txid] = checked_transaction(raw_of(outcome), txid)
            elif outcome.data.get("code") != _NOT_FOUND:
                raise outcome
        return found

    def unspent(self, outpoints: Collection[Outpoint], *, mempool: bool = True) -> set[Outpoint]:
        """Tell which outputs nothing spends, in blocks or in the ``mempool``, in one round trip."""
        return set(self.depths(outpoints, mempool=mempool))

    def depths(self, outpoints: Collection[Outpoint], *, mempool: bool = True) -> dict[Outpoint, int]:
        """The confirmations of those that nothing spends: 0 for what waits in the mempool itself."""
        return {outpoint: out.confirmations for outpoint, out in self.outputs(outpoints, mempool=mempool).items()}

    def outputs(self, outpoints: Collection[Outpoint], *, mempool: bool = True) -> dict[Outpoint, Unspent]:
        """Tell what those are that nothing spends, in one round trip."""
        asked = list(outpoints)
        calls = [("gettxout", [item.txid[::-1].hex(), item.vout, mempool]) for item in asked]
        found = {}
        for outpoint, outcome in zip(asked, self._rpc.outcomes(calls) if calls else (), strict=True):
            if isinstance(outcome, PicopaymentsError):
                raise outcome
            if outcome is not None:
                found[outpoint] = _unspent(outcome)
        return found

    def spenders(self, outpoints: Collection[Outpoint]) -> dict[Outpoint, bytes]:
        """The txids of what spends these in the mempool; left out where nothing does."""
        asked = [{"txid": item.txid[::-1].hex(), "vout": item.vout} for item in outpoints]
        found = {}
        for row in members(self._call("gettxspendingprevout", asked), "spenders") if asked else ():
            spender = member(row, "spendingtxid", str, None)
            if spender is not None:
                spent = Outpoint(txid_of(member(row, "txid", str)), whole(row, "vout", 0, 2**32 - 1))
                found[spent] = txid_of(spender)
        return {item: found[item] for item in outpoints if item in found}

    def verbose_transaction(self, txid: bytes) -> dict[str, Any]:
        """Return a transaction as the node tells it, amounts in BTC. Raises UnknownTransaction."""
        shown = txid[::-1].hex()
        try:
            answer = self._call("getrawtransaction", shown, True)
        except NodeRefused as error:
            if error.data.get("code") != _NOT_FOUND:
                raise
            raise UnknownTransaction(f"The node knows no transaction {shown}.", txid=shown) from error
        found: dict[str, Any] = member({"transaction": answer}, "transaction", dict)
        return found

    def broadcast(self, raw: bytes) -> bytes:
        """Hand a transaction to the network; its txid. One that the node has already is no error.

        Raises BroadcastRefused with the node's reason.
        """
        txid = txid_to_broadcast(raw)
        try:
            self._call("sendrawtransaction", raw.hex())
        except NodeRefused as error:
            known = error.data.get("code") == _ALREADY_IN_CHAIN
            if not known and not any(words in error.message.lower() for words in _ALREADY_KNOWN):
                raise BroadcastRefused(
                    f"The node refused the transaction: {error.message}",
                    txid=txid[::-1].hex(),
                    reason=error.message,
                    code=error.data.get("code"),
                ) from error
        return txid

    def tip_is_current(self) -> bool:
        """Whether the node has every block that it knows the header of, and has peers where it needs any."""
        info = self._call("getblockchaininfo")
        current = whole(info, "blocks") == whole(info, "headers")
        if member(info, "chain", str) == "regtest":
            return current
        peers = whole(self._call("getnetworkinfo"), "connections")
        return current and not member(info, "initialblockdownload", bool) and peers > 0

    def waiting(self, txid: bytes) -> Waiting | None:
        """A transaction in the mempool, None where it is not there."""
        try:
            entry = self._call("getmempoolentry", txid[::-1].hex())
        except NodeRefused as error:
            if error.data.get("code") != _NOT_FOUND:
                raise
            return None
        fee = int(satoshis_of(member(member(entry, "fees", dict), "base", (int, float))))
        children = tuple(txid_of(text) for text in members(entry.get("spentby"), "spentby"))
        return Waiting(FeeFrac(fee, whole(entry, "vsize", 1)), children)

    def submit(self, raws: Sequence[bytes]) -> None:
        """Hand a transaction, or a parent and its child, to the network. Raises BroadcastRefused."""
        if len(raws) == 1:
            self.broadcast(raws[0])
            return
        answer = self.package(raws)
        if member(answer, "package_msg", str) != "success":
            reasons = package_faults(answer)
            if not reasons or not all(any(known in reason for known in _ALREADY_KNOWN) for reason in reasons):
                raise _refused(package_fault(answer))

    def package(self, raws: Sequence[bytes]) -> dict[str, Any]:
        """Hand a parent and its child to the network; Core's answer, which tells what became of each.

        Raises BroadcastRefused where the node judges neither.
        """
        try:
            answer = self._call("submitpackage", [raw.hex() for raw in raws])
        except NodeRefused as error:
            raise _refused(error.message) from error
        found: dict[str, Any] = member({"package": answer}, "package", dict)
        return found

    def estimate(self) -> int | None:
        """The rate for three blocks in sat/vB, rounded up and at least 1; None where the node has no estimate."""
        return _rate(self._call("estimatesmartfee", _FEE_BLOCKS))

    def best_block_and_estimate(self) -> tuple[bytes, int | None]:
        """Return the hash of the tip, and the estimate, in one round trip."""
        best, estimate = self._rpc.batch([("getbestblockhash", []), ("estimatesmartfee", [_FEE_BLOCKS])])
        return txid_of(best, "block hash"), _rate(estimate)

    def _call(self, method: str, *params: Any) -> Any:
        return self._rpc.call(method, params, retry=True)


def _rate(estimate: Any) -> int | None:
    rate = member(estimate, "feerate", (int, float), None)
    if rate is None:
        return None
    try:
        return max(1, int((satoshis_of(rate) / 1000).to_integral_value(ROUND_CEILING)))
    except ValueError as error:
        raise BadAnswer(f"The node estimates an impossible fee rate: {rate} BTC/kvB.", feerate=rate) from error


def _unspent(row: Any) -> Unspent:
    try:
        value = int(satoshis_of(member(row, "value", (int, float))))
    except ValueError as error:
        raise BadAnswer(f"The node told of an impossible output: {error}.", member="value") from error
    script = raw_of(member(member(row, "scriptPubKey", dict), "hex", str), "script")
    return Unspent(whole(row, "confirmations"), value, script)


def _refused(reason: str) -> BroadcastRefused:
    return BroadcastRefused(f"The node refused the package: {reason}", reason=reason)


class _Cookie:
    """Adds the credentials that the node wrote at its last start."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        try:
            user, _, password = self._path.read_bytes().strip().partition(b":")
        except OSError as error:
            raise NodeUnreachable(
                f"The cookie file {self._path} can't be read ({error.strerror}). Start the node, or give its user and "
                "password in the URL.",
                path=str(self._path),
            ) from error
        request.prepare_auth((user, password))
        return request
