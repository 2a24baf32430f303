"""Bitcoin Core's error codes, and the refusal of a call that carries one."""

from __future__ import annotations

INVALID_PARAMETER, NOT_FOUND, DESERIALIZATION = -8, -5, -22
INVALID_PARAMS, NO_METHOD, PARSE_ERROR, INVALID_REQUEST = -32602, -32601, -32700, -32600


class RpcError(Exception):
    """A refusal with Bitcoin Core's code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
