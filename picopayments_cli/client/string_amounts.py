"""Write every quantity of a command's result as text, for languages whose numbers end at 2^53."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from picopayments_cli.chain.answers import satoshis_of
from picopayments_cli.quantities import BY_ASSET, QUANTITIES


def with_string_amounts(command: str, result: Any) -> Any:
    """Return what a command answers with each quantity as the decimal text of its satoshis.

    Bitcoins with decimals (``amount`` of listutxos) become satoshis, too. Rates, times and settings stay as they are.
    """
    if command == "config":
        return result
    return _text(result, command)


def told_as_text(command: str, tell: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return what tells a command's results so."""
    return lambda result: tell(with_string_amounts(command, result))


def _text(value: Any, name: str) -> Any:
    """Return a value that stands under a name with its quantities as text."""
    if isinstance(value, Mapping):
        return {key: _text(item, "amount" if name in BY_ASSET else key) for key, item in value.items()}
    if isinstance(value, list):
        return [_text(item, name) for item in value]
    if name not in QUANTITIES or isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    return str(value if isinstance(value, int) else int(satoshis_of(value)))
