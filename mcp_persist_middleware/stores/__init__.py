"""What differs from store to store: connections, statements, locks."""
