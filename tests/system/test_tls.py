"""TLS: verified unless a setting says otherwise, which is said every time; and what has none is said too."""

from __future__ import annotations

import ast
import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from network_support import Client, running_hub
from servers import json_rpc

from picopayments_cli import config
from picopayments_cli.channel.networks import NETWORKS
from picopayments_cli.client.session import Session
from picopayments_cli.errors import HubUnreachable

PACKAGE = Path(config.__file__).parent
NAME = "127.0.0.2"  # an address of this machine for which the environment's certificates count


@dataclass(frozen=True)
class Certificates:
    """An authority of the tests' own, and certificates made by it."""

    authority: trustme.CA
    folder: Path

    def issue(self, *names: str, **settings: Any) -> dict[str, str]:
        """Certificate and key files for names; as WebServer's settings."""
        made = self.authority.issue_cert(*names, **settings)
        cert, key = self.folder / "cert.pem", self.folder / "key.pem"
        cert.write_bytes(b"".join(part.bytes() for part in made.cert_chain_pems))
        key.write_bytes(made.private_key_pem.bytes())
        return {"ssl_cert": str(cert), "ssl_key": str(key)}


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(trustme.CA(), tmp_path)


def echo(text: str = "") -> str:
    return text


@pytest.mark.parametrize("known", [False, True], ids=["an unknown authority", "a known authority"])
@pytest.mark.parametrize("case", ["right", "another host", "expired"])
def test_tls_is_verified(
    case: str, known: bool, certificates: Certificates, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = tmp_path / "authority.pem"
    certificates.authority.cert_pem.write_to_path(str(bundle))
    if known:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    past = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)
    server = certificates.issue(
        "other.example" if case == "another host" else NAME, **({"not_after": past} if case == "expired" else {})
    )
    with json_rpc({"echo": echo}, server={**server, "host": NAME}) as url:
        session = Session(config.Settings(NETWORKS["testnet"], tmp_path, url))
        if known and case == "right":
            assert session.rpc.call("echo", {"text": "a"}, retry=False) == "a"
            return
        with pytest.raises(HubUnreachable, match="TLS certificate does not hold"):
            session.rpc.call("echo", {}, retry=False)


def self_signed(folder: Path) -> dict[str, str]:
    """Certificate and key files of a certificate that nobody else has signed, as docs/hub.rst makes one."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hub.example")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(NAME))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert, secret = folder / "own.crt", folder / "own.key"
    cert.write_bytes(made.public_bytes(Encoding.PEM))
    secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return {"ssl_cert": str(cert), "ssl_key": str(secret)}


def test_a_self_signed_certificate_is_named_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = self_signed(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", server["ssl_cert"])
    with json_rpc({"echo": echo}, server={**server, "host": NAME}) as url:
        session = Session(config.Settings(NETWORKS["testnet4"], tmp_path, url))
        assert session.rpc.call("echo", {"text": "a"}, retry=False) == "a"
        monkeypatch.delenv("REQUESTS_CA_BUNDLE")
        with pytest.raises(HubUnreachable, match="TLS certificate does not hold"):
            Session(session.settings).rpc.call("echo", {}, retry=False)


@pytest.mark.filterwarnings("ignore:Unverified HTTPS")
def test_a_self_signed_hub_is_refused_by_name_and_said_where_it_is_not(
    certificates: Certificates, tmp_path: Path
) -> None:
    issued = certificates.issue("127.0.0.1")
    options = ("--ssl-cert", issued["ssl_cert"], "--ssl-key", issued["ssl_key"])
    with running_hub(tmp_path / "hub", *options) as hub:
        url = hub.ready["hub_url"]
        assert url.startswith("https://")
        client = Client(tmp_path / "alice", url)
        refused = client.done("hubstatus")
        assert (refused.code, refused.error["name"]) == (3, "HubUnreachable")
        assert "its TLS certificate does not hold" in refused.error["message"]
        assert client.fails("faucet") == (3, "HubUnreachable")
        client.run("config", "verify_tls", "false")
        done = client.done("hubstatus")
        assert done.code == 0
        assert "verify_tls is false: whoever stands between can pose as 127.0.0.1" in done.stderr
        assert client.run("config", "verify_tls") == {"value": False, "source": "file"}


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("http://127.0.0.1:9/api/", False),
        ("http://[::1]:9/api/", False),
        ("http://localhost:9/api/", False),
        ("https://hub.example/api/", False),
        ("http://hub.example/api/", True),
        ("http://u:hunter2@10.0.0.7:9/api/", True),
    ],
)
def test_a_way_that_others_can_read_is_said(
    url: str, warned: bool, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    session = Session(config.Settings(NETWORKS["testnet"], tmp_path, url, url, url))
    assert session.rpc.url
    assert session.chain
    texts = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [text.partition(" ")[0] for text in texts] == (["hub_url", "chain_url", "bitcoin_url"] if warned else [])
    assert "hunter2" not in "".join(texts)


def test_no_option_turns_verification_off_unseen() -> None:
    """``verify=`` comes from the setting alone."""
    given = set()
    for path in PACKAGE.rglob("*.py"):
        for found in ast.walk(ast.parse(path.read_text())):
            if isinstance(found, ast.keyword) and found.arg == "verify":
                given.add(ast.unparse(found.value))
    assert given == {"settings.verify_tls", "verify", "self._verify"}
