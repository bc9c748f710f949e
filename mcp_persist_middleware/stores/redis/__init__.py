"""The fast path in front of either: Redis acknowledges, SQL keeps."""
