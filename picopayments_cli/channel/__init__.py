"""The money logic: scripts, transactions, channel states. Pure: no file, socket, clock, randomness or global."""
