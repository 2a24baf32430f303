"""The ground floor of protocol 3, which replaces ``channel/`` when client and hub switch to it."""
