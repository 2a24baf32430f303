"""Micropayments in Counterparty assets: a command-line client, and the hub that it talks to."""

__version__ = "2.0.0"
