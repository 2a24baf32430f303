"""The treasury of the regtest chain: keys of its own, real burns and issuances, payments of all that to who asks."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bitcoin.core import COutPoint, CTransaction, CTxIn, CTxOut
from bitcoin.core.script import SIGHASH_ALL, CScript, SignatureHash

from picopayments_cli.channel.counterparty import (
    XCP_ID,
    Issuance,
    asset_id,
    data_script,
    p2pkh,
    pack_issuance,
    pack_send,
    parent_of,
    unpack_send,
)
from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.networks import NETWORKS, script_of_address
from picopayments_cli.channel.values import Outpoint, hash160
from picopayments_cli.errors import (
    InsufficientBitcoin,
    InsufficientFunds,
    InvalidAsset,
    InvalidQuantity,
    UnknownAsset,
)
from picopayments_cli.regtest.blocks import COIN, MATURITY
from picopayments_cli.regtest.index import Index, Output
from picopayments_cli.regtest.journal import Journal
from picopayments_cli.regtest.ledger import BURN_CAP, ISSUANCE_FEE, XCP, Ledger
from picopayments_cli.regtest.mempool import Mempool
from picopayments_cli.regtest.policy import dust_limit

HOLDERS = 40  # addresses that burn one bitcoin each, for some 1500 XCP
_FUEL_COINS, _FUEL = 4, COIN // 10  # what each holder pays its sends from
_BANK_COIN = 10 * COIN
_EMPTY_BLOCKS = 120
FEE_RATE = 2  # sat/vB, where nothing asks for more
_INPUT_SIZE, _OUTPUT_SIZE, _BASE_SIZE = 148, 43, 12  # bytes at most; the outputs: data or P2WSH
_MIN_OUTPUT = 546
_FIRST_NUMERIC = 26**12 + 1
ISSUED = 10**18  # satoshis of each asset that the treasury issues


@dataclass(frozen=True)
class _Coin:
    outpoint: Outpoint
    value: int
    key: Key


class Treasury:
    """Composes and signs; what mines and broadcasts is the node. Satoshis throughout."""

    def __init__(self, index: Index, mempool: Mempool, ledger: Ledger, journal: Journal) -> None:
        self._index = index
        self._mempool = mempool
        self._ledger = ledger
        seed = journal.get("seed")
        if seed is None:
            seed = os.urandom(32)
            journal.put("seed", seed)
        self._bank, *self._holders = (_derive(seed, number) for number in range(HOLDERS + 1))
        self.script = _script(self._bank)
        self.fee_rate = FEE_RATE  # sat/vB

    def endow(self) -> Iterator[Sequence[bytes]]:
        """Return the first blocks' transactions, block by block: coinbases ripen, are split, and burned."""
        for _ in range(_EMPTY_BLOCKS):
            yield []
        split = self._split()
        yield [split.serialize()]
        txid = bytes(split.GetTxid())
        burn = script_of_address(NETWORKS["regtest"], NETWORKS["regtest"].burn_address)
        fee = self.fee_rate * (_BASE_SIZE + _INPUT_SIZE + _OUTPUT_SIZE)
        yield [
            _sign([_Coin(Outpoint(txid, number), BURN_CAP + fee, key)], [(BURN_CAP, burn)])
            for number, key in enumerate(self._holders)
        ]

    @staticmethod
    def check_output(script: bytes, satoshis: int) -> None:
        """Refuse satoshis too few for an output; 0 asks for none. Raises InvalidQuantity."""
        least = dust_limit(script)
        if satoshis and satoshis < least:
            raise InvalidQuantity(
                f"An output of less than {least} satoshis is not relayed.", value=satoshis, least=least
            )

    def issue(self, asset: str) -> Iterator[bytes]:
        """Sign issuances that give the treasury an asset, divisible, each to be mined before the next is asked for.

        None where the asset is there; a subasset's parent, where it is not, comes first.
        Raises InvalidAsset, InsufficientFunds, and UnknownAsset for a subasset of somebody else's asset.
        """
        if self._ledger.named(asset) is not None:
            return
        name = parent_of(asset) if "." in asset else asset
        if asset_id(name) <= XCP_ID:
            raise InvalidAsset(f"{asset} is not issued; ask for bitcoins by their own option.", asset=asset)
        if self._ledger.named(name) is None:
            payer, _ = self._shares(XCP, ISSUANCE_FEE)[0]
            yield self._issue(payer, Issuance(asset_id(name), ISSUED))
        if name == asset:
            return
        parent = self._ledger.named(name)
        owner = next((key for key in self._holders if parent is not None and _script(key) == parent.owner), None)
        if owner is None:
            raise UnknownAsset(f"Nobody has issued {asset} yet, and only the owner of {name} can.", asset=asset)
        yield self._issue(owner, Issuance(subasset_id(asset), ISSUED, longname=asset))

    def pay(self, script: bytes, satoshis: int, asset: str, quantity: int) -> list[bytes]:
        """Return signed transactions that pay satoshis and a quantity of an asset (0: none) to a script.

        An asset comes by classic sends, one for each treasury address that it takes, so their outputs bring some
        satoshis where none were asked for. Raises InvalidQuantity, UnknownAsset, InsufficientFunds,
        InsufficientBitcoin.
        """
        self.check_output(script, satoshis)
        least = dust_limit(script)
        used: set[Outpoint] = set()
        asset = self._name(asset) if quantity else asset
        shares = self._shares(asset, quantity) if quantity else []
        if not shares:
            return [self._pay_bitcoin(script, satoshis, used)] if satoshis else []
        first = max(least, satoshis - least * (len(shares) - 1))
        return [
            self._pay_asset(key, asset, share, (first if number == 0 else least, script), used)
            for number, (key, share) in enumerate(shares)
        ]

    # Composing -------------------------------------------------------------------------------------------------

    def _pay_bitcoin(self, script: bytes, satoshis: int, used: set[Outpoint]) -> bytes:
        coins = self._choose(self._bank, satoshis, 2, used)
        return self._finish(coins, [(satoshis, script)], [(self._bank, satoshis)])

    def _pay_asset(self, key: Key, asset: str, quantity: int, output: tuple[int, bytes], used: set[Outpoint]) -> bytes:
        least = dust_limit(output[1])
        coins = self._choose(key, least, 3, used)
        extra = output[0] - least
        data = data_script(pack_send(asset_id(asset), quantity), coins[0].outpoint.txid)
        changes = [(key, least)]
        if extra:
            coins += self._choose(self._bank, extra, 1, used)
            changes.append((self._bank, extra))
        return self._finish(coins, [output, (0, data)], changes)

    def _issue(self, key: Key, issuance: Issuance) -> bytes:
        coins = self._choose(key, 0, 2, set())
        data = data_script(pack_issuance(issuance), coins[0].outpoint.txid)
        return self._finish(coins, [(0, data)], [(key, 0)])

    def _finish(self, coins: list[_Coin], outputs: list[tuple[int, bytes]], changes: list[tuple[Key, int]]) -> bytes:
        """Sign, with a change output for each key that pays: its coins less what it owes and its share of the fee."""
        changed = []
        for key, owed in changes:
            own = [coin for coin in coins if coin.key == key]
            fee = self.fee_rate * (_INPUT_SIZE * len(own) + (_BASE_SIZE + _OUTPUT_SIZE * (len(outputs) + len(changes))))
            left = sum(coin.value for coin in own) - owed - fee
            if left >= _MIN_OUTPUT:
                changed.append((left, _script(key)))
        return _sign(coins, outputs + changed)

    def _choose(self, key: Key, satoshis: int, outputs: int, used: set[Outpoint]) -> list[_Coin]:
        """Return coins of a key that pay satoshis and their own fee: the smallest that does alone, else the largest."""
        fixed = satoshis + self.fee_rate * (_BASE_SIZE + _OUTPUT_SIZE * (outputs + 2))
        coins = sorted((coin for coin in self._coins(key) if coin.outpoint not in used), key=lambda coin: coin.value)
        alone = next((coin for coin in coins if coin.value >= fixed + self.fee_rate * _INPUT_SIZE), None)
        chosen: list[_Coin] = [] if alone is None else [alone]
        while alone is None and sum(coin.value - self.fee_rate * _INPUT_SIZE for coin in chosen) < fixed:
            if not coins:
                raise InsufficientBitcoin(
                    f"The treasury has no {satoshis} satoshis left to spend now: mine some blocks, or ask for less.",
                    needed=satoshis,
                    available=sum(coin.value for coin in chosen),
                )
            chosen.append(coins.pop())
        used.update(coin.outpoint for coin in chosen)
        return chosen

    def _split(self) -> CTransaction:
        coins = self._coins(self._bank)
        burn_coin = BURN_CAP + self.fee_rate * (_BASE_SIZE + _INPUT_SIZE + _OUTPUT_SIZE)
        outputs = [(burn_coin, _script(key)) for key in self._holders]
        outputs += [(_FUEL, _script(key)) for key in self._holders for _ in range(_FUEL_COINS)]
        left = sum(coin.value for coin in coins) - sum(value for value, _ in outputs)
        outputs += [(_BANK_COIN, self.script)] * ((left - COIN) // _BANK_COIN)
        return CTransaction.deserialize(
            self._finish(coins, outputs, [(self._bank, sum(value for value, _ in outputs))])
        )

    # Holdings --------------------------------------------------------------------------------------------------

    def _name(self, asset: str) -> str:
        """Return the name that balances go by. Raises UnknownAsset."""
        row = self._ledger.named(asset)
        if row is None:
            raise UnknownAsset(f"The ledger knows no asset {asset!r}.", asset=asset)
        return row.name

    def _shares(self, asset: str, quantity: int) -> list[tuple[Key, int]]:
        """Tell which treasury address sends how much: the one that holds just enough, else the richest together."""
        held = sorted((self._available(key, asset), position) for position, key in enumerate(self._holders))
        enough = next(((have, position) for have, position in held if have >= quantity), None)
        chosen = [enough] if enough else []
        while not enough and sum(have for have, _ in chosen) < quantity:
            if not held or not held[-1][0]:
                available = sum(have for have, _ in chosen)
                raise InsufficientFunds(
                    f"The treasury has {available} satoshis of {asset} left. Ask for that or less.",
                    asset=asset,
                    needed=quantity,
                    available=available,
                )
            chosen.append(held.pop())
        shares = []
        for have, position in chosen:
            shares.append((self._holders[position], min(have, quantity)))
            quantity -= shares[-1][1]
        return shares

    def _available(self, key: Key, asset: str) -> int:
        """Return a holder's balance less what sends in the mempool take from it."""
        script = _script(key)
        have = self._ledger.balances(script).get(asset, 0)
        for entry in self._mempool.entries.values():
            reading = self._ledger.read(entry.item) if entry.item.spent[0].script == script else None
            send = unpack_send(reading.message or b"") if reading else None
            if send is not None and send.asset_id == asset_id(asset):
                have -= send.quantity
        return max(have, 0)

    def _coins(self, key: Key) -> list[_Coin]:
        script = _script(key)
        confirmed: Mapping[Outpoint, Output] = self._index.coins_of(script)
        ripe = {
            outpoint: out
            for outpoint, out in confirmed.items()
            if self._mempool.spender(outpoint) is None
            and not (out.coinbase and self._index.height + 1 - (out.height or 0) < MATURITY)
        }
        return [_Coin(outpoint, out.value, key) for outpoint, out in (ripe or self._mempool.coins_of(script)).items()]


def subasset_id(longname: str) -> int:
    """Return the numeric asset that a new subasset becomes, as Counterparty Core picks it on regtest."""
    drawn = int.from_bytes(hashlib.shake_256(longname.encode()).digest(4), "big")
    return _FIRST_NUMERIC + drawn


def _derive(seed: bytes, number: int) -> Key:
    return Key(hashlib.sha256(seed + number.to_bytes(4, "big")).digest())


def _script(key: Key) -> bytes:
    return p2pkh(hash160(key.pubkey))


def _sign(coins: Sequence[_Coin], outputs: Sequence[tuple[int, bytes]]) -> bytes:
    """Return a raw transaction that spends P2PKH coins."""
    vin = [CTxIn(COutPoint(coin.outpoint.txid, coin.outpoint.vout), nSequence=0xFFFFFFFD) for coin in coins]
    vout = [CTxOut(value, CScript(script)) for value, script in outputs]
    unsigned = CTransaction(vin, vout, nVersion=2)
    signed = []
    for number, (coin, txin) in enumerate(zip(coins, vin, strict=True)):
        digest = SignatureHash(CScript(_script(coin.key)), unsigned, number, SIGHASH_ALL)
        signature = coin.key.sign(digest) + bytes((SIGHASH_ALL,))
        signed.append(CTxIn(txin.prevout, CScript([signature, coin.key.pubkey]), txin.nSequence))
    raw: bytes = CTransaction(signed, vout, nVersion=2).serialize()
    return raw
