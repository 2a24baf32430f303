"""Knows which libraries the extras of the package bring, and refuses a command that lacks one before it begins."""

from __future__ import annotations

from importlib.util import find_spec

from picopayments_cli.errors import ExtraMissing

_KERNEL = {"pbk": "py-bitcoinkernel"}
_HUB = {"alembic": "alembic", "jinja2": "jinja2", "prometheus_client": "prometheus-client", "sqlalchemy": "sqlalchemy"}
EXTRAS = {"kernel": _KERNEL, "hub": {**_KERNEL, **_HUB}, "regtest": {**_KERNEL, **_HUB}}  # package by module


def check_extra(extra: str, command: str) -> None:
    """Refuse a command where a library of that extra is not installed. Raises ExtraMissing."""
    missing = [package for module, package in EXTRAS[extra].items() if find_spec(module) is None]
    if missing:
        raise ExtraMissing(
            f"{command} needs libraries that are not installed: {', '.join(missing)}. Nothing was done. Install them "
            f"with: pip install 'picopayments-cli[{extra}]'",
            extra=extra,
            missing=missing,
        )
