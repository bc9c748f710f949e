CREATE TABLE "{prefix}meta" (
  name VARCHAR(64) NOT NULL,
  value BYTEA NOT NULL,
  PRIMARY KEY (name)
);

-- Retention removes as much as is written, so vacuum has to find as much space again, in a fiftieth
-- of a long history at a time. At the server's own pace (a cost limit of 200) it finds 36,000 rows
-- in a second, and 94 % of that time it waits; workers write more than that, and the table grows
-- without end. TOAST follows its table. `tests.peers.retention` measures it.
CREATE TABLE "{prefix}stream" (
  id BYTEA NOT NULL,
  kind VARCHAR(1) NOT NULL,
  namespace TEXT NOT NULL,
  path TEXT NOT NULL,
  session TEXT NOT NULL,
  principal TEXT NOT NULL,
  epoch INTEGER NOT NULL,
  state SMALLINT NOT NULL,
  last_sequence BIGINT NOT NULL,
  worker TEXT NOT NULL,
  created_at FLOAT NOT NULL,
  ended_at FLOAT,
  expires_at FLOAT,
  request_ids TEXT NOT NULL,
  trace TEXT NOT NULL,
  -- Until when a reader on another worker is known to be there.
  reader_until FLOAT,
  -- What may be run again; gone with the end of the stream.
  request BYTEA,
  PRIMARY KEY (id)
) WITH (
  fillfactor = 85,
  autovacuum_vacuum_cost_limit = 1000,
  autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_vacuum_insert_scale_factor = 0.1,
  autovacuum_analyze_scale_factor = 0.02
);

-- Only ended streams have an expiry, so the index holds nothing of the living.
CREATE INDEX "{prefix}stream_expiry" ON "{prefix}stream" (expires_at) WHERE expires_at IS NOT NULL;

CREATE INDEX "{prefix}stream_session" ON "{prefix}stream" (session) WHERE session != '';

-- The living alone: what a worker leaves behind is found however long the history is.
CREATE INDEX "{prefix}stream_open" ON "{prefix}stream" (worker) WHERE ended_at IS NULL;

-- Clustered by stream: a replay reads neighbouring pages, however old the file.
CREATE TABLE "{prefix}event" (
  stream BYTEA NOT NULL,
  sequence BIGINT NOT NULL,
  epoch INTEGER NOT NULL,
  kind SMALLINT NOT NULL,
  codec SMALLINT NOT NULL,
  payload BYTEA NOT NULL,
  PRIMARY KEY (stream, sequence)
) WITH (
  autovacuum_vacuum_cost_limit = 1000,
  autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_vacuum_insert_scale_factor = 0.1,
  autovacuum_analyze_scale_factor = 0.02
);

-- Small tables whose rows change often keep room for that in their pages.
CREATE TABLE "{prefix}session" (
  namespace TEXT NOT NULL,
  path TEXT NOT NULL,
  id TEXT NOT NULL,
  principal TEXT NOT NULL,
  version TEXT NOT NULL,
  initialize BYTEA NOT NULL,
  generation INTEGER NOT NULL,
  home TEXT NOT NULL,
  deleted BOOLEAN NOT NULL,
  expires_at FLOAT NOT NULL,
  fingerprint TEXT NOT NULL,
  level TEXT NOT NULL,
  subscriptions TEXT NOT NULL,
  -- The session's own stream: its segments (hexadecimal, 32 digits each), which connection
  -- receives and where that is, and how far a client has read.
  segments TEXT NOT NULL,
  turn BIGINT NOT NULL,
  turn_worker TEXT NOT NULL,
  read_stream BYTEA NOT NULL,
  read_sequence BIGINT NOT NULL,
  PRIMARY KEY (namespace, path, id)
) WITH (
  fillfactor = 60,
  autovacuum_vacuum_scale_factor = 0.05,
  autovacuum_vacuum_threshold = 500
);

CREATE INDEX "{prefix}session_expiry" ON "{prefix}session" (expires_at);

CREATE TABLE "{prefix}worker" (
  id VARCHAR(64) NOT NULL,
  counter BIGINT NOT NULL,
  state SMALLINT NOT NULL,
  seen_at FLOAT NOT NULL,
  -- For what only this worker may read, such as the credentials of a relayed request.
  public_key BYTEA,
  PRIMARY KEY (id)
) WITH (
  fillfactor = 60,
  autovacuum_vacuum_scale_factor = 0.05,
  autovacuum_vacuum_threshold = 500
);

CREATE TABLE "{prefix}inbox" (
  id BYTEA NOT NULL,
  namespace TEXT NOT NULL,
  path TEXT NOT NULL,
  session TEXT NOT NULL,
  worker VARCHAR(64) NOT NULL,
  generation INTEGER NOT NULL,
  state SMALLINT NOT NULL,
  deadline FLOAT NOT NULL,
  sealed BOOLEAN NOT NULL,
  content BYTEA NOT NULL,
  reply BYTEA NOT NULL,
  PRIMARY KEY (id)
) WITH (
  fillfactor = 60,
  autovacuum_vacuum_scale_factor = 0.05,
  autovacuum_vacuum_threshold = 500
);

CREATE INDEX "{prefix}inbox_worker" ON "{prefix}inbox" (worker, state, id);

CREATE INDEX "{prefix}inbox_session" ON "{prefix}inbox" (session);

CREATE INDEX "{prefix}inbox_deadline" ON "{prefix}inbox" (deadline);
