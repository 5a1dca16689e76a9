-- Keys and finished jobs age by engine time: a clock that was set forward makes nobody forget them. A job of a key is kept
-- as long as its key.

ALTER TABLE finished ADD COLUMN ended INTEGER NOT NULL DEFAULT 0;
UPDATE finished SET ended = (SELECT max(0, last_engine - max(0, last_wall - finished.finished_wall)) FROM meta);
CREATE INDEX finished_ended ON finished (ended);

ALTER TABLE job ADD COLUMN keyed INTEGER;                   -- 1 when an idempotency key stands for it

DROP INDEX idempotency_at;
ALTER TABLE idempotency ADD COLUMN at INTEGER NOT NULL DEFAULT 0;
UPDATE idempotency SET at = (SELECT max(0, last_engine - max(0, last_wall - idempotency.at_wall)) FROM meta);
ALTER TABLE idempotency DROP COLUMN at_wall;
CREATE INDEX idempotency_at ON idempotency (at);
