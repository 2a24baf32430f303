"""The settings of one network: a flag goes before the environment, that before the settings file, that before ours."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from picopayments_cli.channel.networks import Network, network_named
from picopayments_cli.channel.values import MAX_QUANTITY
from picopayments_cli.errors import InvalidSetting, InvalidUrl, StoreDamaged, StoreUnusable
from picopayments_cli.files import check_own, check_private, usable

ENVIRONMENT = {
    "hub_url": "PICOPAYMENTS_HUB_URL",
    "chain_url": "PICOPAYMENTS_CHAIN_URL",
    "bitcoin_url": "PICOPAYMENTS_BITCOIN_URL",
    "timeout": "PICOPAYMENTS_TIMEOUT",
    "ca_file": "PICOPAYMENTS_CA_FILE",
    "backup": "PICOPAYMENTS_BACKUP",
}
FLAG, VARIABLE, FILE, DEFAULT = "flag", "environment", "file", "default"
HIDDEN = "***"
BASEDIR = "PICOPAYMENTS_BASEDIR"
PASSPHRASE = "PICOPAYMENTS_PASSPHRASE"  # noqa: S105 - the name; no program for events has it
SAFE_DEPTH = "PICOPAYMENTS_SAFE_DEPTH"  # regtest only, for tests: as many blocks as on a real network
MAX_SAFE_DEPTH = 100
MAX_SECONDS = 3600  # of a time-out
_FINGERPRINT = re.compile("[0-9A-Fa-f]{64}")


@dataclass(frozen=True)
class Choice:
    """The value of a setting, and where it comes from: flag, environment, file or default."""

    value: Any = field(repr=False)  # it may be a password
    source: str


@dataclass(frozen=True)
class Settings:
    """All that a client needs to know beside its command. Rates in sat/vB, ``timeout`` in seconds for one answer.

    ``chain_url``: a Counterparty node of one's own, without which the chain is asked of the hub; ``bitcoin_url``: a
    Bitcoin node of one's own beside it. ``ask_above``: satoshis of an asset that move on mainnet without a question.
    ``hub_auth``: user and password for the hub, where its operator demands them (HTTP Basic). ``ca_file``: a file of
    authorities that vouch for servers in place of the system's. ``pinned_certificates``: by https URL the SHA-256, in
    hex, of the only certificate that is good there. ``backup``: the file that has every change, too.
    ``choices``: every setting by its name in the file, with its source.
    """

    network: Network
    basedir: Path
    hub_url: str | None = field(default=None, repr=False)
    chain_url: str | None = field(default=None, repr=False)
    bitcoin_url: str | None = field(default=None, repr=False)
    timeout: float = 60.0
    verify_tls: bool = True
    ca_file: str | None = None
    pinned_certificates: Mapping[str, str] | None = None
    fee_ceiling: int = 100
    fee_rate: int | None = None
    lock_ceiling: float = 5
    sync_ceiling: float = 1
    ask_above: int = 1_000_000
    hub_auth: tuple[str, str] | None = field(default=None, repr=False)
    backup: str | None = None
    choices: Mapping[str, Choice] = field(default_factory=dict, compare=False, repr=False)

    @property
    def require_hub_url(self) -> str:
        """Return the hub's URL. Raises InvalidSetting where none is set."""
        if self.hub_url is None:
            raise InvalidSetting(
                f"No hub is set for {self.network.name}: name one with --hub-url URL, with PICOPAYMENTS_HUB_URL, or as "
                f"hub_url in {settings_file(self.network, self.basedir)}; or run one: `picopayments-hub --network "
                f"{self.network.name}`.",
                network=self.network.name,
            )
        return self.hub_url


def known_settings() -> list[str]:
    """Return the names of all settings, in order."""
    return sorted(_CHECKS)


def connections_folder(network: Network, basedir: Path) -> Path:
    """Return the path of the folder that holds a document for each connection, named by its handle."""
    return basedir / f"{network.name}.connections"


def settings_file(network: Network, basedir: Path) -> Path:
    """Return the path of the settings of a network, one JSON object."""
    return basedir / f"{network.name}.cfg"


def choose_network(flag: str | None, environ: Mapping[str, str]) -> Network:
    """Return the network of a flag, else of PICOPAYMENTS_NETWORK, else mainnet. Raises WrongNetwork, InvalidSetting.

    On regtest PICOPAYMENTS_SAFE_DEPTH sets after how many blocks something is final, where one is too quick for a test.
    """
    network = network_named(flag or environ.get("PICOPAYMENTS_NETWORK") or "mainnet")
    depth = environ.get(SAFE_DEPTH)
    if network.name != "regtest" or not depth:
        return network
    if not depth.isdecimal() or not depth.isascii() or not 1 <= int(depth) <= MAX_SAFE_DEPTH:
        raise InvalidSetting(f"{SAFE_DEPTH} must be a whole number from 1 to {MAX_SAFE_DEPTH}.", setting=SAFE_DEPTH)
    return replace(network, safe_depth=int(depth))


def choose_basedir(flag: str | None, environ: Mapping[str, str]) -> Path:
    """Return the folder of a flag, else of PICOPAYMENTS_BASEDIR, else the user's data folder for this program.

    Raises InvalidSetting where one is empty, or where there is no home to have a default in.
    """
    given = _given_basedir(flag, environ)
    return _default_basedir() if given is None else given


def choose_client_basedir(flag: str | None, environ: Mapping[str, str]) -> Path:
    """Choose as ``choose_basedir`` does, but the original client's folder where only that is there.

    Raises StoreUnusable, too, where it can't be seen whether the default is there.
    """
    given = _given_basedir(flag, environ)
    if given is not None:
        return given
    chosen = _default_basedir()
    original = Path(os.path.expanduser("~")) / ".picopayments"
    with usable(original):
        return original if original.is_absolute() and not _is_there(chosen) and _is_there(original) else chosen


def _given_basedir(flag: str | None, environ: Mapping[str, str]) -> Path | None:
    name, text = ("--basedir", flag) if flag is not None else (BASEDIR, environ.get(BASEDIR))
    if text is None:
        return None
    if not text:
        raise InvalidSetting(f"{name} is empty: name a folder, or leave it out for the default.", setting=name)
    return _absolute(os.path.expanduser(text)) if text.startswith("~") else Path(text)


def _default_basedir() -> Path:
    import appdirs

    return _absolute(appdirs.user_data_dir("picopayments-cli"))


def _absolute(text: str) -> Path:
    """Refuse what depends on a home that is not known."""
    if not os.path.isabs(text):
        raise InvalidSetting(
            "There is no home folder here: name the folder to use with --basedir.", setting="--basedir"
        )
    return Path(text)


def _is_there(folder: Path) -> bool:
    """Whether there is such a folder. Raises OSError where that can't be seen."""
    try:
        return stat.S_ISDIR(os.stat(folder).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def load_settings(network: Network, basedir: Path, flags: Mapping[str, Any], environ: Mapping[str, str]) -> Settings:
    """Return all settings of a network. ``flags`` has the names of Settings' members; None means not given.

    Raises InvalidSetting (an unknown name, an impossible value), InvalidUrl, StoreDamaged (the file is no JSON object).
    """
    chosen = _defaults(network)
    for source, given in (
        (FILE, read_settings(network, basedir)),
        (VARIABLE, {name: _from_text(name, environ.get(variable, "")) for name, variable in ENVIRONMENT.items()}),
        (FLAG, flags),
    ):
        chosen |= {name: Choice(value, source) for name, value in given.items() if value is not None}
    return _settings(network, basedir, chosen)


def read_settings(network: Network, basedir: Path) -> dict[str, Any]:
    """Return what stands in the settings file, unchecked but for the names.

    One that holds a password must be private; the original client's, which never is, becomes so with its other files.
    Raises InvalidSetting, StoreDamaged, StoreUnusable.
    """
    path = settings_file(network, basedir)
    given = _read(path)
    with usable(basedir):
        check_own(basedir)
    for name in sorted(set(given) - set(_CHECKS)):
        raise _unknown(name, f"{path} holds {name!r}, which is no setting.")
    if _OLDER[-1] not in given and any(shown(name, value) != value for name, value in given.items()):
        check_private(path)
    elif _OLDER[-1] not in given:
        check_own(path)
    return given


def with_setting(network: Network, basedir: Path, name: str, text: str) -> dict[str, Any]:
    """Return the settings file's content with a setting that has the value of a text; no text takes it out.

    The file must be right as a whole then. Raises InvalidSetting, InvalidUrl, StoreDamaged.
    """
    check_name(name)
    given = {key: value for key, value in read_settings(network, basedir).items() if key != name}
    if text:
        given[name] = _from_text(name, text)
    chosen = {key: Choice(value, FILE) for key, value in given.items() if value is not None}
    _settings(network, basedir, _defaults(network) | chosen)
    return given


def check_name(name: str) -> None:
    """Refuse what is no setting's name. Raises InvalidSetting."""
    if name not in _CHECKS:
        raise _unknown(name, f"There is no setting {name!r}.")


def shown(name: str, value: Any) -> Any:
    """Return a setting's value as it may be shown: a password, and user and password in a URL, are hidden."""
    if name == "hub_password" and value is not None:
        return HIDDEN
    if name.endswith("_url") and isinstance(value, str) and "@" in value:
        try:
            parts = urlsplit(value)
        except ValueError:
            return HIDDEN
        return parts._replace(netloc=f"{HIDDEN}@{parts.netloc.rpartition('@')[2]}").geturl()
    return value


def _unknown(name: str, message: str) -> InvalidSetting:
    from picopayments_cli.suggestions import did_you_mean  # loads more than a start should

    known = known_settings()
    guess = did_you_mean(name, known)
    return InvalidSetting(f"{message}{guess} Known are: {', '.join(known)}.", setting=name, known=known)


def example_url(name: str, network: Network) -> str:
    """Make an example of the URL that a setting takes: the service's own port on this machine."""
    if name == "chain_url":
        return f"http://127.0.0.1:{network.node_port}/"
    if name == "bitcoin_url":
        embedded = f"http://127.0.0.1:{network.node_port}/bitcoin/"
        return embedded if network.name == "regtest" else f"http://USER:PASSWORD@127.0.0.1:{network.bitcoin_port}/"
    return f"http://127.0.0.1:{network.hub_port}/api/"


def check_url(url: Any, what: str, example: str = "https://hub.example/api/") -> str:
    """Check that a URL is one of http or https whose host is read in one way only. Raises InvalidUrl."""
    text = url if isinstance(url, str) else ""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and (parts.port or 1) > 0 and bool(_host(parts.hostname or ""))
        usable = usable and "%" not in parts.netloc.rpartition("@")[2] and "\\" not in parts.netloc
    except ValueError:
        usable = False
    if not usable or not text.isprintable() or " " in text:
        seen = "***" if "@" in text else repr(url)
        raise InvalidUrl(f"The {what} must be a URL like {example}, not {seen}.", what=what)
    return text


def place_of(url: str) -> str:
    """Return where a hub is, however its URL is spelled: scheme, host and port, the scheme's own left out.

    A text that is no URL is its own place.
    """
    try:
        parts = urlsplit(url)
        host, port = _host(parts.hostname or ""), parts.port
    except ValueError:
        return url
    if not host:
        return url
    shown_host = f"[{host}]" if ":" in host else host
    own = port is None or port == {"http": 80, "https": 443}.get(parts.scheme)
    return f"{parts.scheme}://{shown_host}" + ("" if own else f":{port}")


def _host(name: str) -> str:
    """Write a host in one way only. Raises ValueError where its IDNA form is that of another name.

    Lower case, without a dot at its end, in IDNA where it is not ASCII; an IP address as short as it can be.
    """
    host = name.lower().removesuffix(".")
    try:
        return str(ip_address(host))
    except ValueError:
        pass
    if host.isascii():
        return host
    encoded = host.encode("idna")
    if encoded.decode("idna") != host:  # libraries disagree about such names
        raise ValueError(f"{host!r} is not the name that it stands for")
    return encoded.decode()


def _defaults(network: Network) -> dict[str, Choice]:
    """Return every setting's default, None where it has none."""
    ours = {item.name: item.default for item in fields(Settings)}
    if network.name == "regtest":
        ours["hub_url"] = f"http://127.0.0.1:{network.hub_port}/api/"
    return {name: Choice(ours.get(name), DEFAULT) for name in _CHECKS}


def _from_text(name: str, text: str) -> Any:
    """Return the value that a text stands for: itself, or JSON where the setting is no text. None for none."""
    if not text or _CHECKS[name][0] in (_is_text, _is_path):
        return text or None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text  # which the setting's own check refuses


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except NotADirectoryError:
        raise StoreUnusable(
            f"{path.parent} is no folder, or stands below what is none: name another --basedir.", path=str(path.parent)
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise StoreDamaged(f"The settings in {path} can't be read: {error}. Mend the file or take it away.") from error
    if not isinstance(value, dict):
        raise StoreDamaged(f"The settings in {path} are no JSON object. Mend the file or take it away.")
    return value


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and os.path.isabs(value)


def _is_switch(value: Any) -> bool:
    return isinstance(value, bool)


def _is_percentage(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 100


def _is_seconds(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= MAX_SECONDS


def _is_rate(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 10_000


def plain_fingerprint(text: str) -> str:
    """Write a SHA-256 fingerprint in hex alone, also one as openssl prints it, with its name and colons."""
    name, sign, digits = text.rpartition("=")
    return (digits if name.lower() in ("sha256 fingerprint", "") else name + sign + digits).replace(":", "").lower()


def _are_pins(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    fingerprints = [plain_fingerprint(pin) if isinstance(pin, str) else "" for pin in value.values()]
    return all(url.startswith("https://") for url in value) and all(map(_FINGERPRINT.fullmatch, fingerprints))


def _is_quantity(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_QUANTITY


_OLDER = ("hub_username", "hub_password", "hub_verify_ssl_cert")  # the original client's
_CHECKS = {
    "hub_url": (_is_text, "a URL"),
    "chain_url": (_is_text, "a URL"),
    "bitcoin_url": (_is_text, "a URL"),
    "timeout": (_is_seconds, f"seconds, more than 0 and at most {MAX_SECONDS}"),
    "verify_tls": (_is_switch, "true or false"),
    "ca_file": (_is_text, "the path of a file"),
    "pinned_certificates": (_are_pins, "a JSON object of https URLs and SHA-256 fingerprints in hex"),
    "fee_ceiling": (_is_rate, "a whole number of sat/vB from 1 to 10000"),
    "fee_rate": (_is_rate, "a whole number of sat/vB from 1 to 10000"),
    "lock_ceiling": (_is_percentage, "a number of hundredths from 0 to 100"),
    "sync_ceiling": (_is_percentage, "a number of hundredths from 0 to 100"),
    "ask_above": (_is_quantity, f"a whole number of satoshis from 0 to {MAX_QUANTITY}"),
    "backup": (_is_path, "the whole path of a file, from / on"),
    "hub_username": (_is_text, "text"),
    "hub_password": (_is_text, "text"),
    "hub_verify_ssl_cert": (_is_switch, "true or false"),
}


def _check(name: str, value: Any, network: Network) -> None:
    if value is None:
        return
    fits, wanted = _CHECKS[name]
    if not fits(value):
        raise InvalidSetting(f"The setting {name} must be {wanted}.", setting=name)
    if name.endswith("_url"):
        check_url(value, name, example_url(name, network))


def _bitcoin_alone(network: Network, source: str) -> str:
    """Say what to do about a Bitcoin node of one's own without a Counterparty node."""
    chain, bitcoin = (example_url(name, network) for name in ("chain_url", "bitcoin_url"))
    given = f"bitcoin_url ({ENVIRONMENT['bitcoin_url'] if source == VARIABLE else source})"
    if network.name == "regtest":
        return (
            f"{given} is for a node of your own, and the embedded network of regtest needs none: take it out. To ask "
            f"the embedded node in place of the hub, set both chain_url to {chain} and bitcoin_url to {bitcoin}."
        )
    return (
        f"{given} works only beside chain_url, since a Bitcoin node knows no assets. Set chain_url too, such as "
        f"{chain} of Counterparty Core, or take bitcoin_url out: then the hub is asked."
    )


def _settings(network: Network, basedir: Path, choices: dict[str, Choice]) -> Settings:
    for name, choice in choices.items():
        _check(name, choice.value, network)
    older = choices["hub_verify_ssl_cert"]
    if older.value is not None and choices["verify_tls"].source == DEFAULT:
        choices["verify_tls"] = older
    values = {name: choice.value for name, choice in choices.items()}
    user, password, _ = (values.pop(name, None) for name in _OLDER)
    auth = (user, password) if user and password else None
    settings = Settings(network, basedir, **values, hub_auth=auth, choices=choices)
    if settings.bitcoin_url is not None and settings.chain_url is None:
        raise InvalidSetting(_bitcoin_alone(network, choices["bitcoin_url"].source), setting="bitcoin_url")
    if settings.fee_rate is not None and settings.fee_rate > settings.fee_ceiling:
        raise InvalidSetting(
            f"The fee_rate of {settings.fee_rate} sat/vB is above the fee_ceiling of {settings.fee_ceiling} sat/vB.",
            fee_rate=settings.fee_rate,
            fee_ceiling=settings.fee_ceiling,
        )
    return settings
