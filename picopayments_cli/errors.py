"""Every error of the program: one class per cause, with a stable name, the numbers involved and the next step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class PicopaymentsError(Exception):
    """Base of all errors that a user or a peer can cause.

    ``message`` says what is wrong and what to do next; ``data`` holds the numbers involved, ready for JSON.
    ``exit_code`` is what the command line returns: 1 refused, 2 usage, 3 unreachable, 4 local files,
    5 the peer misbehaved, 6 a wait ran out. ``said`` is the object in which a peer says it, signed or not; ``result``
    what the command brought all the same, None where it brought nothing.
    """

    exit_code: ClassVar[int] = 1
    said: Mapping[str, Any] | None = None
    result: Any = None

    def __init__(self, message: str, **data: Any) -> None:
        super().__init__(message)
        self.message = message
        self.data = data

    @property
    def name(self) -> str:
        """The stable name of the cause: the class's own."""
        return type(self).__name__

    def as_json(self) -> dict[str, Any]:
        """``{"name", "message", "data"}``, as printed on stderr and sent by the hub."""
        return {"name": self.name, "message": self.message, "data": self.data}


class Unreachable(PicopaymentsError):
    """Base: the hub or the node did not answer."""

    exit_code = 3


class LocalFiles(PicopaymentsError):
    """Base: files of this machine are locked, damaged or newer than this program."""

    exit_code = 4


class CommandUnfinished(PicopaymentsError):
    """Base: a command did not do all that it was asked for. No peer can send such an error."""


class PeerMisbehaved(PicopaymentsError):
    """Base: a check of the money rules refused what the peer sent."""

    exit_code = 5


# Input --------------------------------------------------------------------------------------------------------------


class UsageError(PicopaymentsError):
    """The command line has a word that is wrong, missing or unknown."""

    exit_code = 2


class InvalidAddress(PicopaymentsError):
    """Not an address of this network."""


class MemoRequired(PicopaymentsError):
    """The owner of the address has told the ledger to refuse all that comes without a memo."""


class InvalidAsset(PicopaymentsError):
    """Not the name of an asset."""


class InvalidHex(PicopaymentsError):
    """Not lower-case hex of the expected length."""


class InvalidKey(PicopaymentsError):
    """Not a private key in wallet import format (WIF), or the key of another network."""


class InvalidWords(PicopaymentsError):
    """Not the 12 or 24 words of a wallet (BIP 39, English)."""


class InvalidQuantity(PicopaymentsError):
    """Not a whole number of an asset's smallest unit inside the limits of Counterparty (1 to 2^63 - 1)."""


class InvalidTime(PicopaymentsError):
    """A number of blocks outside the limits of the network, the protocol or the hub's terms."""


class InvalidRequest(PicopaymentsError):
    """Not a payment request, or one that was changed on its way."""


class RequestExpired(PicopaymentsError):
    """The time of the payment request is over: it is not paid any more."""


class TooManyRequests(PicopaymentsError):
    """The connection can keep no more payment requests that are neither paid nor expired."""


class WrongHub(PicopaymentsError):
    """The payment request and the connection that is to pay it are at different hubs."""


class InvalidSetting(PicopaymentsError):
    """A setting that this program does not know, or a value that it can't use."""


class InvalidUrl(PicopaymentsError):
    """Not a URL that this program can call."""


class WrongNetwork(PicopaymentsError):
    """The command exists on another network only, or the peer is on another network."""


class UnknownHandle(PicopaymentsError):
    """No connection of that handle."""


class AmbiguousHandle(PicopaymentsError):
    """The first digits of more than one connection's handle."""


class UnknownAsset(PicopaymentsError):
    """The ledger knows no such asset, or no connection here is in it."""


class UnknownMethod(PicopaymentsError):
    """The server has no such method."""


class MethodNotAllowed(PicopaymentsError):
    """The cookie is for programs that are only paid, and does not allow this command."""


class InvalidParams(PicopaymentsError):
    """The method does not take such an argument, or lacks one."""


class TokenInUse(PicopaymentsError):
    """The token names another payment already."""


class PaymentToSelf(PicopaymentsError):
    """A connection is named as the payee of its own payment."""


class ExtraMissing(PicopaymentsError):
    """The command needs libraries that are not installed. An extra of the package brings them."""


# Funds --------------------------------------------------------------------------------------------------------------


class InsufficientFunds(PicopaymentsError):
    """The wallet holds too little of an asset."""


class InsufficientBitcoin(PicopaymentsError):
    """The wallet holds too few confirmed satoshis for a transaction."""


class InsufficientLiquidity(PicopaymentsError):
    """The hub can't match a deposit."""


class TooManyPromises(PicopaymentsError):
    """One key, or one address, asks for more connections at a time than the hub promises."""


class LockFeeTooHigh(PicopaymentsError):
    """The hub asks more for locking its deposit than the client would pay."""


class SyncFeeTooHigh(PicopaymentsError):
    """The hub asks more for each sync than the client would pay."""


class NotTransferable(PicopaymentsError):
    """The connection can't move that quantity."""


class AmountExceedsSpendable(PicopaymentsError):
    """Payments and fee exceed what the payer has in the connection."""


class PaymentExceedsReceivable(PicopaymentsError):
    """A payment exceeds what the payee's connection can take."""


# State of a connection ----------------------------------------------------------------------------------------------


class AssetNotInTerms(PicopaymentsError):
    """The hub offers no connections for the asset."""


class AssetMismatch(PicopaymentsError):
    """Payer and payee are connected in different assets."""


class ConnectionNotOpen(PicopaymentsError):
    """The connection is opening, closing or closed."""


class ConnectionTooOld(PicopaymentsError):
    """The connection is of version 1.0.4. Only that version settles it."""


class OldProtocol(PicopaymentsError):
    """The connection is of protocol 2. Only the version that made the connection settles it."""


class ConnectionNotOver(PicopaymentsError):
    """The connection holds, or may yet hold, something of this party's."""


class HubRestored(PicopaymentsError):
    """The hub has an old database, and does not know the connection's newest state. Close the connection."""


class HubDraining(PicopaymentsError):
    """The hub takes no new connections, since it is shutting down."""


class CloseSigned(PicopaymentsError):
    """This party has sent its signature of a close: from then on the connection only closes."""


class CloseBeyondLimit(PicopaymentsError):
    """A close that would give this party less than it is guaranteed."""


class DepositAlreadyGiven(PicopaymentsError):
    """The hub has already agreed to another deposit for this handle."""


class DepositRefused(PicopaymentsError):
    """A deposit outside the terms."""


class UnknownDeposit(PicopaymentsError):
    """The chain does not know a connection's deposit."""


class DepositConflicted(PicopaymentsError):
    """A connection's deposit can't be mined any more, since something else has spent a coin of it."""


class StaleRequest(PicopaymentsError):
    """A request that has been overtaken: it comes from an older copy of the files, or from a second machine."""

    exit_code = 4


class FeeTooHigh(PicopaymentsError):
    """A fee above the ceiling, one's own or the hub's."""


class ChannelUnspendable(PicopaymentsError):
    """Bitcoin's rules would refuse the transactions that take the deposit back. No deposit was made."""


class FeeUnknown(PicopaymentsError):
    """The node has no fee estimate now. Without one a connection's fees can't be fixed."""


class BroadcastRefused(PicopaymentsError):
    """The node refused a transaction."""


class TaprootInactive(PicopaymentsError):
    """The network's ledger does not know taproot addresses yet. Connections need them."""


class NotConfirmed(PicopaymentsError):
    """The quantity is above ``ask_above``, and nobody said yes to it."""


class UnknownTransaction(PicopaymentsError):
    """The node knows no such transaction."""


# Reachability -------------------------------------------------------------------------------------------------------


class HubUnreachable(Unreachable):
    """The hub did not answer."""


class NodeUnreachable(Unreachable):
    """The chain's node did not answer."""


class NodeBehind(Unreachable):
    """The chain as a node or a hub sees it is not current."""


class TooMuchAsked(Unreachable):
    """The answer is larger than the server sends, or the address has asked too much in a short time."""


class NodeTooOld(Unreachable):
    """The node is too old: its ledger could lose what is on a channel."""


class BadAnswer(Unreachable):
    """The server answered, but not in the protocol."""


class TruncatedHistory(BadAnswer):
    """The node lists only the newest part of an address's history."""


class NodeRefused(PicopaymentsError):
    """The chain's node refused a request. This program has no name for the cause."""


class HubRefused(PicopaymentsError):
    """The hub refused a request. This program has no name for the cause."""


# Local files --------------------------------------------------------------------------------------------------------


class StoreLocked(LocalFiles):
    """Another process holds the lock of the folder or database."""


class StoreDamaged(LocalFiles):
    """A file is missing, or can't be read as what it should be."""


class StoreNewer(LocalFiles):
    """A file was written by a newer version of this program."""


class StoreUnusable(LocalFiles):
    """A folder or file can't be opened or written."""


class BackupDamaged(LocalFiles):
    """The file is no backup, or a part of it was changed or is missing."""


class ForeignBackup(LocalFiles):
    """A backup of another wallet, hub or network."""


class BackupNewer(LocalFiles):
    """The backup has something that this folder lacks. It was not replaced."""


class FolderNotEmpty(LocalFiles):
    """The folder or database is not empty. No backup can be restored into it."""


class RestoreUnfinished(LocalFiles):
    """A restore into this folder was cut off before its end."""


class WalletExists(LocalFiles):
    """There is another wallet here already."""


class WalletMissing(LocalFiles):
    """There is no wallet of this network in this folder."""


class WrongWallet(LocalFiles):
    """The connections here are of another wallet's key."""


class PassphraseMissing(LocalFiles):
    """The wallet is encrypted, and nobody gave its passphrase."""


class WrongPassphrase(LocalFiles):
    """Not the passphrase of the wallet."""


class WalletEncrypted(LocalFiles):
    """The wallet is encrypted already."""


class WalletNotEncrypted(LocalFiles):
    """The wallet is not encrypted."""


class DatabaseUnusable(LocalFiles):
    """The hub's database can't be used, or is newer than this program."""


class DatabaseBusy(LocalFiles):
    """Others kept the hub from writing. Nothing was written: try again."""


class DatabaseOutdated(LocalFiles):
    """The hub's database is older than one that it has used, or another one."""


class ResourcesExhausted(LocalFiles):
    """The system lets the hub open too few files."""


class PortUnusable(LocalFiles):
    """The server can't listen where it was told to."""


# Misbehaviour of a peer ---------------------------------------------------------------------------------------------


class BadHubSignature(PeerMisbehaved):
    """A reply that the pinned key of the hub did not sign."""


class SyncsHidden(PeerMisbehaved):
    """The hub counts fewer syncs than it has signed before: it hides some, or has lost them."""


class BadClientSignature(PeerMisbehaved):
    """A request that the connection's key did not sign."""


class BadReply(PeerMisbehaved):
    """A signed reply of another shape than the protocol's, or bound to another request."""


class BadRequest(PeerMisbehaved):
    """A signed request of another shape than the protocol's."""


class BadTerms(PeerMisbehaved):
    """Terms that no honest hub offers."""


class BadDepositScript(PeerMisbehaved):
    """Not byte for byte the agreed deposit script."""


class BadDeposit(PeerMisbehaved):
    """Not byte for byte the agreed deposit transaction."""


class BadPayerSignature(PeerMisbehaved):
    """A commit without the payer's valid, relayable signature."""


class BadPayeeSignature(PeerMisbehaved):
    """A remainder or a close without the payee's valid signatures."""


class BadChannelKey(PeerMisbehaved):
    """A key of a channel that is not exactly 32 bytes, or no point of the curve."""


class RepeatedKey(PeerMisbehaved):
    """A key that stands at two places of a connection."""


class BadWalletScript(PeerMisbehaved):
    """A wallet's script that is neither P2PKH nor P2WPKH of its owner's key."""


class RemainderMissing(PeerMisbehaved):
    """The message lacks the signature of a remainder that it owes. It counts as no answer."""


class AnchorsDiffer(PeerMisbehaved):
    """The peer names another output as a deposit's anchor."""


class BadCommitQuantity(PeerMisbehaved):
    """A commit that moves less than agreed, or more than the deposit."""


class UnknownRevokeHash(PeerMisbehaved):
    """A commit on a hash that was never asked for, or was used before."""


class RepeatedHash(PeerMisbehaved):
    """A hash that the connection has seen before."""


class BadSecret(PeerMisbehaved):
    """The secret has the wrong length, or belongs to no hash in question."""


class AmountsDiffer(PeerMisbehaved):
    """The quantities moved are less than the payments listed."""


class BadPreviousTransaction(PeerMisbehaved):
    """A previous transaction whose hash is not the txid asked for."""


class PaymentRefused(CommandUnfinished):
    """The hub did not take a payment."""


class PaymentNotSent(CommandUnfinished):
    """No sync has taken a payment yet."""


class SyncIncomplete(CommandUnfinished):
    """Connections failed to sync; stdout tells what the sync brought all the same."""


class DemoFailed(CommandUnfinished):
    """A step of the demonstration failed, or its sums do not add up."""


class WaitRanOut(CommandUnfinished):
    """The time-out came before the awaited event."""

    exit_code = 6
