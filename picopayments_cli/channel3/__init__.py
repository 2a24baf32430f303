"""The money logic of protocol 3: taproot scripts, transactions, signatures. Pure, as the rest of the ground floor."""
