-- Stores that this one was restored from, and the ids that each of them gave: a job keeps the key that it was given.

CREATE TABLE former_store (
    last_id INTEGER PRIMARY KEY,                            -- it gave the ids up to here, those of earlier stores aside
    skipped_to INTEGER NOT NULL,                            -- those up to here were given in a life that was replaced: they are nobody's
    store_id TEXT NOT NULL
) STRICT;
