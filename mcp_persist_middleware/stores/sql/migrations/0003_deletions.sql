-- What was removed: when, how much of what, and why. The newest are kept.
CREATE TABLE "{prefix}deletion" (
  id VARCHAR(32) NOT NULL,
  at FLOAT NOT NULL,
  reason VARCHAR(16) NOT NULL,
  namespace TEXT NOT NULL,
  kind VARCHAR(16) NOT NULL,
  number BIGINT NOT NULL,
  PRIMARY KEY (id)
);
