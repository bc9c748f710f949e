"""The statements of writing, of reading, of retention and of relayed requests, in SQLite's
words."""

from mcp_persist_middleware.stores.sql.schema import Tables
from mcp_persist_middleware.stores.sql.statements import Sql, Statements


class SqliteStatements(Statements):
    """Named by what they do."""

    def __init__(self, tables: Tables) -> None:
        super().__init__(tables)
        self._by_size: dict[int, str] = {}

    add = Sql("""
        INSERT INTO {event} (stream, sequence, epoch, kind, codec, payload)
        SELECT v.column1, v.column2, v.column3, v.column4, v.column5, v.column6
        FROM (VALUES {{rows}}) AS v
        CROSS JOIN {stream} AS s
            ON s.id = v.column1 AND s.epoch = v.column3 AND s.state = {OPEN}
    """)

    def insert(self, rows: int) -> str:
        """`add` for this many rows, a power of two; rows of NULLs fill it up (they join no
        stream), so that few statements serve every batch."""
        if rows not in self._by_size:
            self._by_size[rows] = self.add.format(rows=", ".join(["(?, ?, ?, ?, ?, ?)"] * rows))
        return self._by_size[rows]

    note = Sql("""
        INSERT INTO {journal} ({journal_columns})
        SELECT * FROM (VALUES {{rows}}) WHERE column1 IS NOT NULL
        ON CONFLICT (id) DO NOTHING
    """)

    def note_rows(self, rows: int, columns: int) -> str:
        """`note` for this many rows, in the same way."""
        return self.note.format(rows=", ".join([f"({', '.join('?' * columns)})"] * rows))

    create = Sql("""
        INSERT INTO {stream} (
            id, kind, namespace, path, session, principal, epoch, state, last_sequence, worker,
            created_at, ended_at, expires_at, request_ids, trace, reader_until, request
        )
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    """)

    # A deleted session's stream (expires_at 0) keeps its early end.
    end = Sql("""
        UPDATE {stream}
        SET state = ?, last_sequence = ?, ended_at = ?,
            expires_at = min(coalesce(expires_at, ?), ?), request = NULL
        WHERE id = ? AND epoch = ? AND state = {OPEN}
    """)

    there = Sql("""
        SELECT 1 FROM {stream} AS s
        WHERE s.id = :stream AND s.epoch = :epoch AND (:state IS NULL OR s.state = :state)
            -- Of two who take over, the one whose name is there was first.
            AND (:worker IS NULL OR s.worker = :worker)
            AND :number = (
                SELECT count(*) FROM {event} AS e WHERE e.stream = :stream
                AND e.sequence BETWEEN :first AND :last AND e.epoch = :epoch
            )
    """)

    # A GET stream goes on after its end, unless its session was forgotten (expires_at 0).
    take_over = Sql("""
        UPDATE {stream}
        SET epoch = ?, worker = coalesce(?, worker), state = {OPEN},
            last_sequence = 0, ended_at = NULL,
            expires_at = CASE WHEN state = {OPEN} THEN expires_at END
        WHERE id = ? AND epoch = ?
            AND (state = {OPEN} OR (kind = {GET} AND expires_at > 0))
    """)

    settle = Sql("UPDATE {stream} SET principal = ? WHERE id = ? AND epoch = ?")

    above = Sql("SELECT 1 FROM {event} WHERE stream = ? AND sequence > ? LIMIT 1")

    trim = Sql("""
        DELETE FROM {event} WHERE stream = :stream AND sequence IN (
            SELECT sequence FROM {event} WHERE stream = :stream AND kind <= {MESSAGE}
            ORDER BY kind, sequence LIMIT :limit
        )
    """)

    find_stream = Sql("SELECT {stream_columns} FROM {stream} WHERE id = ?")

    page = Sql("""
        SELECT sequence, epoch, kind, codec, payload FROM {event}
        WHERE stream = ? AND sequence > ? ORDER BY sequence LIMIT ?
    """)

    expired = Sql("""
        SELECT id, namespace FROM {stream}
        WHERE expires_at IS NOT NULL AND expires_at <= ?
            AND (expires_at > 0 OR coalesce(ended_at, 0) <= ?)
        ORDER BY expires_at LIMIT ?
    """)

    unreadable = Sql("""
        SELECT id, namespace FROM {stream} WHERE id = ? AND expires_at IS NOT NULL
    """)

    forget = Sql("""
        DELETE FROM {event}
        WHERE stream = (SELECT id FROM {stream} WHERE id = :stream AND expires_at IS NOT NULL)
            AND sequence <= (
            SELECT max(sequence) FROM (
                SELECT sequence FROM {event} WHERE stream = :stream ORDER BY sequence LIMIT :limit
            )
        )
    """)

    # One that goes on since it was found is not removed, nor are its events.
    remove_stream = Sql("DELETE FROM {stream} WHERE id = ? AND expires_at IS NOT NULL")

    find_session = Sql("""
        SELECT {session_columns} FROM {session} WHERE namespace = ? AND path = ? AND id = ?
    """)

    at_home = Sql("""
        SELECT 1 FROM {session}
        WHERE namespace = ? AND path = ? AND id = ? AND generation = ? AND home = ? AND NOT deleted
    """)

    put = Sql("""
        INSERT INTO {inbox} (
            id, namespace, path, session, worker, generation, state, deadline, sealed, content,
            reply
        )
        SELECT
            :id, :namespace, :path, :session, :worker, :generation, :state, :deadline, :sealed,
            :content, :reply
        WHERE EXISTS (
            SELECT 1 FROM {session}
            WHERE namespace = :namespace AND path = :path AND id = :session
                AND generation = :generation AND home = :worker AND NOT deleted
        )
        AND :most > (
            SELECT count(*) FROM (
                SELECT 1 FROM {inbox} WHERE worker = :worker AND state = {PENDING} LIMIT :most
            )
        )
    """)

    waiting = Sql("""
        SELECT {inbox_columns} FROM {inbox}
        WHERE worker = ? AND state = {PENDING} AND deadline > ? ORDER BY id LIMIT ?
    """)

    claim = Sql("""
        UPDATE {inbox} SET state = {CLAIMED}, content = x'', deadline = ? WHERE id = ?
    """)

    answer = Sql("""
        UPDATE {inbox} SET state = {REPLIED}, reply = ?, deadline = ?
        WHERE id = ? AND worker = ? AND state = {CLAIMED}
    """)

    look = Sql("SELECT state, worker, reply, deadline FROM {inbox} WHERE id = ?")
