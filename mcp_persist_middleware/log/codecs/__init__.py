"""How payloads are written: compressed, encrypted, as they are. What was done to one is recorded
with it, so that any setting may change while old rows stay readable. In front of every store, Redis
and those of others too: none of them looks into a payload."""
