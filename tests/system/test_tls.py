"""TLS: verified unless a setting says otherwise, which is said every time; and what has none is said too."""

from __future__ import annotations

import ast
import datetime
import ipaddress
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from forked import completed
from network_support import Client, running_hub
from servers import json_rpc

from picopayments_cli import config
from picopayments_cli.channel.networks import NETWORKS
from picopayments_cli.client.session import Session
from picopayments_cli.errors import HubUnreachable

PACKAGE = Path(config.__file__).parent
NAME = "127.0.0.2"


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


@pytest.mark.parametrize("host", [NAME, "127.0.0.1"])
@pytest.mark.parametrize("known", [False, True], ids=["an unknown authority", "a known authority"])
@pytest.mark.parametrize("case", ["right", "another host", "expired"])
def test_tls_is_verified(
    case: str, known: bool, host: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = tmp_path / "authority.pem"
    certificates.authority.cert_pem.write_to_path(str(bundle))
    if known:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    past = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)
    server = certificates.issue(
        "other.example" if case == "another host" else host, **({"not_after": past} if case == "expired" else {})
    )
    with json_rpc({"echo": echo}, server={**server, "host": host}) as url:
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


def fingerprint_of(path: Path) -> str:
    """SHA-256 of the first certificate of a file, as openssl tells it."""
    return x509.load_pem_x509_certificate(path.read_bytes()).fingerprint(hashes.SHA256()).hex()


@pytest.mark.parametrize("host", [NAME, "127.0.0.1"])
def test_a_pinned_certificate_alone_is_good(host: str, tmp_path: Path, certificates: Certificates) -> None:
    """Whoever has signed it: here its own key has, and for another name. No other is, though an authority vouches."""
    own, other = self_signed(tmp_path), certificates.issue(host)
    pins = [fingerprint_of(Path(of["ssl_cert"])) for of in (own, other)]
    written = ":".join(pins[0][place : place + 2] for place in range(0, 64, 2)).upper()
    with json_rpc({"echo": echo}, server={**own, "host": host}) as url:

        def session(of: str, pin: str, **more: Any) -> Session:
            settings = config.Settings(NETWORKS["testnet"], tmp_path, url, pinned_certificates={of: pin}, **more)
            return Session(settings)

        assert session(url, pins[0]).rpc.call("echo", {"text": "a"}, retry=False) == "a"
        assert session(url.removesuffix("api/"), written).rpc.call("echo", {"text": "a"}, retry=False) == "a"
        assert session(url, f"sha256 Fingerprint={written}").rpc.call("echo", {"text": "a"}, retry=False) == "a"
        for wrong in (
            session(url, pins[1]),
            session(url, pins[1], verify_tls=False),
            session(url, pins[1], ca_file=own["ssl_cert"]),
            session("https://hub.example", pins[0]),
        ):
            with pytest.raises(HubUnreachable, match="TLS certificate does not hold"):
                wrong.rpc.call("echo", {}, retry=False)
    with (
        json_rpc({"echo": echo}, server={**other, "host": host}) as url,
        pytest.raises(HubUnreachable, match="Fingerprints did not match"),
    ):
        session(url, pins[0]).rpc.call("echo", {}, retry=False)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl")
def test_a_certificate_made_as_the_document_makes_it_is_good(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "hub.rst").read_text(encoding="utf-8")
    (make,) = re.findall(r"(?m)^ +\$ (openssl (?:.*\\\n)*.*)$", text)
    (show,) = re.findall(r"``(openssl [^`]+)``", text)
    done = []
    for line in (make.replace("hub.example", "localhost"), show):
        done.append(subprocess.run(line, shell=True, cwd=tmp_path, check=True, capture_output=True, text=True).stdout)
    own = {"ssl_cert": str(tmp_path / "hub.crt"), "ssl_key": str(tmp_path / "hub.key")}
    with json_rpc({"echo": echo}, server=own) as bound:
        url = bound.replace("127.0.0.1", "localhost")
        for known in ({"ca_file": own["ssl_cert"]}, {"pinned_certificates": {url: done[1].strip()}}):
            session = Session(config.Settings(NETWORKS["testnet"], tmp_path, url, **known))
            assert session.rpc.call("echo", {"text": "a"}, retry=False) == "a"
        with pytest.raises(HubUnreachable, match="TLS certificate does not hold"):
            Session(config.Settings(NETWORKS["testnet"], tmp_path, url)).rpc.call("echo", {}, retry=False)


def test_pins_and_authorities_are_settings(tmp_path: Path) -> None:
    client = Client(tmp_path, "https://127.0.0.1:9/")
    pins = {"https://hub.example:15000": "SHA256 Fingerprint=" + "AB:" * 31 + "AB", "https://127.0.0.1:9": "ab" * 32}
    assert client.run("config", "pinned_certificates", json.dumps(pins))["value"] == pins
    pin = "ab" * 32
    unlike = [{"http://hub.example": pin}, {"https://hub.example": "ab"}, {"https://hub.example": f"x={pin}"}]
    for bad in ("[]", pin, *map(json.dumps, unlike)):
        assert client.fails("config", "pinned_certificates", bad) == (1, "InvalidSetting")
    missing = str(tmp_path / "missing.pem")
    done = client.done("--ca-file", missing, "hubstatus")  # pinned, so that it needs no authority
    assert (done.code, done.error["name"]) == (3, "HubUnreachable")
    client.run("config", "pinned_certificates", "")
    done = client.done("--ca-file", missing, "hubstatus")
    assert (done.code, done.error["name"]) == (1, "InvalidSetting")
    assert client.run("config", "ca_file", missing) == {"source": "file", "value": missing}
    assert client.fails("hubstatus") == (1, "InvalidSetting")
    assert client.run("config", "ca_file", "")["value"] is None  # the mistake can be mended by the same command


def test_an_authority_is_named_by_a_file(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "authority.pem"
    certificates.authority.cert_pem.write_to_path(str(bundle))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certificates.issue("other.example")["ssl_cert"])
    with json_rpc({"echo": echo}, server={**certificates.issue(NAME), "host": NAME}) as url:
        settings = config.Settings(NETWORKS["testnet"], tmp_path, url, ca_file=str(bundle))
        assert Session(settings).rpc.call("echo", {"text": "a"}, retry=False) == "a"


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
        assert "verify_tls is false: anybody on the way can pose as 127.0.0.1" in done.stderr
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
    assert given == {"settings.verify_tls", "self._authorities"}


def test_one_line_tells_that_certificates_are_not_verified(tmp_path: Path) -> None:
    with json_rpc({"mph_status": echo}, server={**self_signed(tmp_path), "host": "127.0.0.1"}) as url:
        client = Client(tmp_path / "wallet", url)
        client.run("config", "verify_tls", "false")
        script = ["-m", "picopayments_cli", *client.words("hubstatus")]
        code, _, stderr = completed(script, 30)
    assert code == 1
    assert ("verify_tls is false" in stderr, "Warning" in stderr) == (True, False)
