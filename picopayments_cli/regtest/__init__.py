"""The regtest network: a chain judged by Bitcoin Core's kernel, a small Counterparty ledger, and their server."""
