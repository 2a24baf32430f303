"""Read what strangers send to the node: bodies within bounds, arguments of the types that the methods name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from starlette.requests import ClientDisconnect, Request

from picopayments_cli.errors import InvalidParams

Result = TypeVar("Result")


async def body_of(request: Request, most: int) -> bytes | None:
    """Return a request's body; None where it is larger, or was cut off."""
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                return None
    except ClientDisconnect:
        return None
    return body


def checked(method: Callable[..., Result]) -> Callable[..., Result]:
    """Make a method raise InvalidParams for a value of another type, and TypeError as any call does."""
    signature, hints = inspect.signature(method), get_type_hints(method)

    @functools.wraps(method)
    def called(*args: Any, **kwargs: Any) -> Result:
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            gathered = signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
            if not gathered and not _fits(value, hints[name]):
                raise InvalidParams(f"{name} is of the wrong type.", argument=name)
        return method(*args, **kwargs)

    return called


def _fits(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    if get_origin(hint) is list:
        return isinstance(value, list) and all(_fits(item, get_args(hint)[0]) for item in value)
    if get_origin(hint) is not None:
        return isinstance(value, get_origin(hint))
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)
