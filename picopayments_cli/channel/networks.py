"""The five networks, and the way between addresses and scripts on each of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from picopayments_cli.errors import InvalidAddress, InvalidKey, TaprootInactive, WrongNetwork


@dataclass(frozen=True)
class Network:
    """One network: all that differs between them. Times are in blocks.

    ``taproot_height``: from this block on Counterparty's ledger knows the addresses of deposits and commits.
    ``block_seconds``: between two blocks, about; 0 where they come when somebody mines. ``deposit_blocks``: in which a
    client's deposit must be mined, which pays the estimate for three; on test networks storms of blocks pass it by.
    """

    name: str
    netcode: str  # pycoin's; testnet4 and signet share testnet3's prefixes
    hub_port: int
    node_port: int
    bitcoin_port: int
    burn_address: str
    taproot_height: int = 0
    safe_depth: int = 7  # confirmations with which something is final: a reorganisation of six takes away six
    expire_min: int = 144
    expire_max: int = 65535
    block_seconds: int = 600
    deposit_blocks: int = 12


TEST_BURN = "mvCounterpartyXXXXXXXXXXXXXXW24Hef"
NETWORKS = {
    network.name: network
    for network in (
        Network("mainnet", "BTC", 5000, 4000, 8332, "1CounterpartyXXXXXXXXXXXXXXXUWLpVr", taproot_height=902_000),
        Network("testnet", "XTN", 15000, 14000, 18332, TEST_BURN, taproot_height=4_410_000, deposit_blocks=36),
        Network("testnet4", "XTN", 45000, 44000, 48332, TEST_BURN, taproot_height=85_000, deposit_blocks=36),
        Network("signet", "XTN", 35000, 34000, 38332, TEST_BURN),
        Network("regtest", "XRT", 25000, 24000, 18443, TEST_BURN, safe_depth=1, expire_min=12, block_seconds=0),
    )
}


def network_named(name: str) -> Network:
    """Return the network of that name. Raises WrongNetwork."""
    if name not in NETWORKS:
        raise WrongNetwork(f"There is no network {name!r}: choose one of {', '.join(NETWORKS)}.", network=name)
    return NETWORKS[name]


def check_taproot(network: Network, height: int) -> None:
    """Refuse to open a connection while the ledger does not know deposits' addresses yet. Raises TaprootInactive."""
    if height < network.taproot_height:
        raise TaprootInactive(
            f"On {network.name} Counterparty knows taproot addresses from block {network.taproot_height} on, and the "
            f"chain is at {height}: no connection can be opened. If the chain is further, the node is behind: wait.",
            network=network.name,
            height=height,
            needed=network.taproot_height,
        )


@cache
def _pycoin(netcode: str) -> Any:
    from pycoin.networks.registry import network_for_netcode  # 140 ms: only once an address is needed

    return network_for_netcode(netcode)


@lru_cache(maxsize=65536)
def script_of_address(network: Network, address: str) -> bytes:
    """Return the scriptPubKey that an address stands for. Raises InvalidAddress."""
    script = _parsed(network, address)
    if script is None:
        others = [other.name for other in NETWORKS.values() if _parsed(other, address) is not None]
        advice = f"It is one of {' or '.join(others)}" if others else "Check it for typing errors"
        raise InvalidAddress(
            f"{address!r} is not an address of {network.name}. {advice}.",
            address=address,
            network=network.name,
            networks=others,
        )
    return script


def recipient(network: Network, address: str, *, bitcoin: bool) -> bytes:
    """Return the scriptPubKey of an address that bitcoins or an asset is sent to. Raises InvalidAddress."""
    script = script_of_address(network, address)
    if not bitcoin and address == network.burn_address:
        raise InvalidAddress(
            "Counterparty takes all that is sent to this address for a burn of bitcoins, and the asset would not move. "
            "Name another address.",
            address=address,
        )
    return script


def _parsed(network: Network, address: str) -> bytes | None:
    parsed = _pycoin(network.netcode).parse.address(address) if address.isascii() else None
    script = b"" if parsed is None else bytes(parsed.script())
    # pycoin takes a hash of any length: who pays to a longer or shorter one pays to nobody
    return script if address_of_script(network, script) is not None else None


_SIZES = {"p2pkh": 25, "p2sh": 23, "p2pkh_wit": 22, "p2sh_wit": 34, "p2tr": 34}  # bytes of a script that has an address


@lru_cache(maxsize=65536)
def address_of_script(network: Network, script: bytes) -> str | None:
    """Return the address of a scriptPubKey, or None where it has none (OP_RETURN, bare multisig, ...)."""
    contract = _pycoin(network.netcode).contract
    size = _SIZES.get(contract.info_for_script(script).get("type"))
    if size != len(script):  # pycoin takes a longer push of the same hash for the same address
        return None
    return str(_pycoin(network.netcode).address.for_script(script))


def secret_of_wif(network: Network, wif: str) -> bytes:
    """Return the 32-byte private key of a WIF text (compressed keys only). Raises InvalidKey."""
    text = wif.strip()
    try:
        key = _pycoin(network.netcode).parse.wif(text)
        secret = b"" if key is None else int(key.secret_exponent()).to_bytes(32, "big")
    except ValueError:  # a number that is no key of the curve
        secret = b""
    if secret and wif_of_secret(network, secret) == text:  # pycoin takes other lengths and endings, too
        return secret
    raise InvalidKey(
        f"This is no private key of {network.name} in wallet import format (WIF) for a compressed key. Copy it once "
        "more from where it stands, all of it.",
        network=network.name,
    )


def wif_of_secret(network: Network, secret: bytes) -> str:
    """Return a 32-byte private key as WIF text, for a compressed key."""
    return str(_pycoin(network.netcode).keys.private(int.from_bytes(secret, "big")).wif())
