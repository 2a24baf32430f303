"""The client on protocol 3: what differs from ``client``, from which it takes the rest."""
