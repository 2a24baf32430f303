"""ARC4, the stream cipher in which Counterparty's ledger wraps its messages. It hides nothing: the key is public."""

from __future__ import annotations


def arc4(key: bytes, data: bytes) -> bytes:
    """Encrypt data, or decrypt what is encrypted: it is the same step. The key has 1 to 256 bytes."""
    box = list(range(256))
    j = 0
    for i in range(256):
        j = (j + box[i] + key[i % len(key)]) % 256
        box[i], box[j] = box[j], box[i]
    result = bytearray()
    j = 0
    for number, byte in enumerate(data, 1):
        i = number % 256
        j = (j + box[i]) % 256
        box[i], box[j] = box[j], box[i]
        result.append(byte ^ box[(box[i] + box[j]) % 256])
    return bytes(result)
