"""Never worse than bare: the same odd requests to an application and to it behind the middleware.

`wire` sends bytes and notes everything that can be seen of an answer, `cases` are the requests that
somebody thought of, `generate` makes more of them, `sites` brings up both sides in one of the
states, `differ` compares, `named` holds every difference that is meant with its reason, `seen` the
conditions of that, `hunt` repeats and shrinks what is left. `python -m tests.peers.bare --help`.
"""
