"""How a server is reached: which hosts are this machine, which authorities count, and SOCKS."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import trustme
from servers import saying, serving_socket, talking

from picopayments_cli.errors import InvalidSetting
from picopayments_cli.rpc import RpcClient
from picopayments_cli.transport import Trust, is_here, proxy_to

HERE = (
    *("localhost", "LOCALHOST", "localhost.", "hub.localhost", "127.0.0.1", "127.255.0.3", "127.1", "0177.0.0.1"),
    *("0x7f.1", "2130706433", "::1", "0:0:0:0:0:0:0:1", "::ffff:127.0.0.1", "::ffff:7f00:1", "0.0.0.0", "::"),
)
ELSEWHERE = (
    *("", "hub.example", "localhost.example", "notlocalhost", "10.0.0.1", "128.1", "1.127", "::2", "::ffff:10.0.0.1"),
    *("127.0.0.1.example", "127.0.0.1.1", "0x7g.1"),
)


@pytest.mark.parametrize("host", HERE)
def test_a_host_that_is_this_machine(host: str) -> None:
    assert is_here(host)


@pytest.mark.parametrize("host", ELSEWHERE)
def test_a_host_that_is_another_machine(host: str) -> None:
    assert not is_here(host)


# Certificates -------------------------------------------------------------------------------------------------------


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "authority.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    return path


def test_a_file_goes_before_the_environment(bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    assert Trust().authorities() is True
    monkeypatch.setenv("CURL_CA_BUNDLE", str(bundle))
    assert Trust().authorities() == str(bundle)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path))
    assert Trust().authorities() == str(tmp_path)
    assert Trust(ca_file=str(bundle)).authorities() == str(bundle)
    for trust in (Trust(verify=False), Trust(fingerprint="ab" * 32)):
        assert trust.authorities() is False


@pytest.mark.parametrize("content", [None, b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\nx\n"])
def test_a_file_without_certificates_is_named(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "none.pem"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(path))
    for trust, name in ((Trust(), "REQUESTS_CA_BUNDLE"), (Trust(ca_file=str(path)), "ca_file")):
        with pytest.raises(InvalidSetting, match=f"{name} names {path}") as refused:
            RpcClient("https://hub.example/", trust=trust).call("balances", {}, retry=False)
        assert refused.value.data["setting"] == name
    with talking(saying({"result": 5})) as (url, _):  # which needs none
        assert RpcClient(url).call("balances", {}, retry=False) == 5


# Proxies ------------------------------------------------------------------------------------------------------------


def test_a_proxy_is_shown_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    assert proxy_to("http://hub.example/") is None
    for given, shown in (
        ("http://a:b@p:1/", "http://p:1"),
        ("a:b@p:1", "http://p:1"),
        ("socks5h://p", "socks5h://p"),
        ("http://[::1]:1/", "http://[::1]:1"),
        ("http://a:s3cr/et@p:1", "http://***"),
        ("http://a:s3cr#et@p:1", "http://p:1"),
    ):
        monkeypatch.setenv("all_proxy", given)
        assert proxy_to("http://hub.example/") == shown


def test_a_name_is_looked_up_by_the_socks_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("socks")
    asked: list[bytes] = []

    def proxy(connection: socket.socket) -> None:
        methods = connection.recv(2)[1]
        connection.recv(methods)
        connection.sendall(b"\x05\x00")
        *_, kind, size = connection.recv(5)
        asked.append(connection.recv(size))
        assert kind == 3  # a name, and no address
        assert struct.unpack("!H", connection.recv(2)) == (80,)
        connection.sendall(b"\x05\x00\x00\x01" + bytes(6))
        connection.recv(65536)
        saying({"result": 5})(connection)

    with serving_socket(proxy) as listener:
        monkeypatch.setenv("ALL_PROXY", f"socks5h://127.0.0.1:{listener.getsockname()[1]}")
        assert RpcClient("http://hub.onion/").call("balances", {}, retry=False) == 5
    assert asked == [b"hub.onion"]


def test_a_missing_socks_library_is_named(tmp_path: Path) -> None:
    code = "import sys; sys.modules['socks'] = None; from picopayments_cli.cli import main; sys.exit(main())"
    words = ["--regtest", "--basedir", str(tmp_path), "--hub-url", "http://hub.invalid/api/", "hubstatus"]
    environment = {**os.environ, "ALL_PROXY": "socks5h://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    error = json.loads(done.stderr.splitlines()[-1])["error"]
    assert (done.returncode, done.stdout, error["name"]) == (3, "", "HubUnreachable")
    assert "pip install 'picopayments-cli[socks]'" in error["message"]
    assert error["data"]["proxy"] == "socks5h://127.0.0.1:9"
