"""Decide how a server is reached: directly or through a proxy, and which certificate must stand there."""

from __future__ import annotations

import os
import re
import socket
import ssl
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies, select_proxy
from urllib3 import ProxyManager
from urllib3.exceptions import InsecureRequestWarning

from picopayments_cli.errors import InvalidSetting

_PLACE = re.compile(r"(?:[\w.-]+|\[[0-9a-fA-F:.]+\])(?::\d+)?")
_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@dataclass(frozen=True)
class Trust:
    """Which TLS certificates of a server are good: by default those that an authority of the system has signed.

    ``ca_file``: a file or folder of authorities in place of the system's, and of those that REQUESTS_CA_BUNDLE names.
    ``fingerprint``: SHA-256, in hex, of the only certificate that is good, whoever signed it. ``verify`` False: any.
    """

    verify: bool = True
    ca_file: str | None = None
    fingerprint: str | None = None

    def authorities(self) -> bool | str:
        """Return what requests takes as ``verify``. Raises InvalidSetting where a file of authorities is none."""
        if self.fingerprint is not None or not self.verify:
            urllib3.disable_warnings(InsecureRequestWarning)  # one line of ours tells, not two for each call
            return False
        named = {"ca_file": self.ca_file} | {name: os.environ.get(name) for name in _BUNDLES}
        for name, path in named.items():
            if path:
                return _checked_bundle(name, os.path.expanduser(path))
        return True


SYSTEM = Trust()


class PinningAdapter(HTTPAdapter):
    """requests' own adapter, which compares the server's certificate with a fingerprint where there is one."""

    def __init__(self, fingerprint: str | None, **settings: Any) -> None:
        self._pin: dict[str, Any] = {} if fingerprint is None else {"assert_fingerprint": fingerprint}
        super().__init__(**settings)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **settings: Any) -> None:
        """Make the pool of direct connections."""
        super().init_poolmanager(connections, maxsize, block, **settings, **self._pin)

    def proxy_manager_for(self, proxy: str, **settings: Any) -> ProxyManager:
        """Make the pool of connections through a proxy."""
        made: ProxyManager = super().proxy_manager_for(proxy, **settings, **self._pin)
        return made


def is_here(host: str) -> bool:
    """Tell whether a host is this very machine, however it is written: no proxy leads there, and nobody is between.

    Names under localhost, IPv4 addresses in each form that the system takes (127.1, 0x7f000001), IPv6 with IPv4 inside.
    """
    name = host.lower().removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = _address(name)
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or address
    return address is not None and (address.is_loopback or address.is_unspecified)


def proxy_to(url: str) -> str | None:
    """Find the proxy of the environment through which a URL is called: its scheme, host and port.

    Asterisks where that is not plain: a password could be in it, with letters that end a host.
    """
    proxy = select_proxy(url, get_environ_proxies(url))
    if proxy is None:
        return None
    scheme, _, rest = proxy.rpartition("://")
    place = rest.rpartition("@")[2].rstrip("/")
    plain = _PLACE.fullmatch(place) and "/" not in rest.rpartition("@")[0]
    return f"{scheme or 'http'}://{place if plain else '***'}"


def lacks_socks(error: BaseException, proxy: str | None) -> bool:
    """Tell whether a call failed since the library is missing that speaks SOCKS."""
    return isinstance(error, requests.exceptions.InvalidSchema) and (proxy or "").startswith("socks")


def _address(name: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(name)
    except ValueError:
        pass
    try:
        return ip_address(socket.inet_aton(name))
    except (OSError, ValueError):
        return None


def _checked_bundle(name: str, path: str) -> str:
    folder = os.path.isdir(path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(
            cafile=None if folder else path, capath=path if folder else None
        )
    except OSError as error:
        raise InvalidSetting(
            f"{name} names {path}, which holds no certificates in PEM that can be read ({error.strerror or error}). "
            "Name another file.",
            setting=name,
            path=path,
        ) from error
    return path
