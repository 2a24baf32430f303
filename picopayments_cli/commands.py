"""The commands: help, example and arguments of each, and what an argument may look like."""

from __future__ import annotations

import argparse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_NUMBER = 2**63 - 1
MAX_DURATION = 31_536_000  # seconds: a year
# Nothing slow is imported here, so these and STATES stand elsewhere, too: tests/test_commands.py compares them.
MAX_SECONDS = 3600  # of a time-out
LEAST_DIGITS = 8  # of a handle
WORDS = 12  # of a wallet
# These stand here alone.
EXPIRE_TIME = 1024  # blocks, of a connection
EXPIRES = 86_400  # seconds, of a payment request
FAUCET_BTC, FAUCET_XCP = 100_000_000, 10_000_000_000


def positive(text: str) -> int:
    """An integer from 1 to 2^63 - 1, in plain decimal digits. Raises argparse.ArgumentTypeError."""
    plain = text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_NUMBER))
    number = int(text) if plain else 0
    if not 0 < number <= MAX_NUMBER:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {MAX_NUMBER}")
    return number


def number(text: str) -> int:
    """An integer from 0 to 2^63 - 1, in plain decimal digits. Raises argparse.ArgumentTypeError."""
    try:
        return 0 if text == "0" else positive(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {MAX_NUMBER}") from None


def port(text: str) -> int:
    """A TCP port, 0 for a free one. Raises argparse.ArgumentTypeError."""
    if not (text.isascii() and text.isdecimal() and len(text) <= len("65535") and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: a whole number from 0 to 65535")
    return int(text)


def words(text: str) -> int:
    """How many words a wallet has. Raises argparse.ArgumentTypeError."""
    if text not in ("12", "24"):
        raise argparse.ArgumentTypeError(f"{text!r} is not 12 or 24")
    return int(text)


def descriptor(text: str) -> int:
    """A file descriptor, in plain decimal digits. Raises argparse.ArgumentTypeError."""
    if not (text.isascii() and text.isdecimal() and len(text) <= len("65535")):
        raise argparse.ArgumentTypeError(f"{text!r} is not the number of a file descriptor")
    return int(text)


def quantity(text: str) -> int | str:
    """A quantity: satoshis, or text such as 1.5XCP, of which the unit is still to be judged.

    Raises argparse.ArgumentTypeError.
    """
    from picopayments_cli.errors import InvalidQuantity
    from picopayments_cli.quantities import read_quantity

    try:
        written = read_quantity(text)
        return written.quantity(divisible=False) if written.unit is None else str(written)
    except InvalidQuantity as error:
        raise argparse.ArgumentTypeError(error.message) from error


def quantity_or_zero(text: str) -> int | str:
    """A quantity, or 0. Raises argparse.ArgumentTypeError."""
    return 0 if text == "0" else quantity(text)


def backup_file(text: str) -> str:
    """The file of a backup, which is not named like the word before it. Raises argparse.ArgumentTypeError."""
    if text == "verify":
        raise argparse.ArgumentTypeError(
            "it is missing: `backup verify FILE` reads a backup through; one of that name is written as ./verify"
        )
    return text


def fee_rate(text: str) -> int | str:
    """A whole number of sat/vB, or ``none``. Raises argparse.ArgumentTypeError."""
    return text if text == "none" else positive(text)


def seconds(text: str) -> float:
    """Seconds in plain decimal digits, more than 0 and at most MAX_SECONDS. Raises argparse.ArgumentTypeError."""
    whole, _, rest = text.partition(".")
    short = len(text) <= len(f"{MAX_SECONDS}.000")
    plain = short and text.isascii() and whole.isdecimal() and (not rest or rest.isdecimal())
    if not plain or not 0 < float(text) <= MAX_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0, and at most {MAX_SECONDS}")
    return float(text)


def duration(text: str) -> int:
    """Seconds in plain decimal digits, at most MAX_DURATION. Raises argparse.ArgumentTypeError."""
    plain = text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_DURATION))
    if not plain or not 0 < int(text) <= MAX_DURATION:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of seconds from 1 to {MAX_DURATION}")
    return int(text)


class Command:
    """One command: its help, an example, and its arguments, which are those of the function of that name in ``api``."""

    def __init__(self, text: str, example: str, *arguments: tuple[str, dict[str, Any]]) -> None:
        self.text = text
        self.example = example
        self.arguments = arguments


def argument(name: str, text: str, **settings: Any) -> tuple[str, dict[str, Any]]:
    """One argument of a command, as argparse takes it: an option where the name begins with ``--``."""
    return name, {"help": text, **settings}


ASSET = argument("--asset", "only this asset")
HANDLE = argument("--handle", f"only the connection whose handle begins with these digits, at least {LEAST_DIGITS}")
TOKEN = argument("--token", "the bytes by which the payee knows the payment, in lower-case hex (default: random)")
UNCONFIRMED = argument("--unconfirmed", "list those of the mempool, too", action="store_true")
YES = argument("--yes", "do not ask for a confirmation, however large the quantity is", action="store_true")
STATES = ("sent", "received", "refused", "queued", "unanswered")
DRY_RUN = argument(
    "--dry-run",
    "publish nothing: print the transactions that would be published, their sizes and fees",
    action="store_true",
)
PATIENCE = argument(
    "--timeout", "with --wait: the most to wait (default: no limit)", metavar="SECONDS", type=positive, dest="patience"
)
UNITS = "in satoshis, or with its unit such as 1.5XCP"
COMMANDS = {
    "version": Command("Print the version of this program.", "version"),
    "hubstatus": Command(
        "Show your connections at the hub, its terms, funding addresses and liquidity.",
        "--testnet hubstatus --asset XCP",
        ASSET,
    ),
    "address": Command("Print the wallet's address.", "--testnet address"),
    "wallet new": Command(
        "Make a wallet from new words. Prints them, and its address.\n\n"
        "The words bring the wallet back when this machine is lost: write them down.\n"
        "The first command that needs a wallet makes one, too.",
        "--testnet wallet new --words 24",
        argument(
            "--words", "how many words: 12 or 24 (default: %(default)s)", metavar="NUMBER", type=words, default=WORDS
        ),
    ),
    "wallet show": Command(
        "Show the wallet's address and kind, and whether its file is encrypted.", "--testnet wallet show"
    ),
    "wallet import": Command(
        "Take in a private key as the wallet. Reads it from stdin, as WIF.\n\n"
        "The address is P2WPKH if p2wpkh: stands before the key, as Electrum writes it.\n"
        "Without that it is P2PKH.",
        "--testnet wallet import",
    ),
    "wallet export": Command(
        "Print the wallet's words, and its private key as WIF.\n\n"
        "Other wallets find the coins by the words (BIP 39, BIP 84), or by the key.",
        "--testnet wallet export",
    ),
    "wallet restore": Command(
        "Bring a wallet back from its words. Reads them from stdin.\n\n"
        "Then it asks the hub for the wallet's connections, and prints their handles.",
        "--testnet wallet restore",
    ),
    "wallet encrypt": Command(
        "Encrypt the wallet's file under a passphrase.\n\n"
        "Type the passphrase twice, or give it by --passphrase-fd or in\n"
        "PICOPAYMENTS_PASSPHRASE.",
        "--testnet wallet encrypt",
    ),
    "wallet decrypt": Command("Take the passphrase off the wallet's file.", "--testnet wallet decrypt"),
    "wallet passphrase": Command(
        "Give the wallet's file another passphrase.\n\n"
        "From --passphrase-fd come two lines: the old passphrase, then the new one.",
        "--testnet wallet passphrase",
    ),
    "balances": Command(
        "Show the confirmed funds of the wallet, or of another address, in satoshis.",
        "--testnet balances --asset XCP",
        ASSET,
        argument("--address", "the address to look at instead of the wallet's"),
    ),
    "blocksend": Command(
        "Send an asset, or BTC, by a transaction of its own. Prints its txid.\n\n"
        "The same command typed again pays again. At least 546 satoshis go with an\n"
        "asset. 20,000 satoshis stay in the wallet for fees that can't wait.",
        "--testnet blocksend XCP DESTINATION 1.5XCP",
        argument("asset", "the asset to send, or BTC", metavar="ASSET"),
        argument("destination", "the address that gets it", metavar="DESTINATION"),
        argument("quantity", f"how much, {UNITS}", metavar="QUANTITY", type=quantity),
        argument(
            "--extra-btc",
            "bitcoin that goes with an asset, in satoshis, instead of the least possible",
            metavar="QUANTITY",
            type=quantity_or_zero,
            default=0,
        ),
        YES,
        DRY_RUN,
    ),
    "connect": Command(
        "Open a connection with the hub, by a deposit that payments draw on.",
        "--testnet connect XCP 1000000",
        argument("asset", "the asset to pay and be paid in", metavar="ASSET"),
        argument(
            "quantity",
            f"the deposit, {UNITS}: the most that can be paid from it",
            metavar="QUANTITY",
            type=quantity,
        ),
        argument(
            "--expire-time",
            "blocks after which you can take the deposit back alone (default: %(default)s)",
            metavar="BLOCKS",
            type=positive,
            default=EXPIRE_TIME,
        ),
        argument(
            "--delay-time",
            "blocks that the hub waits for its payout, in which you can punish it (default: 2, on mainnet 144)",
            metavar="BLOCKS",
            type=positive,
        ),
        YES,
        DRY_RUN,
        argument("--wait", "wait until it is open", action="store_true"),
        PATIENCE,
    ),
    "queuepayment": Command(
        "Queue a payment, which the next sync makes. Prints its token.",
        "--testnet queuepayment SOURCE DESTINATION 1337",
        argument(
            "source",
            f"handle of the connection that pays, or {LEAST_DIGITS} digits that it begins with",
            metavar="SOURCE",
        ),
        argument("destination", "handle of the connection that is paid, in full", metavar="DESTINATION"),
        argument("quantity", f"how much, {UNITS}", metavar="QUANTITY", type=quantity),
        TOKEN,
        YES,
    ),
    "pay": Command(
        "Make a payment now. Prints what became of it; code 0 if the hub took it.\n\n"
        "Run again with the same token, the command pays once. It syncs the connection,\n"
        "which costs the hub's sync_fee.",
        "--testnet pay SOURCE DESTINATION 1337 --token c0ffee",
        argument("source", "handle of the connection that pays", metavar="SOURCE"),
        argument("destination", "handle of the connection that is paid, or a payment request", metavar="DESTINATION"),
        argument("quantity", f"how much, {UNITS}; a request names it", metavar="QUANTITY", type=quantity, nargs="?"),
        TOKEN,
        YES,
    ),
    "payments": Command(
        "List payments: sent, received, refused, and those on their way.\n\n"
        "A script gives --since the last index that it has seen.",
        "--testnet payments --since 41 --limit 100",
        HANDLE,
        ASSET,
        argument("--state", f"only in this state: {', '.join(STATES)}", metavar="STATE", choices=STATES),
        argument("--since", "only payments after this index, the oldest of them first", metavar="INDEX", type=number),
        argument(
            "--limit", "at most so many payments; without --since the newest ones", metavar="NUMBER", type=positive
        ),
        argument("--csv", "print CSV, not JSON", action="store_true"),
    ),
    "cancelpayment": Command(
        "Cancel a queued payment. Prints whether it was queued.\n\n"
        "A payment that a sync has sent can't be cancelled, answered or not.",
        "--testnet cancelpayment b3f1c2a0d4e59687",
        argument("token", "the payment's token, as queuepayment printed it", metavar="TOKEN"),
    ),
    "status": Command(
        "Show the connections and the wallet.",
        "--testnet status",
        HANDLE,
        argument("--verbose", "show more of each connection", action="store_true"),
    ),
    "sync": Command(
        "Make and receive payments; recover the funds of closed connections.\n\n"
        "Reports each payment that no command has reported yet.\n"
        "The hub charges each open connection its sync_fee.",
        "--testnet sync",
        HANDLE,
        argument("--wait", "wait until all are open or closed", action="store_true"),
        PATIENCE,
    ),
    "request": Command(
        "Make a payment request, which `decode` explains and `pay` pays.\n\n"
        "Prints it as a JSON string. Its token is the SHA-256 of the receipt that the\n"
        "payer gets.",
        "--testnet request HANDLE 1337 --memo coffee --expires 600",
        argument("handle", "the connection that is to be paid", metavar="HANDLE"),
        argument("quantity", f"how much, {UNITS}", metavar="QUANTITY", type=quantity),
        argument("--memo", "what it is for, 200 bytes at most", metavar="TEXT", default=""),
        argument(
            "--expires",
            "seconds in which the request can be paid (default: %(default)s, a day)",
            metavar="SECONDS",
            type=duration,
            default=EXPIRES,
        ),
        argument("--qr", "draw it on stderr as a QR code, too", action="store_true"),
    ),
    "decode": Command(
        "Explain a payment request. Needs neither a hub nor files.",
        "decode REQUEST",
        argument("request", "the payment request", metavar="REQUEST"),
    ),
    "listen": Command(
        "Wait for payments, and print each as it arrives: one JSON object a line.\n\n"
        "It asks the hub what waits, which costs nothing, and syncs when that is more\n"
        "than the sync_fee. Exit code 6: no payment arrived before the time-out.",
        "--testnet listen --after 17 --timeout 600",
        argument(
            "--after", "first the payments after this index (default: only new payments)", metavar="INDEX", type=number
        ),
        argument(
            "--timeout",
            "stop after so many seconds (default: at Ctrl-C)",
            metavar="SECONDS",
            type=duration,
            dest="seconds",
        ),
    ),
    "close": Command(
        "Close a connection and settle it on the blockchain.\n\n"
        "Tells the hub, and syncs once more, which charges the hub's sync_fee.",
        "--testnet close HANDLE",
        argument("handle", f"the connection's handle, or {LEAST_DIGITS} digits that it begins with", metavar="HANDLE"),
        DRY_RUN,
        argument("--wait", "wait until it is closed", action="store_true"),
        PATIENCE,
    ),
    "history": Command(
        "List what was done: deposits, payments, fees, transactions.",
        "--testnet history",
        HANDLE,
    ),
    "cull": Command(
        "Put connections that are over into the archive. Prints their handles.\n\n"
        "A connection is over once it is closed and all its money is back for good.",
        "--testnet cull",
        HANDLE,
    ),
    "listutxos": Command(
        "List the unspent outputs of an address.",
        "--testnet listutxos ADDRESS --unconfirmed",
        argument("address", "the address", metavar="ADDRESS"),
        UNCONFIRMED,
    ),
    "searchrawtxs": Command(
        "List the transactions of an address, oldest first.",
        "--testnet searchrawtxs ADDRESS --unconfirmed",
        argument("address", "the address", metavar="ADDRESS"),
        UNCONFIRMED,
    ),
    "getrawtx": Command(
        "Print a transaction in hex, or null where it is unknown.",
        "--testnet getrawtx TXID --verbose",
        argument("txid", "the transaction's id", metavar="TXID"),
        argument("--verbose", "print an object with its parts", action="store_true"),
    ),
    "backup": Command(
        "Write all that is of the wallet into one encrypted file, or read one through.\n\n"
        "Only the wallet's key opens the file, and the key is not in it. The file\n"
        "replaces an older backup, never a newer one. With the setting `backup` each\n"
        "command writes its changes there by itself. `backup verify FILE` checks a whole\n"
        "file and changes nothing.",
        "--testnet backup /media/stick/wallet.backup",
        argument(
            "action", "read the file through, and print what is in it", metavar="verify", nargs="?", choices=("verify",)
        ),
        argument("file", "the backup", metavar="FILE", type=backup_file),
    ),
    "restore": Command(
        "Put a backup into an empty basedir. Prints what was in it, and how old it is.\n\n"
        "Where the basedir has no wallet yet, the wallet's words or its key are read from\n"
        "the terminal or from standard input. The connections are stopped: run sync next.\n"
        "Each goes on with the newest state if the hub proves it. Else it closes.",
        "--testnet --basedir NEW restore /media/stick/wallet.backup",
        argument("file", "the backup", metavar="FILE"),
    ),
    "config": Command(
        "Show the settings and where they come from, or set one in the settings file.\n\n"
        "Passwords are not shown. An empty VALUE takes a setting out of the file.",
        "--testnet config timeout 20",
        argument("key", "only this setting", metavar="KEY", nargs="?"),
        argument("value", "the value to set", metavar="VALUE", nargs="?"),
    ),
    "serve": Command(
        "Serve the commands over JSON-RPC, and watch over the wallet.\n\n"
        "It looks at the chain, settles in time, punishes, and syncs what is queued or\n"
        "waits at the hub. Once it accepts requests it prints its URL and the paths of\n"
        "two cookie files, whose content is user:password for HTTP Basic authentication:\n"
        "one for all methods, one for programs that only are paid. Methods are named\n"
        "like commands, their parameters like arguments. Ctrl-C stops it.",
        "--testnet serve --port 0 --webhook http://127.0.0.1:8000/paid",
        argument("--host", "the loopback address to serve at (default: %(default)s)", default="127.0.0.1"),
        argument(
            "--port",
            "the port, 0 for a free one (default: 1000 above that of the network's hub, such as 6000 on mainnet)",
            type=port,
        ),
        argument(
            "--every",
            "seconds between two looks at the chain, at most (default: %(default)g)",
            metavar="SECONDS",
            type=seconds,
            default=60.0,
        ),
        argument("--events", "add each event to a file, one JSON object a line; - for stdout", metavar="FILE"),
        argument("--exec", "start a program for each event, which gets it on stdin", metavar="PROGRAM", dest="program"),
        argument("--webhook", "post each event to a URL, signed with a secret", metavar="URL"),
    ),
    "mine": Command(
        "Mine blocks (regtest only). Prints their hashes.",
        "--regtest mine 6",
        argument(
            "blocks", "how many blocks (default: %(default)s)", metavar="BLOCKS", nargs="?", type=positive, default=1
        ),
    ),
    "faucet": Command(
        "Give an address bitcoins and assets (regtest only).\n\n"
        f"Without arguments it gives the wallet {FAUCET_BTC // 10**8} BTC and {FAUCET_XCP // 10**8} XCP.",
        "--regtest faucet --asset XCP --quantity 5000000000",
        argument("address", "who gets them (default: the wallet)", metavar="ADDRESS", nargs="?"),
        argument(
            "--btc", "how much bitcoin, in satoshis, or with its unit such as 0.1BTC", metavar="QUANTITY", type=quantity
        ),
        argument("--asset", f"the asset to give: {FAUCET_XCP} satoshis of it where --quantity is left out"),
        argument("--quantity", f"how much of the asset, {UNITS}", type=quantity),
    ),
    "feerate": Command(
        "Set the node's fee estimate and its mempool's minimum (regtest only).\n\n"
        "Blocks leave out transactions that pay less than the estimate. Without an\n"
        "estimate they take all. The mempool throws out transactions that pay less than\n"
        "its minimum. Prints both.",
        "--regtest feerate 20 --minimum 5",
        argument("rate", "the estimate in sat/vB, or none", metavar="RATE", nargs="?", type=fee_rate),
        argument("--minimum", "what the mempool asks for at least, in sat/vB", metavar="RATE", type=positive),
    ),
    "demo": Command(
        "Show whole payments on this machine (regtest only).\n\n"
        "A node, a hub and four clients: pay both ways, cheat, close, settle, add up.",
        "--regtest demo",
    ),
    "completion": Command(
        "Print a script with which a shell completes commands, options and handles.\n\n"
        'Bash and zsh: put eval "$(picopayments-cli completion bash)" into .bashrc\n'
        "or .zshrc. Fish: picopayments-cli completion fish | source",
        "completion bash",
        argument("shell", "bash, zsh or fish", metavar="SHELL", choices=("bash", "zsh", "fish")),
    ),
}
GROUPS = {
    "wallet": Command(
        "Make a wallet, show it, bring it back from its words, and encrypt its file.", "--testnet wallet show"
    )
}
COMMANDS["help"] = Command(
    "Show the help of the program, or of one command.",
    "help connect",
    argument(
        "topic",
        "the command to show the help of",
        metavar="COMMAND",
        nargs="*",
        choices=[*dict.fromkeys(word for name in COMMANDS for word in name.split()), "help"],
    ),
)
