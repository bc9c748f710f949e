CREATE TABLE "{prefix}meta" (
  name VARCHAR(64) NOT NULL,
  value BLOB NOT NULL,
  PRIMARY KEY (name)
);

CREATE TABLE "{prefix}stream" (
  id BLOB NOT NULL,
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
  request BLOB,
  PRIMARY KEY (id)
) WITHOUT ROWID;

-- Only ended streams have an expiry, so the index holds nothing of the living.
CREATE INDEX "{prefix}stream_expiry" ON "{prefix}stream" (expires_at) WHERE expires_at IS NOT NULL;

CREATE INDEX "{prefix}stream_session" ON "{prefix}stream" (session) WHERE session != '';

-- The living alone: what a worker leaves behind is found however long the history is.
CREATE INDEX "{prefix}stream_open" ON "{prefix}stream" (worker) WHERE ended_at IS NULL;

-- Clustered by stream: a replay reads neighbouring pages, however old the file.
CREATE TABLE "{prefix}event" (
  stream BLOB NOT NULL,
  sequence BIGINT NOT NULL,
  epoch INTEGER NOT NULL,
  kind SMALLINT NOT NULL,
  codec SMALLINT NOT NULL,
  payload BLOB NOT NULL,
  PRIMARY KEY (stream, sequence)
) WITHOUT ROWID;

CREATE TABLE "{prefix}session" (
  namespace TEXT NOT NULL,
  path TEXT NOT NULL,
  id TEXT NOT NULL,
  principal TEXT NOT NULL,
  version TEXT NOT NULL,
  initialize BLOB NOT NULL,
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
  read_stream BLOB NOT NULL,
  read_sequence BIGINT NOT NULL,
  PRIMARY KEY (namespace, path, id)
) WITHOUT ROWID;

CREATE INDEX "{prefix}session_expiry" ON "{prefix}session" (expires_at);

CREATE TABLE "{prefix}worker" (
  id VARCHAR(64) NOT NULL,
  counter BIGINT NOT NULL,
  state SMALLINT NOT NULL,
  seen_at FLOAT NOT NULL,
  -- For what only this worker may read, such as the credentials of a relayed request.
  public_key BLOB,
  PRIMARY KEY (id)
) WITHOUT ROWID;

CREATE TABLE "{prefix}inbox" (
  id BLOB NOT NULL,
  namespace TEXT NOT NULL,
  path TEXT NOT NULL,
  session TEXT NOT NULL,
  worker VARCHAR(64) NOT NULL,
  generation INTEGER NOT NULL,
  state SMALLINT NOT NULL,
  deadline FLOAT NOT NULL,
  sealed BOOLEAN NOT NULL,
  content BLOB NOT NULL,
  reply BLOB NOT NULL,
  PRIMARY KEY (id)
) WITHOUT ROWID;

CREATE INDEX "{prefix}inbox_worker" ON "{prefix}inbox" (worker, state, id);

CREATE INDEX "{prefix}inbox_session" ON "{prefix}inbox" (session);

CREATE INDEX "{prefix}inbox_deadline" ON "{prefix}inbox" (deadline);
