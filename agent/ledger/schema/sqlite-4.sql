-- Schema version 4: which cells were counted in long after the fact.

-- Cells in which an older hour than those that change as a matter of course has other counts than before: since when
-- (Unix seconds), and how often that happened. Whoever keeps sums reads those again.
CREATE TABLE amended (cell INTEGER PRIMARY KEY, at REAL NOT NULL, turn INTEGER NOT NULL) STRICT;
