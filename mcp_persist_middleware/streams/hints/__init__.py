"""Listens (`subscriptions/listen`, 2026-07-28) on any worker: what one worker's application lets
its subscribers know reaches those of every other worker through one short stream for each place
(`hint_log`), which each worker with subscribers follows (`board`)."""
