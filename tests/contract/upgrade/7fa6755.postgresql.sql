-- A store as version 0.1.0 at commit 7fa6755 made it, with a little of everything in it.
CREATE TABLE mcp_event (
    stream bytea NOT NULL,
    sequence bigint NOT NULL,
    epoch integer NOT NULL,
    kind smallint NOT NULL,
    codec smallint NOT NULL,
    payload bytea NOT NULL
)
WITH (autovacuum_vacuum_cost_limit='1000', autovacuum_vacuum_scale_factor='0.02', autovacuum_vacuum_insert_scale_factor='0.1', autovacuum_analyze_scale_factor='0.02');
CREATE TABLE mcp_inbox (
    id bytea NOT NULL,
    namespace text NOT NULL,
    path text NOT NULL,
    session text NOT NULL,
    worker character varying(64) NOT NULL,
    generation integer NOT NULL,
    state smallint NOT NULL,
    deadline double precision NOT NULL,
    sealed boolean NOT NULL,
    content bytea NOT NULL,
    reply bytea NOT NULL
)
WITH (fillfactor='60', autovacuum_vacuum_scale_factor='0.05', autovacuum_vacuum_threshold='500');
CREATE TABLE mcp_meta (
    name character varying(64) NOT NULL,
    value bytea NOT NULL
);
CREATE TABLE mcp_session (
    namespace text NOT NULL,
    path text NOT NULL,
    id text NOT NULL,
    principal text NOT NULL,
    version text NOT NULL,
    initialize bytea NOT NULL,
    generation integer NOT NULL,
    home text NOT NULL,
    deleted boolean NOT NULL,
    expires_at double precision NOT NULL,
    fingerprint text NOT NULL,
    level text NOT NULL,
    subscriptions text NOT NULL,
    segments text NOT NULL,
    turn bigint NOT NULL,
    turn_worker text NOT NULL,
    read_stream bytea NOT NULL,
    read_sequence bigint NOT NULL
)
WITH (fillfactor='60', autovacuum_vacuum_scale_factor='0.05', autovacuum_vacuum_threshold='500');
CREATE TABLE mcp_stream (
    id bytea NOT NULL,
    kind character varying(1) NOT NULL,
    namespace text NOT NULL,
    path text NOT NULL,
    session text NOT NULL,
    principal text NOT NULL,
    epoch integer NOT NULL,
    state smallint NOT NULL,
    last_sequence bigint NOT NULL,
    worker text NOT NULL,
    created_at double precision NOT NULL,
    ended_at double precision,
    expires_at double precision,
    request_ids text NOT NULL,
    trace text NOT NULL,
    reader_until double precision,
    request bytea
)
WITH (fillfactor='85', autovacuum_vacuum_cost_limit='1000', autovacuum_vacuum_scale_factor='0.02', autovacuum_vacuum_insert_scale_factor='0.1', autovacuum_analyze_scale_factor='0.02');
CREATE TABLE mcp_worker (
    id character varying(64) NOT NULL,
    counter bigint NOT NULL,
    state smallint NOT NULL,
    seen_at double precision NOT NULL,
    public_key bytea
)
WITH (fillfactor='60', autovacuum_vacuum_scale_factor='0.05', autovacuum_vacuum_threshold='500');
INSERT INTO mcp_event VALUES ('\x01010101010101010101010101010101', 2, 1, 1, 0, '\x646174613a20320d0a0d0a');
INSERT INTO mcp_event VALUES ('\x01010101010101010101010101010101', 1, 1, 1, 0, '\x646174613a20310d0a0d0a');
INSERT INTO mcp_event VALUES ('\x02020202020202020202020202020202', 3, 1, 3, 0, '\x646174613a207b226a736f6e727063223a22322e30222c226964223a312c22726573756c74223a7b7d7d0d0a0d0a');
INSERT INTO mcp_event VALUES ('\x02020202020202020202020202020202', 2, 1, 1, 0, '\x646174613a20320d0a0d0a');
INSERT INTO mcp_event VALUES ('\x02020202020202020202020202020202', 1, 1, 1, 0, '\x646174613a20310d0a0d0a');
INSERT INTO mcp_inbox VALUES ('\x07070707070707070707070707070707', 'default', '/mcp', 's', 'one', 1, 0, 4000000000, false, '\x636f6e74656e74', '\x');
INSERT INTO mcp_meta VALUES ('version', '\x31');
INSERT INTO mcp_meta VALUES ('secret', '\xe30a64078175454cb05dd532e56978a6b3ce50f1c66e2a7c80c8cae3f0f48ba2');
INSERT INTO mcp_meta VALUES ('store', '\x607878e4ee0b2142b869a67fffcff675');
INSERT INTO mcp_session VALUES ('default', '/mcp', 's', 'ann', '2025-11-25', '\x789c3d4f3b0ec2300cbd8be752a595ba7465e202ec2698d62889a3c43050e5eeb845627b7e7e1f7b83679554b28719c6de41077c87d97510495731089c5819037fc896190bc60af306b9888a9770a55259d26e77e3741a86d33899d063c61b07b3d2212f227a80c055cf2ba6852c5ccb8b5a0715630e9c16dbdb44813d2bea91ba35637c604a7a490fd9131246b2ba1f6955efff0543efec85d6da1785fb473f', 1, 'one', false, 4000000000, 'f', '{"level":"info"}', '["a://b"]', '01010101010101010101010101010101', 0, '', '\x', 0);
INSERT INTO mcp_stream VALUES ('\x01010101010101010101010101010101', 'p', 'default', '/mcp', 's', 'ann', 1, 0, 0, 'gone', 1000.5, NULL, NULL, '[1]', '00-aa-bb-01', NULL, '\x5b5d0a7b226a736f6e727063223a22322e30222c226964223a312c226d6574686f64223a22746f6f6c732f63616c6c227d');
INSERT INTO mcp_stream VALUES ('\x02020202020202020202020202020202', 'p', 'default', '/mcp', 's', 'ann', 1, 1, 3, 'gone', 1000.5, 1500, 4000000000, '[1]', '00-aa-bb-01', NULL, NULL);
INSERT INTO mcp_worker VALUES ('one', 1, 0, 1795707810.6728368, '\x6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b');
ALTER TABLE ONLY mcp_event
    ADD CONSTRAINT mcp_event_pkey PRIMARY KEY (stream, sequence);
ALTER TABLE ONLY mcp_inbox
    ADD CONSTRAINT mcp_inbox_pkey PRIMARY KEY (id);
ALTER TABLE ONLY mcp_meta
    ADD CONSTRAINT mcp_meta_pkey PRIMARY KEY (name);
ALTER TABLE ONLY mcp_session
    ADD CONSTRAINT mcp_session_pkey PRIMARY KEY (namespace, path, id);
ALTER TABLE ONLY mcp_stream
    ADD CONSTRAINT mcp_stream_pkey PRIMARY KEY (id);
ALTER TABLE ONLY mcp_worker
    ADD CONSTRAINT mcp_worker_pkey PRIMARY KEY (id);
CREATE INDEX mcp_inbox_deadline ON mcp_inbox USING btree (deadline);
CREATE INDEX mcp_inbox_session ON mcp_inbox USING btree (session);
CREATE INDEX mcp_inbox_worker ON mcp_inbox USING btree (worker, state, id);
CREATE INDEX mcp_session_expiry ON mcp_session USING btree (expires_at);
CREATE INDEX mcp_stream_expiry ON mcp_stream USING btree (expires_at) WHERE (expires_at IS NOT NULL);
CREATE INDEX mcp_stream_open ON mcp_stream USING btree (worker) WHERE (ended_at IS NULL);
CREATE INDEX mcp_stream_session ON mcp_stream USING btree (session) WHERE (session <> ''::text);
