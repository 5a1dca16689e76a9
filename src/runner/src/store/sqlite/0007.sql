-- The last job that a time of the schedule made: a run by hand is its last job too, and took its place.

ALTER TABLE schedule ADD COLUMN timed_job INTEGER;
UPDATE schedule SET timed_job = last_job;
