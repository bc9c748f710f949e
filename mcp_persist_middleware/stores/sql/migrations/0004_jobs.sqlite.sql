-- Calls that are asked for by an id or a key: whose they are, and which stream answers them.
CREATE TABLE "{prefix}job" (
  id BLOB NOT NULL,
  namespace TEXT NOT NULL,
  path TEXT NOT NULL,
  session TEXT NOT NULL,
  principal TEXT NOT NULL,
  account TEXT NOT NULL,
  face VARCHAR(16) NOT NULL,
  worker VARCHAR(64) NOT NULL,
  tool TEXT NOT NULL,
  stream BLOB NOT NULL,
  request_id TEXT NOT NULL,
  created_at FLOAT NOT NULL,
  updated_at FLOAT NOT NULL,
  expires_at FLOAT NOT NULL,
  key VARCHAR(64) NOT NULL,
  arguments VARCHAR(64) NOT NULL,
  -- What the application may be asked again with.
  request BLOB,
  round INTEGER NOT NULL,
  inputs BLOB NOT NULL,
  revision INTEGER NOT NULL,
  PRIMARY KEY (id)
) WITHOUT ROWID;

CREATE INDEX "{prefix}job_account" ON "{prefix}job" (account, id);

CREATE INDEX "{prefix}job_expiry" ON "{prefix}job" (expires_at);

-- Of two who want the same at the same time, one begins it.
CREATE UNIQUE INDEX "{prefix}job_key" ON "{prefix}job" (namespace, path, key) WHERE key <> '';
