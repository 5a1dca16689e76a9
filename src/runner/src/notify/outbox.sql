-- What is still to be told, and which alarms are active. Beside the store and never needed by it: whoever loses this file
-- loses messages, no job. Times are Unix milliseconds, `since` is engine time.

CREATE TABLE meta (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    store TEXT NOT NULL,                        -- whose events these are
    cursor INTEGER                              -- ends of jobs up to here (engine time) are in `delivery` or nobody's
);

CREATE TABLE alarm (
    id TEXT PRIMARY KEY,
    watch TEXT NOT NULL,
    subject TEXT NOT NULL,
    since INTEGER NOT NULL,
    since_wall INTEGER NOT NULL,
    ended_wall INTEGER,                         -- NULL: active
    measured INTEGER NOT NULL,
    most INTEGER NOT NULL,
    details TEXT NOT NULL                       -- JSON
);
CREATE INDEX alarm_ended ON alarm (ended_wall);

CREATE TABLE delivery (
    number INTEGER PRIMARY KEY,
    notifier TEXT NOT NULL,
    event TEXT NOT NULL,
    kind TEXT NOT NULL,
    at_wall INTEGER NOT NULL,
    title TEXT NOT NULL,
    data TEXT NOT NULL,                         -- JSON
    tries INTEGER NOT NULL DEFAULT 0,
    next INTEGER NOT NULL,                      -- not before
    done INTEGER,                               -- when it was delivered or given up; NULL: waiting
    UNIQUE (notifier, event)
);
CREATE INDEX delivery_next ON delivery (notifier, next) WHERE done IS NULL;
CREATE INDEX delivery_done ON delivery (done) WHERE done IS NOT NULL;

CREATE TABLE tally (
    notifier TEXT NOT NULL,
    result TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (notifier, result)
) WITHOUT ROWID;
