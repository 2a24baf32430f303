"""The hub: what serves clients, follows the chain and keeps the money's books."""
