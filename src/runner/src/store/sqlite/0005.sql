-- The last run of a schedule that could not be queued: when, and why. Both are NULL again once a run was queued.

ALTER TABLE schedule ADD COLUMN refused_wall INTEGER;
ALTER TABLE schedule ADD COLUMN refused_why TEXT;
