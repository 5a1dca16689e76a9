-- Limits of attempts, and the rest of their receipts. Sizes are bytes, CPU is thousandths of a core; NULL: no limit, or
-- nobody measured it.

ALTER TABLE job ADD COLUMN memory INTEGER;                  -- limits that the job names itself
ALTER TABLE job ADD COLUMN cpu INTEGER;
ALTER TABLE job ADD COLUMN pids INTEGER;
ALTER TABLE open ADD COLUMN memory INTEGER;                 -- the memory limit from now on, when it grew
ALTER TABLE lease ADD COLUMN memory_limit INTEGER;          -- what the attempt may use
ALTER TABLE lease ADD COLUMN cpu_limit INTEGER;
ALTER TABLE lease ADD COLUMN pids_limit INTEGER;
ALTER TABLE attempt ADD COLUMN memory_limit INTEGER;
ALTER TABLE attempt ADD COLUMN cpu_limit INTEGER;
ALTER TABLE attempt ADD COLUMN pids_limit INTEGER;
ALTER TABLE attempt ADD COLUMN io_read_bytes INTEGER;       -- this and the rest: the receipt
ALTER TABLE attempt ADD COLUMN io_written_bytes INTEGER;
ALTER TABLE attempt ADD COLUMN pids_peak INTEGER;
ALTER TABLE attempt ADD COLUMN memory_stall_us INTEGER;
ALTER TABLE attempt ADD COLUMN cpu_stall_us INTEGER;
ALTER TABLE attempt ADD COLUMN io_stall_us INTEGER;
ALTER TABLE attempt ADD COLUMN oom_kills INTEGER;
ALTER TABLE attempt ADD COLUMN disk_bytes INTEGER;
ALTER TABLE attempt ADD COLUMN memory_of_all INTEGER;       -- 1: peak_memory_bytes is of all processes together

DROP VIEW attempts;
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
    leftovers,
    memory_limit AS memory_limit_bytes,
    cpu_limit / 1000.0 AS cpu_limit_cores,
    pids_limit,
    io_read_bytes,
    io_written_bytes,
    pids_peak,
    memory_stall_us / 1000000.0 AS memory_stall_seconds,
    cpu_stall_us / 1000000.0 AS cpu_stall_seconds,
    io_stall_us / 1000000.0 AS io_stall_seconds,
    oom_kills,
    disk_bytes
FROM attempt
UNION ALL
SELECT
    job, attempt, pool, slot, NULL, NULL, NULL, NULL,
    strftime('%Y-%m-%dT%H:%M:%fZ', claimed_wall / 1000.0, 'unixepoch'),
    strftime('%Y-%m-%dT%H:%M:%fZ', started_wall / 1000.0, 'unixepoch'),
    NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    memory_limit, cpu_limit / 1000.0, pids_limit, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM lease;
