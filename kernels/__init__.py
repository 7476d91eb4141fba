"""Arrays in, arrays out: one folder an op, with its contract and its implementations."""
