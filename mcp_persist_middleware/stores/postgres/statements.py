"""The statements of writing, of reading, of retention and of relayed requests, in PostgreSQL's
words."""

from mcp_persist_middleware.stores.sql.statements import Sql, Statements

# One whose id is there already has room, and is not put. What may be large stays where it came in
# until it is inserted: every step between would copy it, or spill it to the disk.
_PUT = """
WITH given AS MATERIALIZED (
    SELECT * FROM unnest(
        $1::bytea[], $2::text[], $3::text[], $4::text[], $5::text[], $6::int[],
        $7::smallint[], $8::float8[], $9::boolean[], $11::bytea[], $12::int[]
    ) WITH ORDINALITY AS g (
        id, namespace, path, session, worker, generation, state, deadline, sealed, reply, most, n
    )
), home AS MATERIALIZED (
    SELECT namespace, path, id AS session, home AS worker, generation FROM {session} AS s
    WHERE NOT deleted
        AND (namespace, path, id) IN (SELECT namespace, path, session FROM given)
    ORDER BY namespace, path, id FOR SHARE OF s %s
), wanted AS MATERIALIZED (
    SELECT given.*, row_number() OVER (PARTITION BY worker ORDER BY n) AS place
    FROM given JOIN home USING (namespace, path, session, worker, generation)
), placed AS MATERIALIZED (
    SELECT wanted.*, place <= most - (
        SELECT count(*) FROM (
            SELECT 1 FROM {inbox} AS i
            WHERE i.worker = wanted.worker AND i.state = {PENDING} LIMIT most
        ) AS part
    ) AS has_room
    FROM wanted
), put AS (
    INSERT INTO {inbox} (
        id, namespace, path, session, worker, generation, state, deadline, sealed, content,
        reply
    )
    SELECT id, namespace, path, session, worker, generation, state, deadline, sealed,
        ($10::bytea[])[n], reply
    FROM placed WHERE has_room
    ON CONFLICT DO NOTHING RETURNING id
)
SELECT id, has_room, put.id IS NOT NULL FROM placed LEFT JOIN put USING (id)
"""


class PostgresStatements(Statements):
    """Named by what they do. A CTE sees what was committed when its statement began."""

    # A lock and no change: it needs a store that takes writes.
    ping = Sql("SELECT 1 FROM {meta} WHERE name = 'version' FOR KEY SHARE")

    # In the order of the ids: whoever else locks several streams does it in that order too.
    add = Sql("""
        WITH entry AS (
            SELECT * FROM unnest($7::bytea[], $8::int[]) AS e (id, epoch)
        ), held AS MATERIALIZED (
            SELECT s.id FROM {stream} AS s
            JOIN entry AS e ON e.id = s.id AND e.epoch = s.epoch
            WHERE s.id = ANY ($7) AND s.state = {OPEN}
            ORDER BY s.id FOR SHARE OF s
        ), inserted AS (
            INSERT INTO {event} (stream, sequence, epoch, kind, codec, payload)
            SELECT v.* FROM unnest(
                $1::bytea[], $2::bigint[], $3::int[], $4::smallint[], $5::smallint[], $6::bytea[]
            ) AS v (stream, sequence, epoch, kind, codec, payload)
            JOIN held AS h ON h.id = v.stream
        )
        SELECT id FROM held
    """)

    write = Sql("""
        WITH entry AS (
            SELECT * FROM unnest($7::bytea[], $8::int[]) AS e (id, epoch)
        ), held AS MATERIALIZED (
            SELECT s.id FROM {stream} AS s
            JOIN entry AS e ON e.id = s.id AND e.epoch = s.epoch
            WHERE s.id = ANY ($7) AND s.state = {OPEN}
            ORDER BY s.id FOR NO KEY UPDATE OF s
        ), made AS (
            INSERT INTO {stream} (
                id, kind, namespace, path, session, principal, epoch, state, last_sequence,
                worker, created_at, ended_at, expires_at, request_ids, trace, reader_until, request
            )
            SELECT * FROM unnest(
                $14::bytea[], $15::varchar[], $16::text[], $17::text[], $18::text[], $19::text[],
                $20::int[], $21::smallint[], $22::bigint[], $23::text[], $24::float8[],
                $25::float8[], $26::float8[], $27::text[], $28::text[], $29::float8[], $30::bytea[]
            )
            RETURNING id
        ), ended AS (
            UPDATE {stream} AS s
            SET state = x.state, last_sequence = x.last_sequence, ended_at = x.ended_at,
                -- A deleted session's stream (expires_at 0) keeps its early end.
                expires_at = least(coalesce(s.expires_at, x.expires_at), x.expires_at),
                request = NULL
            FROM unnest($9::bytea[], $10::smallint[], $11::bigint[], $12::float8[], $13::float8[])
                AS x (id, state, last_sequence, ended_at, expires_at)
            WHERE s.id = x.id AND s.id = ANY ($9) AND s.id IN (SELECT id FROM held)
        ), written AS MATERIALIZED (
            SELECT id FROM held UNION ALL SELECT id FROM made
        ), inserted AS (
            INSERT INTO {event} (stream, sequence, epoch, kind, codec, payload)
            SELECT v.* FROM unnest(
                $1::bytea[], $2::bigint[], $3::int[], $4::smallint[], $5::smallint[], $6::bytea[]
            ) AS v (stream, sequence, epoch, kind, codec, payload)
            JOIN written AS h ON h.id = v.stream
        )
        SELECT id FROM written
    """)

    there = Sql("""
        SELECT e.id FROM unnest(
            $1::bytea[], $2::int[], $3::smallint[], $4::bigint[], $5::bigint[], $6::bigint[],
            $7::text[]
        ) AS e (id, epoch, state, first, last, count, worker)
        JOIN {stream} AS s ON s.id = e.id AND s.epoch = e.epoch
        WHERE s.id = ANY ($1) AND (e.state IS NULL OR e.state = s.state)
            -- Of two who take over, the one whose name is there was first.
            AND (e.worker IS NULL OR e.worker = s.worker)
            AND e.count = (
                SELECT count(*) FROM {event} AS v WHERE v.stream = e.id
                AND v.sequence BETWEEN e.first AND e.last AND v.epoch = e.epoch
            )
    """)

    # A GET stream goes on after its end, unless its session was forgotten (expires_at 0).
    take_over = Sql("""
        UPDATE {stream}
        SET epoch = $2, worker = coalesce($4, worker), state = {OPEN},
            last_sequence = 0, ended_at = NULL,
            expires_at = CASE WHEN state = {OPEN} THEN expires_at END
        WHERE id = $1 AND epoch = $3
            AND (state = {OPEN} OR (kind = {GET} AND expires_at > 0))
        RETURNING id
    """)

    settle = Sql("UPDATE {stream} SET principal = $1 WHERE id = $2 AND epoch = $3")

    above = Sql("SELECT 1 FROM {event} WHERE stream = $1 AND sequence > $2 LIMIT 1")

    # The noise at the stream's beginning is found without a look at the rest of the stream.
    trim = Sql("""
        WITH noise AS MATERIALIZED (
            SELECT sequence FROM {event} WHERE stream = $1 AND kind = {NOISE}
            ORDER BY sequence LIMIT $2
        )
        DELETE FROM {event} WHERE stream = $1 AND sequence = ANY (ARRAY (
            SELECT sequence FROM noise
            UNION ALL (
                SELECT sequence FROM {event} WHERE stream = $1 AND kind = {MESSAGE}
                ORDER BY sequence LIMIT $2 - (SELECT count(*) FROM noise)
            )
        ))
    """)

    find_stream = Sql("SELECT {stream_columns} FROM {stream} WHERE id = $1")

    # Sizes are known without fetching what is stored out of line.
    page = Sql("""
        SELECT sequence, epoch, kind, codec, payload FROM (
            SELECT *, sum(octet_length(payload)) OVER (ORDER BY sequence) AS total,
                row_number() OVER (ORDER BY sequence) AS number
            FROM (
                SELECT sequence, epoch, kind, codec, payload FROM {event}
                WHERE stream = $1 AND sequence > $2 ORDER BY sequence LIMIT $3
            ) AS page
        ) AS sized
        WHERE total <= $4 OR number = 1 ORDER BY sequence
    """)

    expired = Sql("""
        SELECT id, namespace, expires_at FROM {stream}
        WHERE expires_at IS NOT NULL AND expires_at BETWEEN $3 AND $1
            AND (expires_at > 0 OR coalesce(ended_at, 0) <= $4)
        ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED
    """)

    unreadable = Sql("""
        SELECT id, namespace, expires_at FROM {stream}
        WHERE id = ANY ($1) AND expires_at IS NOT NULL ORDER BY id FOR UPDATE
    """)

    forget = Sql("""
        WITH gone AS (
            DELETE FROM {event} AS e
            USING (
                SELECT part.stream, max(part.sequence) AS last FROM (
                    SELECT v.* FROM unnest($1::bytea[]) AS g (id)
                    CROSS JOIN LATERAL (
                        SELECT stream, sequence FROM {event} WHERE stream = g.id
                        ORDER BY sequence LIMIT $2
                    ) AS v
                    LIMIT $2
                ) AS part
                GROUP BY part.stream
            ) AS r
            WHERE e.stream = r.stream AND e.sequence <= r.last
            RETURNING e.stream
        )
        SELECT stream, count(*) FROM gone GROUP BY stream
    """)

    # One that goes on since it was found is not removed.
    remove_streams = Sql("""
        DELETE FROM {stream} AS s
        WHERE s.id = ANY ($1) AND s.expires_at IS NOT NULL
            AND NOT EXISTS (SELECT 1 FROM {event} AS e WHERE e.stream = s.id)
        RETURNING s.id
    """)

    abandon = Sql("DELETE FROM {stream} WHERE id = $1 AND expires_at IS NOT NULL")

    find_sessions = Sql("""
        SELECT {session_columns} FROM {session}
        JOIN unnest($1::text[], $2::text[], $3::text[]) AS key (its_namespace, its_path, its_id)
            ON namespace = its_namespace AND path = its_path AND id = its_id
    """)

    # The lock lets a move wait for the relayed request, and a relayed request that waited see the
    # move. Of many at once none waits for a session that is just being moved; one by itself does.
    put_many, put = Sql(_PUT % "SKIP LOCKED"), Sql(_PUT % "")

    # A relayed request that somebody else is just taking, or taking elsewhere, is not waited for.
    claim = Sql("""
        WITH mine AS MATERIALIZED (
            SELECT {inbox_columns} FROM {inbox}
            WHERE worker = $1 AND state = {PENDING} AND deadline > $2
            ORDER BY id LIMIT $3 FOR NO KEY UPDATE SKIP LOCKED
        ), claimed AS (
            UPDATE {inbox} AS i SET state = {CLAIMED}, content = ''::bytea, deadline = $4
            FROM mine WHERE i.id = mine.id
            RETURNING i.id
        )
        SELECT mine.* FROM mine JOIN claimed USING (id) ORDER BY id
    """)

    # In one order: who removes them locks them in the same.
    answer = Sql("""
        WITH mine AS MATERIALIZED (
            SELECT i.id, given.n, given.deadline FROM {inbox} AS i
            JOIN unnest($1::bytea[], $3::float8[], $4::text[]) WITH ORDINALITY
                AS given (id, deadline, worker, n) USING (id, worker)
            WHERE i.state = {CLAIMED}
            ORDER BY i.id FOR NO KEY UPDATE OF i
        )
        UPDATE {inbox} AS i
        SET state = {REPLIED}, reply = ($2::bytea[])[mine.n], deadline = mine.deadline
        FROM mine WHERE i.id = mine.id
        RETURNING i.id
    """)

    # A reply that is larger is not read: NULL. Its size is known without that.
    look = Sql("""
        SELECT id, state, worker, CASE WHEN octet_length(reply) <= $2::float8 THEN reply END,
            deadline
        FROM {inbox} WHERE id = ANY ($1::bytea[])
    """)
