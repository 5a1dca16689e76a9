-- The first schema. Times named `…_wall` are milliseconds since 1970, other times are engine time, milliseconds.
-- A submission writes `job` (never changed afterwards, but for its priority) and `open`; an open attempt is a row of
-- `lease`; its end becomes a row of `attempt`; the end of the job moves `open` to `finished`. So a claim and an end touch
-- narrow rows at the end of small trees only, and whatever the number of finished jobs, the open ones stand together.

CREATE TABLE meta (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    store_id TEXT NOT NULL,
    generation INTEGER NOT NULL DEFAULT 0,
    running INTEGER NOT NULL DEFAULT 0,          -- 1 between a load and an orderly close
    last_id INTEGER NOT NULL DEFAULT 0,
    open INTEGER NOT NULL DEFAULT 0,             -- rows of `open`: a load that finds another number tells of damage
    last_engine INTEGER NOT NULL DEFAULT 0,
    last_wall INTEGER NOT NULL DEFAULT 0,
    boot_id TEXT,
    offset_ms INTEGER,
    pause_by TEXT,
    pause_reason TEXT,
    pause_engine INTEGER,
    pause_wall INTEGER,
    pause_drain INTEGER,
    -- finished jobs since the store was made, in the order of outcome numbers
    succeeded INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    timed_out INTEGER NOT NULL DEFAULT 0,
    cancelled INTEGER NOT NULL DEFAULT 0,
    superseded INTEGER NOT NULL DEFAULT 0,
    expired INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE job (
    id INTEGER PRIMARY KEY,
    submitted INTEGER NOT NULL,
    submitted_wall INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    pool TEXT,                                   -- the pool it names
    name TEXT,
    correlation ANY NOT NULL,                    -- 16 bytes for a UUID in its usual form, else text
    submitter TEXT NOT NULL,
    labels TEXT,                                 -- separated by spaces
    retry TEXT NOT NULL,                         -- codec.rs tells the form of this and of `after`
    group_name TEXT,
    group_asked INTEGER,
    group_policy INTEGER,                        -- 0 queue, 1 latest, 2 cancel
    group_limit INTEGER,
    after TEXT,
    at_wall INTEGER,
    delay_ms INTEGER,
    expires_wall INTEGER,
    hold INTEGER NOT NULL,
    sum INTEGER NOT NULL,                        -- of what is executed, and for whom: codec.rs
    work TEXT NOT NULL                           -- JSON
) STRICT;
CREATE INDEX job_correlation ON job (correlation);
CREATE INDEX job_name ON job (name) WHERE name IS NOT NULL;
CREATE INDEX job_group ON job (group_name) WHERE group_name IS NOT NULL;
CREATE INDEX job_pool ON job (pool) WHERE pool IS NOT NULL;

CREATE TABLE label (
    label TEXT NOT NULL,
    job INTEGER NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    PRIMARY KEY (label, job)
) STRICT, WITHOUT ROWID;
CREATE INDEX label_job ON label (job);

-- Which jobs were submitted in a minute of the wall clock: turns times into ranges of ids, also after the clock was set.
CREATE TABLE minute (
    minute INTEGER PRIMARY KEY,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL
) STRICT;

CREATE TABLE open (
    id INTEGER PRIMARY KEY REFERENCES job (id),
    ready_at INTEGER NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,          -- without the one of an open lease
    tries INTEGER NOT NULL DEFAULT 0,
    wish INTEGER NOT NULL DEFAULT 0,             -- 0 run, 1 hold, 2 cancel
    wish_by TEXT,
    wish_reason TEXT,
    group_name TEXT,
    newest INTEGER NOT NULL DEFAULT 0,           -- 1 when older ones of the group make way for it
    ran_in TEXT,
    started_wall INTEGER,
    queue_ms INTEGER
) STRICT;
CREATE INDEX open_group ON open (group_name) WHERE group_name IS NOT NULL;
CREATE INDEX open_newest ON open (group_name) WHERE newest = 1;
CREATE INDEX open_ran_in ON open (ran_in) WHERE ran_in IS NOT NULL;

-- Dependencies on jobs that are still open.
CREATE TABLE dependency (
    waiter INTEGER NOT NULL REFERENCES open (id),
    position INTEGER NOT NULL,
    other INTEGER NOT NULL,
    condition INTEGER NOT NULL,                  -- 0 success, 1 failure, 2 always
    PRIMARY KEY (waiter, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX dependency_other ON dependency (other);

CREATE TABLE lease (
    job INTEGER PRIMARY KEY REFERENCES open (id),
    attempt INTEGER NOT NULL,
    pool TEXT NOT NULL,
    slot INTEGER NOT NULL,
    epoch TEXT NOT NULL,
    claimed INTEGER NOT NULL,
    claimed_wall INTEGER NOT NULL,
    started INTEGER,
    started_wall INTEGER,
    stop_by TEXT,
    kill_at INTEGER
) STRICT;

CREATE TABLE finished (
    id INTEGER PRIMARY KEY REFERENCES job (id) ON DELETE CASCADE,
    outcome INTEGER NOT NULL,                    -- 0 succeeded, 1 failed, 2 timed_out, 3 cancelled, 4 superseded, 5 expired
    detail TEXT,
    finished_wall INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    tries INTEGER NOT NULL,
    ran_in TEXT,
    started_wall INTEGER,
    queue_ms INTEGER
) STRICT;
CREATE INDEX finished_outcome ON finished (outcome);
CREATE INDEX finished_ran_in ON finished (ran_in) WHERE ran_in IS NOT NULL;
CREATE INDEX finished_at ON finished (finished_wall);

CREATE TABLE attempt (
    job INTEGER NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    pool TEXT NOT NULL,
    slot INTEGER NOT NULL,
    claimed_wall INTEGER NOT NULL,
    started_wall INTEGER,
    ended_wall INTEGER NOT NULL,
    result INTEGER,                              -- 0 exited, 1 signaled, 2 oom_killed, 3 timed_out, 4 failed_to_start, 5 lost; NULL: given back
    code INTEGER,                                -- exit code or signal
    cause TEXT,
    run_started_wall INTEGER,                    -- this and the rest: the receipt
    run_ended_wall INTEGER,
    run_us INTEGER,
    cpu_user_us INTEGER,
    cpu_system_us INTEGER,
    peak_memory_bytes INTEGER,
    log_bytes INTEGER,
    log_dropped_bytes INTEGER,
    leftovers INTEGER,
    PRIMARY KEY (job, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE idempotency (
    key TEXT PRIMARY KEY,
    body BLOB NOT NULL,
    jobs TEXT NOT NULL,
    at_wall INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_at ON idempotency (at_wall);

CREATE TABLE schedule (
    name TEXT PRIMARY KEY,
    calendar TEXT NOT NULL,
    timezone TEXT NOT NULL,
    overlap TEXT NOT NULL,
    missed TEXT NOT NULL,
    request TEXT NOT NULL,
    by TEXT NOT NULL,
    paused TEXT,
    after_wall INTEGER NOT NULL,
    last_job INTEGER
) STRICT, WITHOUT ROWID;

CREATE VIEW jobs AS
SELECT
    j.id AS id,
    j.name AS name,
    CASE
        WHEN f.id IS NOT NULL THEN 'finished'
        WHEN l.job IS NULL THEN 'queued'
        WHEN l.stop_by IS NOT NULL THEN 'stopping'
        WHEN l.started IS NOT NULL THEN 'running'
        ELSE 'starting'
    END AS state,
    CASE f.outcome
        WHEN 0 THEN 'succeeded' WHEN 1 THEN 'failed' WHEN 2 THEN 'timed_out'
        WHEN 3 THEN 'cancelled' WHEN 4 THEN 'superseded' WHEN 5 THEN 'expired'
    END AS outcome,
    CASE a.result WHEN 0 THEN a.code END AS exit_code,
    CASE a.result WHEN 1 THEN a.code END AS signal,
    a.cause AS cause,
    coalesce(l.attempt, o.attempt, f.attempt) AS attempts,
    j.priority AS priority,
    j.labels AS labels,
    coalesce(j.pool, l.pool, o.ran_in, f.ran_in) AS pool,
    j.group_name AS "group",
    CASE
        WHEN o.wish = 1 THEN 'held by ' || o.wish_by || CASE o.wish_reason WHEN '' THEN '' ELSE ': ' || o.wish_reason END
        WHEN o.wish = 2 THEN 'cancelled by ' || o.wish_by
    END AS reason,
    j.submitter AS submitter,
    CASE typeof(j.correlation)
        WHEN 'blob' THEN lower(
            substr(hex(j.correlation), 1, 8) || '-' || substr(hex(j.correlation), 9, 4) || '-'
            || substr(hex(j.correlation), 13, 4) || '-' || substr(hex(j.correlation), 17, 4) || '-'
            || substr(hex(j.correlation), 21, 12))
        ELSE j.correlation
    END AS correlation,
    strftime('%Y-%m-%dT%H:%M:%fZ', j.submitted_wall / 1000.0, 'unixepoch') AS submitted_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', coalesce(o.started_wall, f.started_wall, l.started_wall) / 1000.0, 'unixepoch') AS started_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', f.finished_wall / 1000.0, 'unixepoch') AS finished_at,
    coalesce(o.queue_ms, f.queue_ms, l.started - j.submitted) / 1000.0 AS queue_seconds,
    a.run_us / 1000000.0 AS run_seconds,
    j.work AS work
FROM job AS j
LEFT JOIN open AS o ON o.id = j.id
LEFT JOIN lease AS l ON l.job = j.id
LEFT JOIN finished AS f ON f.id = j.id
LEFT JOIN attempt AS a ON a.job = j.id AND a.number = (
    SELECT number FROM attempt WHERE job = j.id AND result IS NOT NULL ORDER BY number DESC LIMIT 1);

CREATE VIEW attempts AS
SELECT
    job AS id,
    number AS attempt,
    pool,
    slot,
    CASE result
        WHEN 0 THEN 'exited' WHEN 1 THEN 'signaled' WHEN 2 THEN 'oom_killed' WHEN 3 THEN 'timed_out'
        WHEN 4 THEN 'failed_to_start' WHEN 5 THEN 'lost' ELSE 'released'
    END AS result,
    CASE result WHEN 0 THEN code END AS exit_code,
    CASE result WHEN 1 THEN code END AS signal,
    cause,
    strftime('%Y-%m-%dT%H:%M:%fZ', claimed_wall / 1000.0, 'unixepoch') AS claimed_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', started_wall / 1000.0, 'unixepoch') AS started_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', ended_wall / 1000.0, 'unixepoch') AS ended_at,
    run_us / 1000000.0 AS run_seconds,
    cpu_user_us / 1000000.0 AS cpu_user_seconds,
    cpu_system_us / 1000000.0 AS cpu_system_seconds,
    peak_memory_bytes,
    log_bytes,
    log_dropped_bytes,
    leftovers
FROM attempt
UNION ALL
SELECT
    job, attempt, pool, slot, NULL, NULL, NULL, NULL,
    strftime('%Y-%m-%dT%H:%M:%fZ', claimed_wall / 1000.0, 'unixepoch'),
    strftime('%Y-%m-%dT%H:%M:%fZ', started_wall / 1000.0, 'unixepoch'),
    NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM lease;

CREATE VIEW runners AS
SELECT
    pool,
    slot,
    job AS id,
    attempt,
    CASE WHEN stop_by IS NOT NULL THEN 'stopping' WHEN started IS NOT NULL THEN 'running' ELSE 'starting' END AS state,
    strftime('%Y-%m-%dT%H:%M:%fZ', claimed_wall / 1000.0, 'unixepoch') AS claimed_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', started_wall / 1000.0, 'unixepoch') AS started_at
FROM lease
ORDER BY pool, slot;
