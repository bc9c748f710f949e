-- When a session began; of one that is older than this step, nothing.
ALTER TABLE "{prefix}session" ADD COLUMN began_at FLOAT;
