"""The hub on protocol 3: what differs from `hub`, whose modules it takes the place of."""
