"""Keys, secrets and passwords stay where they belong: in private files, and in the messages that reveal them."""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
from bitcoin.core import CBlock
from cheats import KeptBlocks
from network_support import WAIT, Client, HubProcess, key_in, wait_until
from regtest_support import NodeProcess, running_node
from servers import Relay, port_of

from picopayments_cli import cli, config
from picopayments_cli.chain.bitcoin import BitcoinNode
from picopayments_cli.channel.duplex import Half
from picopayments_cli.channel.keys import Secrets
from picopayments_cli.channel.networks import NETWORKS, wif_of_secret
from picopayments_cli.channel.state import Signed
from picopayments_cli.channel.values import Handle, Quantity, Secret, hash_of
from picopayments_cli.client.connection import Connection, Pending
from picopayments_cli.client.document import from_document
from picopayments_cli.client.session import Session
from picopayments_cli.errors import InvalidUrl, StoreUnusable
from picopayments_cli.hub.book import Book, UnitOfWork
from picopayments_cli.hub.database import Database, default_url
from picopayments_cli.hub.folder import Folder
from picopayments_cli.hub.hub import Urls
from picopayments_cli.rpc import RpcClient

PACKAGE = Path(config.__file__).parent
REGTEST = NETWORKS["regtest"]
PASSWORDS = {name: f"{name}-Pa55word-{name[::-1]}" for name in ("hub_chain", "hub_bitcoin", "alice_chain", "bob_hub")}
LATER = 5  # numbers of revoke secrets beyond those in use


# What must not be seen ----------------------------------------------------------------------------------------------


def shapes(secret: bytes) -> set[bytes]:
    """Everything that a secret may look like in a text or a file."""
    whole = int.from_bytes(secret, "big")
    plain = {secret, secret.hex().encode(), secret.hex().upper().encode(), secret[::-1].hex().encode()}
    coded = {base64.b64encode(secret).rstrip(b"="), repr(secret)[2:-1].encode(), str(whole).encode()}
    return plain | coded | {json.dumps(list(secret)).encode(), repr(list(secret)).encode()}


def seen(text: bytes, secrets: Mapping[str, bytes]) -> list[str]:
    """The names of the secrets that a text shows."""
    return [name for name, secret in secrets.items() if any(shape in text for shape in shapes(secret))]


class Arguments:
    """The command lines of all processes, looked at again and again while they are new."""

    LOOKS = 4  # at each process: it has another command line before its program begins

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self._looks: Counter[str] = Counter()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._ends.wait(0.1):
            for number in os.listdir("/proc"):
                if number.isdecimal() and self._looks[number] < self.LOOKS:
                    self._looks[number] += 1
                    with contextlib.suppress(OSError):
                        self.seen.add(Path(f"/proc/{number}/cmdline").read_bytes())

    def stop(self) -> None:
        """Look no more."""
        self._ends.set()
        self._thread.join(WAIT)


# A whole life -------------------------------------------------------------------------------------------------------


@dataclass
class RecordedLife:
    """A hub and two clients from the first command to the last block, and all that they wrote."""

    folder: Path
    node: NodeProcess
    to_node: Relay
    environ: pytest.MonkeyPatch
    token: bytes = b""  # of what was served
    arguments: Arguments = field(default_factory=Arguments)
    printed: bytearray = field(default_factory=bytearray)
    early: bytes = b""  # what had passed between clients and hub before anything was closed
    early_secrets: dict[str, bytes] = field(default_factory=dict)
    handles: dict[str, str] = field(default_factory=dict)

    def start_hub(self, port: int = 0) -> None:
        """Start the hub at its most talkative; its passwords stand in the environment."""
        at = f"127.0.0.1:{self.to_node.port}"
        with pytest.MonkeyPatch.context() as environ:
            environ.setenv("PICOPAYMENTS_CHAIN_URL", f"http://hub:{PASSWORDS['hub_chain']}@{at}/")
            environ.setenv("PICOPAYMENTS_BITCOIN_URL", f"http://hub:{PASSWORDS['hub_bitcoin']}@{at}/bitcoin/")
            self.hub = HubProcess(self.folder / "hub", "--debug", ports=(), port=port)
        assert self.hub.ready, self.hub.log.read_text()
        self.printed += json.dumps(self.hub.ready).encode()
        self.hub_port = port_of(self.hub.ready["hub_url"])

    def start(self) -> None:
        """The hub, what stands between, and two clients, each with a password."""
        self.start_hub()
        self.to_hub = Relay(self.hub_port)
        self.environ.setenv("PICOPAYMENTS_HUB_URL", f"http://127.0.0.1:{self.to_hub.port}/api/")
        for name in ("alice", "bob"):
            (self.folder / name).mkdir(mode=0o700)
        own = f"http://alice:{PASSWORDS['alice_chain']}@127.0.0.1:{self.to_node.port}/"
        for name, settings in (
            ("alice", {"chain_url": own}),
            ("bob", {"hub_username": "bob", "hub_password": PASSWORDS["bob_hub"]}),
        ):
            path = self.folder / name / "regtest.cfg"
            path.touch(0o600)
            path.write_text(json.dumps(settings))

    def run(self, name: str, *words: str, fails: bool = False, **environ: str) -> Any:
        """Run a command with ``--debug``, and keep what it prints; its result."""
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            for variable, value in environ.items():
                patch.setenv(variable, value)
            try:
                code = cli.main(["--debug", *self.words(name, *words)])
            except SystemExit as end:
                code = int(end.code or 0)
        self.printed += (out.getvalue() + err.getvalue()).encode()
        assert (code != 0) == fails, (words, err.getvalue()[-2000:])
        return None if fails else json.loads(out.getvalue())

    def typed(self, name: str, *words: str) -> None:
        """Run a command as a process, whose command line everybody sees."""
        command = [sys.executable, "-m", "picopayments_cli", "--debug", *self.words(name, *words)]
        done = subprocess.run(command, capture_output=True, timeout=WAIT, check=True)
        self.printed += done.stdout + done.stderr

    def words(self, name: str, *words: str) -> list[str]:
        """A command's whole argv; the hub's URL stands in the environment, where it may hold a password."""
        return ["--regtest", "--basedir", str(self.folder / name), *words]

    def mine(self, blocks: int = 1) -> None:
        """Mine; the hub has done its chores then."""
        for _ in range(blocks):
            self.hub.call("generate", blocks=1)

    def client(self, name: str) -> Client:
        """A client's files."""
        return Client(self.folder / name, "")

    def connection(self, name: str) -> Connection:
        """A client's connection."""
        return self.client(name).connection(self.handles[name])

    def files(self) -> dict[Path, bytes]:
        """Every file that was written but the chain's own."""
        found = [path for path in self.folder.rglob("*") if path.is_file()]
        parts = {path.relative_to(self.folder): path for path in found}
        return {part: path.read_bytes() for part, path in parts.items() if part.parts[0] != "chain"}

    # What must stay secret ------------------------------------------------------------------------------------------

    def keys(self) -> dict[str, bytes]:
        """All keys, by themselves and as WIF."""
        found: dict[str, bytes] = {}
        for name in ("alice", "bob"):
            wallet = self.client(name).wallet
            words, wif = str(wallet.file.secret), wif_of_secret(REGTEST, wallet.key.secret)
            found |= {f"{name}'s words": words.encode(), f"{name}'s WIF": wif.encode()}
            found[f"{name}'s key"] = wallet.key.secret
        wif = self.hub_wif.read_text().strip()
        return found | {"hub's WIF": wif.encode(), "hub's key": key_in(self.hub_wif).secret}

    @property
    def hub_wif(self) -> Path:
        """The hub's key file."""
        return self.folder / "hub" / "hub.regtest.wif"

    def hub_salts(self) -> dict[str, bytes]:
        """The hub's own salts of all connections, which never leave it."""
        return {f"the hub's salt of {handle[:8]}": bytes.fromhex(fixed["salt"]) for handle, fixed, _ in self.hub_rows()}

    def salts(self) -> dict[str, bytes]:
        """The salts of all connections. A client's own lies with the hub as well, which is worth nothing to it."""
        return self.hub_salts() | {f"{name}'s salt": self.connection(name).salt for name in self.handles}

    def hub_rows(self) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
        """The hub's connections: handle, what is fixed, and the head."""
        query = "select c.handle, c.fixed, h.head from connections c join heads h on h.handle = c.handle"
        with contextlib.closing(sqlite3.connect(self.folder / "hub" / "regtest.db")) as database:
            return [(row[0].hex(), json.loads(row[1]), json.loads(row[2])) for row in database.execute(query)]

    def derived(self) -> dict[str, bytes]:
        """The channel keys and revoke secrets of all connections and sides, the next ones too."""
        found: dict[str, bytes] = {}
        sides = [
            (name, Secrets(self.client(name).key, item.salt), item.duplex.receiving.next_number)
            for name in self.handles
            for item in [self.connection(name)]
        ]
        sides += [
            (f"the hub ({handle[:8]})", Secrets(key_in(self.hub_wif), bytes.fromhex(fixed["salt"])), head["next"])
            for handle, fixed, head in self.hub_rows()
        ]
        for name, secrets, following in sides:
            found[f"{name}'s key as payer"] = secrets.payer.secret
            found[f"{name}'s key as payee"] = secrets.payee.secret
            for number in range(following + LATER):
                found[f"{name}'s revoke secret {number}"] = secrets.revoke(number)
        return found

    def unrevealed(self) -> dict[str, bytes]:
        """Those of the derived secrets that no message and no transaction was to show."""
        shown: set[bytes] = set()
        for name in self.handles:
            signed = self.connection(name).rows.signed
            shown |= {revoke_hash for revoke_hash, item in signed.items() if item.secret is not None}
        known = b"".join(block.serialize() for block in self.blocks()) + self.messages_that_reveal()
        return {
            name: secret
            for name, secret in self.derived().items()
            if hash_of(Secret(secret)) not in shown and secret not in known and secret.hex().encode() not in known
        }

    def messages_that_reveal(self) -> bytes:
        """The members of messages that are there to reveal secrets."""
        return b"\n".join(re.findall(rb'"revokes": ?\[[^\]]*\]', self.to_hub.traffic()))

    def blocks(self) -> list[CBlock]:
        """The chain."""
        node = KeptBlocks(self.node.url + "bitcoin/")
        hashes = [node.block_hash(height) for height in range(node.height_of(node.best_block()) + 1)]
        return [CBlock.deserialize(node.block(found)) for found in hashes if found is not None]


def pays_and_fails(life: RecordedLife) -> None:
    """Connections, payments, every kind of failure, a served command."""
    for name in ("alice", "bob"):
        life.run(name, "faucet")
    life.mine()
    for name in ("alice", "bob"):
        life.handles[name] = life.run(name, "connect", "XCP", "1000000", "--expire-time", "40")["handle"]
    a, b = life.handles["alice"], life.handles["bob"]
    life.mine(2)
    wait_until(lambda: {row[1]["client"] for row in life.hub_rows()} and _both_open(life), "open connections")
    for payer, payee, amount in (("alice", b, 5000), ("bob", a, 4000), ("alice", b, 100), ("bob", a, 90)):
        life.run(payer, "queuepayment", life.handles[payer], payee, str(amount))
        life.run(payer, "sync")
        life.run("alice" if payer == "bob" else "bob", "sync")
    life.typed("alice", "status", "--verbose")
    for name in ("alice", "bob"):
        for command in ("status", "history", "config", "hubstatus", "balances"):
            life.run(name, command)
    life.run("alice", "pay", a, "ab" * 32, "7", fails=True)  # to nobody: the hub knows no such payee
    life.run("alice", "pay", a, b, "7")
    life.run("alice", "payments")
    wrong: list[tuple[str, ...]] = [
        ("queuepayment", a, b, "999999999"), ("queuepayment", a, b, "1.5BTC"), ("close", "ab" * 32), ("nonsense",),
        ("connect", "XCP", "99999999999"), ("config", "nonsense", "1"), ("blocksend", "XCP", "nowhere", "1"),
    ]  # fmt: skip
    for words in wrong:
        life.run("alice", *words, fails=True)
    damaged_files(life)
    served(life)


def _both_open(life: RecordedLife) -> bool:
    return bool(life.hub.call("mph_status", assets=None)["totals"]["open"] == 2)


def damaged_files(life: RecordedLife) -> None:
    """Commands on files that are damaged, open to others, or another program's; URLs that are none."""
    original = life.folder / "bob"
    wallet = (original / "regtest.wallet").read_text()
    document = next((original / "regtest.connections").glob("*.json")).name

    def damage(change: Callable[[Path], object], command: str = "sync") -> None:
        copy = life.folder / "damaged"
        shutil.copytree(original, copy)
        change(copy)
        life.run("damaged", command, fails=command == "sync")
        shutil.rmtree(copy)

    whole = (original / "regtest.connections" / document).read_bytes()
    settings = (original / "regtest.cfg").read_text()
    damage(lambda at: (at / "regtest.wallet").write_text(wallet.replace('"secret": "', '"secret": "zoo ')))
    damage(lambda at: (at / "regtest.wallet").write_text(wallet * 2))
    damage(lambda at: (at / "regtest.wallet").chmod(0o644))
    # a sync would have the hub give it back, and go on with it
    damage(lambda at: (at / "regtest.connections" / document).write_bytes(whole[:-300]), "status")
    other = whole.replace(b'"salt":"', b'"salt":"zz')
    damage(lambda at: (at / "regtest.connections" / document).write_bytes(other), "status")
    damage(lambda at: (at / "regtest.cfg").write_text(settings[:-1]))
    damage(lambda at: (at / "regtest.cfg").write_text(settings.replace("hub_pass", "x")))
    damage(lambda at: (at / "regtest.cfg").chmod(0o640))
    password = PASSWORDS["alice_chain"]
    for url in (f"htp://u:{password}@host/", f"http://u:{password}@host:99999/", f"http://u:{password}@127.0.0.1:9/"):
        life.run("alice", "sync", fails=True, PICOPAYMENTS_CHAIN_URL=url)
    life.run("alice", "hubstatus", fails=True, PICOPAYMENTS_HUB_URL=f"http://u:{password}@ho st/")
    life.run("alice", "hubstatus", fails=True, PICOPAYMENTS_HUB_URL=f"http://u:{password}@127.0.0.1:9/")


def served(life: RecordedLife) -> None:
    """Calls of ``serve``, some of them wrong; its token is kept to be looked for."""
    command = [sys.executable, "-m", "picopayments_cli", "--debug", *life.words("alice", "serve", "--port", "0")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    first = process.stdout.readline()
    ready = json.loads(first)
    user, _, token = Path(ready["cookie"]).read_text().partition(":")
    life.token = token.encode()
    for auth, method in (((user, token), "status"), ((user, token), "nonsense"), ((user, token[:-1]), "status")):
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {}}
        life.printed += requests.post(ready["url"], json=body, auth=auth, timeout=WAIT).content
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=WAIT)
    life.printed += first + out + err


def ends(life: RecordedLife) -> None:
    """The hub is gone for a while; then all is closed, settled and culled."""
    life.hub.end(signal.SIGKILL)
    life.run("alice", "sync", fails=True)
    life.run("bob", "status")
    kept = life.hub_wif.read_text()
    life.hub_wif.write_text("K" * 52)
    refused = HubProcess(life.folder / "hub", "--debug", "--counterparty-url", life.node.url, ports=())
    assert refused.ready == {}
    assert refused.end(signal.SIGTERM) == 4
    life.hub_wif.write_text(kept)
    life.start_hub(life.hub_port)
    for name in ("alice", "bob"):
        life.run(name, "close", life.handles[name])
    for _ in range(3):
        life.mine()
        for name in ("alice", "bob"):
            life.run(name, "sync")
    for name in ("alice", "bob"):
        assert life.run(name, "status")["connections"][life.handles[name]]["status"] == "closed"
        life.run(name, "history")


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RecordedLife]:
    """All of it, at its end; the hub still runs."""
    folder = tmp_path_factory.mktemp("life")
    with running_node(folder / "chain", 0) as node, pytest.MonkeyPatch.context() as environ:
        told = RecordedLife(folder, node, Relay(port_of(node.url)), environ)
        try:
            told.start()
            pays_and_fails(told)
            told.early = told.to_hub.traffic() + told.to_node.traffic()
            told.early_secrets = told.unrevealed()
            ends(told)
            yield told
        finally:
            told.arguments.stop()
            if told.hub.process.poll() is None:
                told.hub.end(signal.SIGTERM)
            told.to_node.stop()
            told.to_hub.stop()


def passwords() -> dict[str, bytes]:
    """All passwords, and as HTTP's Basic authentication has them."""
    basic = {
        f"{name} as Basic": base64.b64encode(f"{name.partition('_')[0]}:{text}".encode())
        for name, text in PASSWORDS.items()
    }
    return {name: text.encode() for name, text in PASSWORDS.items()} | basic


def test_nothing_secret_is_printed_or_logged(life: RecordedLife) -> None:
    secrets = life.keys() | life.salts() | life.derived() | passwords() | {"the cookie": life.token}
    assert len(secrets) > 60
    log = life.hub.log.read_bytes()
    assert b"Traceback" in life.printed
    assert b'"published"' in log
    assert seen(bytes(life.printed), secrets) == []
    assert seen(log, secrets) == []
    assert seen(b"\n".join(life.arguments.seen), secrets) == []
    assert any(b"picopayments_cli" in words for words in life.arguments.seen)
    history = [data for path, data in life.files().items() if "history" in path.name]
    assert history
    assert seen(b"".join(history), secrets) == []


def test_nothing_secret_is_in_a_file_that_is_not_for_it(life: RecordedLife) -> None:
    keys, salts, unrevealed = life.keys(), life.salts(), life.unrevealed()
    for path, data in life.files().items():
        name = path.name
        found = seen(data, keys | unrevealed | passwords() | salts | {"the cookie": life.token})
        if name.endswith((".wif", ".wallet")):
            owner = path.parent.name
            assert set(found) <= {f"{owner}'s words", f"{owner}'s WIF", f"{owner}'s key"}, path
        elif name == "regtest.cfg":
            assert set(found) <= set(PASSWORDS), path
        elif path.parent.name == "regtest.connections":
            assert found == ([f"{path.parts[0]}'s salt"] if name.endswith(".json") else []), path
        elif name.startswith("regtest.db"):
            assert all("salt" in item for item in found), (path, found)
        else:
            assert found == [], path


def test_nothing_secret_passes_before_it_is_revealed(life: RecordedLife) -> None:
    assert len([name for name in life.early_secrets if "key" in name]) == 8  # which never leave
    assert len(life.early_secrets) > 8 + 4 * LATER
    hidden = life.keys() | life.hub_salts() | passwords()
    assert seen(life.early, life.early_secrets | hidden) == []
    late = life.to_hub.traffic() + life.to_node.traffic()
    assert len(late) > len(life.early)
    assert seen(late, life.unrevealed() | hidden) == []


def test_what_looks_for_secrets_finds_them(life: RecordedLife) -> None:
    assert seen(b"..." + life.messages_that_reveal(), life.derived())
    for shape in shapes(bytes(range(32))):
        assert seen(b"{" + shape + b"}", {"one": bytes(range(32))}) == ["one"]


def test_every_file_is_private(life: RecordedLife) -> None:
    logs = {"hub.log"}
    for top in ("alice", "bob", "hub"):
        for path in (life.folder / top, *(life.folder / top).rglob("*")):
            if path.name not in logs:
                assert path.stat().st_mode & 0o077 == 0, path


# What can be printed by accident ------------------------------------------------------------------------------------


def test_no_object_shows_its_secrets(life: RecordedLife) -> None:
    password = PASSWORDS["alice_chain"]
    url = f"http://u:{password}@h/"
    connection, key = life.connection("alice"), life.client("alice").key
    settings = config.Settings(REGTEST, life.folder, url, url, url, hub_auth=("u", password))
    secrets = Secrets(key, connection.salt)
    body = {"revokes": [secrets.revoke(0).hex()], "sends": []}
    row = Signed(Quantity(1), secrets.revoke_hash(0), None, secrets.revoke(0))
    database = Database(default_url(life.folder / "copy", "regtest"))
    values = [
        key, secrets, settings, config.Choice(url, "flag"), Session(settings), Urls(url, url),
        life.client("alice").wallet, connection, Pending((body,), ()), Half(None, (secrets.revoke(0),)), row,
        RpcClient(url), BitcoinNode(url), database, Folder(life.folder / "copy", REGTEST),
    ]  # fmt: skip
    hidden = life.keys() | life.salts() | life.derived() | passwords()
    for value in values:
        assert seen((repr(value) + str(value)).encode(), hidden) == [], type(value)
    database.close()


def _document(life: RecordedLife) -> dict[str, Any]:
    path = life.folder / "alice" / "regtest.connections" / f"{life.handles['alice']}.json"
    document: dict[str, Any] = json.loads(path.read_bytes()) | {"rows": []}
    return document


@pytest.mark.parametrize(("member", "value"), [("proposal", 5), ("pending", {"bodies": [5], "payments": []})])
def test_a_document_with_other_things_in_it_is_no_connection(life: RecordedLife, member: str, value: object) -> None:
    with pytest.raises(TypeError):  # which the session names StoreDamaged
        from_document(life.connection("alice").handle, {**_document(life), member: value})


def test_the_hubs_own_objects_show_no_secrets(life: RecordedLife, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    with (
        contextlib.closing(sqlite3.connect(life.folder / "hub" / "regtest.db")) as live,
        contextlib.closing(sqlite3.connect(copy)) as kept,
    ):
        live.backup(kept)
    copy.chmod(0o600)
    database = Database(f"sqlite:///{copy}")
    with Book(database).transaction("look") as work:
        accounts = [work.get(Handle(bytes.fromhex(handle))) for handle, _, _ in life.hub_rows()]
        assert isinstance(work, UnitOfWork)
    assert len(accounts) == 2
    assert seen(repr(accounts).encode(), life.keys() | life.hub_salts() | life.derived()) == []
    database.close()


def test_a_url_that_is_none_is_named_without_its_password() -> None:
    for url in ("htp://u:hunter2@host/", "http://u:hunter2@host:x/", "http://u:hunter2@[/", "u:hunter2@host"):
        with pytest.raises(InvalidUrl) as refused:
            config.check_url(url, "chain_url")
        assert "hunter2" not in str(refused.value.as_json())


def test_secrets_are_compared_in_constant_time() -> None:
    """Nothing that is secret and comes from outside is compared by ``==``; the cookie is by ``compare_digest``."""
    secret = re.compile(r"token|cookie|password|auth|mac$|^expected$|^sent$", re.IGNORECASE)
    compared = []
    for path in PACKAGE.rglob("*.py"):
        for found in ast.walk(ast.parse(path.read_text())):
            if isinstance(found, ast.Compare) and any(isinstance(op, (ast.Eq, ast.NotEq)) for op in found.ops):
                names = [getattr(side, "attr", getattr(side, "id", "")) for side in (found.left, *found.comparators)]
                if any(secret.search(name) for name in names):
                    compared.append(f"{path.relative_to(PACKAGE)}: {ast.unparse(found)}")
    assert set(compared) <= {  # payments' tokens: the payee's own word for a payment, known to payer and hub
        "api.py: payment.token == wanted",
        "api.py: payment.token != wanted",
        "client/life.py: payment.token != token",
        "client/paying.py: item.token == token",
        "client/paying.py: ordered.how_far == tokens.SENT",
        "client/payments_shown.py: entry['state'] == SENT",
        "client/serve.py: row['state'] != SENT",
        "hub/reading.py: payments.c.token == bindparam('named')",
        "hub/book.py: commits.c.sent == bindparam('sent')",  # a column: whether the hub made the commit
    }
    assert "hmac.compare_digest(sent, expected)" in (PACKAGE / "client" / "serve.py").read_text()


# Files that others can read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
@pytest.mark.parametrize("which", ["hub.regtest.wif", "regtest.db"])
def test_a_hub_refuses_files_that_others_can_read(which: str, mode: int, tmp_path: Path) -> None:
    folder = Folder(tmp_path / "hub", REGTEST)

    def opened() -> None:
        folder.key()
        Database(default_url(folder.basedir, "regtest")).close()

    folder.basedir.mkdir(mode=0o700)
    opened()
    path = folder.basedir / which
    path.chmod(mode)
    with pytest.raises(StoreUnusable, match="chmod go= ") as refused:
        opened()
    assert refused.value.data == {"path": str(path), "mode": f"{mode:04o}"}
    subprocess.run(refused.value.message.rpartition("run: ")[2], shell=True, check=True)
    opened()


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ({"hub_username": "u", "hub_password": "p"}, True),
        ({"chain_url": "http://u:p@127.0.0.1:4000/"}, True),
        ({"chain_url": "http://127.0.0.1:4000/", "timeout": 5}, False),
        ({"hub_username": "u", "hub_password": "p", "hub_verify_ssl_cert": True}, False),  # the original's own file
    ],
)
def test_settings_with_a_password_must_be_private(settings: dict[str, Any], refused: bool, tmp_path: Path) -> None:
    path = config.settings_file(REGTEST, tmp_path)
    path.write_text(json.dumps(settings))
    path.chmod(0o644)
    done = Client(tmp_path, "http://127.0.0.1:9/").done("config")
    assert (done.code, "chmod go= " in done.stderr) == ((4, True) if refused else (0, False))
    path.chmod(0o600)
    assert Client(tmp_path, "http://127.0.0.1:9/").done("config").code == 0
