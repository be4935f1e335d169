-- Schema version 2: mailbox providers that become known after their events were counted.

-- A recipient domain that waits for its MX counts in cells whose mailbox provider is '?domain'.
-- shown: the cell that such a cell is read as, 'unresolved'; once the MX is known, the cell that holds its counts.
ALTER TABLE cell ADD COLUMN shown INTEGER;
-- Set from then on, when the cell is but another name of shown: the last Unix hour in which an identity may name it.
ALTER TABLE cell ADD COLUMN moved INTEGER;

-- All counts of a cell, to move them. Rows come once a bucket; counting in them does not touch it.
CREATE INDEX rollup_cell ON rollup (cell);
