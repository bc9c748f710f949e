"""Long calls: a job is a detached exchange on a stream, with an id that cannot be guessed, an
owner, an end, and a state that is read from the log.

It stands above `streams`, whose exchanges it keeps running and whose callers it tells apart, and
below `dispatch`, which alone lets it meet sessions and the relay.
"""
