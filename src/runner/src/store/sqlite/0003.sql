-- A newcomer of a group that cancels the older ones looks only at those that nobody cancelled.

CREATE INDEX open_uncancelled ON open (group_name) WHERE group_name IS NOT NULL AND wish <> 2;
