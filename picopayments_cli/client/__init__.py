"""The client's wing: its files, its wallet, its connections."""
