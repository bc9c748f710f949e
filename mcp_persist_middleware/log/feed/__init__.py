"""Events of many streams as they are committed: `Persistence.subscribe`."""
