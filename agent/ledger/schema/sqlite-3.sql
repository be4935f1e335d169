-- Schema version 3: what vendors give each request once.

-- A token seen again with the same body is a retry, with another a forgery. Keyed hashes; at in Unix seconds.
CREATE TABLE token (hash BLOB PRIMARY KEY, body BLOB NOT NULL, at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
