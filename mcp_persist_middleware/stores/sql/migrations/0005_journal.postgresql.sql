-- Exchanges that have ended, one a row, in the order of their ends. The newest are kept.
CREATE TABLE "{prefix}journal" (
  id VARCHAR(32) NOT NULL,
  began FLOAT NOT NULL,
  first_event FLOAT,
  duration FLOAT NOT NULL,
  method TEXT NOT NULL,
  tool TEXT NOT NULL,
  version VARCHAR(32) NOT NULL,
  outcome VARCHAR(16) NOT NULL,
  error TEXT NOT NULL,
  size BIGINT NOT NULL,
  resumes INTEGER NOT NULL,
  stream BYTEA NOT NULL,
  namespace TEXT NOT NULL,
  path TEXT NOT NULL,
  session TEXT NOT NULL,
  principal TEXT NOT NULL,
  worker TEXT NOT NULL,
  trace VARCHAR(32) NOT NULL,
  params BYTEA NOT NULL,
  PRIMARY KEY (id)
);
