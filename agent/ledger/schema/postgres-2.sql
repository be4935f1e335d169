-- Schema version 2: which cells were counted in long after the fact.

-- Cells in which an older hour than those that change as a matter of course has other counts than before: since when
-- (Unix seconds), and how often that happened. Whoever keeps sums reads those again.
CREATE TABLE mailvitals.amended (cell int PRIMARY KEY, at float8 NOT NULL, turn bigint NOT NULL);
