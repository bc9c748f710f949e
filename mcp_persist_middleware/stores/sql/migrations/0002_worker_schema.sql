-- The newest schema that a worker knows; of one that came before this step, nothing (it is 1).
ALTER TABLE "{prefix}worker" ADD COLUMN schema INTEGER;
