-- The embedded ledger, schema version 1.

CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;

-- The places events count in; roll-ups and identities refer to them by number.
CREATE TABLE cell (
  id INTEGER PRIMARY KEY,
  domain TEXT NOT NULL, provider TEXT NOT NULL, stream TEXT NOT NULL, mailbox_provider TEXT NOT NULL,
  UNIQUE (domain, provider, stream, mailbox_provider)
) STRICT;

-- Every event counted, led by its Unix hour, so that inserts are clustered and old hours go in one piece.
-- mark: cell number * 65536 + second of the hour * 16 + flags, 5 bytes big-endian; flag 1 = revoked by a bounce.
CREATE TABLE identity (
  hour INTEGER NOT NULL, hash BLOB NOT NULL, mark BLOB NOT NULL,
  PRIMARY KEY (hour, hash)
) STRICT, WITHOUT ROWID;

-- The hours that identity has rows in.
CREATE TABLE hour (hour INTEGER PRIMARY KEY) STRICT;

-- Bounces by identity alone: where a delivery that arrives after its bounce finds it. Times in Unix milliseconds.
CREATE TABLE bounce (
  hash BLOB PRIMARY KEY,
  at INTEGER NOT NULL, rank INTEGER NOT NULL, cell INTEGER NOT NULL,
  first_at INTEGER NOT NULL, last_at INTEGER NOT NULL, seen INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Counts by bucket of 60, 3600 or 86400 seconds.
CREATE TABLE rollup (
  width INTEGER NOT NULL, bucket INTEGER NOT NULL, cell INTEGER NOT NULL, measure INTEGER NOT NULL,
  count INTEGER NOT NULL,
  PRIMARY KEY (width, bucket, cell, measure)
) STRICT, WITHOUT ROWID;

CREATE TABLE source (name TEXT PRIMARY KEY, received_at REAL NOT NULL, event_at REAL NOT NULL) STRICT, WITHOUT ROWID;

-- The newest bounces for people to read; masked.
CREATE TABLE recent_bounce (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at REAL NOT NULL, source TEXT NOT NULL, cell INTEGER NOT NULL, rank INTEGER NOT NULL,
  smtp_code INTEGER, enhanced_code TEXT NOT NULL, reason TEXT NOT NULL
) STRICT;

-- Authentic bodies that could not be read, sealed with AES-GCM.
CREATE TABLE quarantine (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at REAL NOT NULL, source TEXT NOT NULL, reason TEXT NOT NULL, size INTEGER NOT NULL, sealed BLOB NOT NULL
) STRICT;

-- Small documents: open incidents, last good DNS answers.
CREATE TABLE document (
  kind TEXT NOT NULL, key TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (kind, key)
) STRICT, WITHOUT ROWID;

-- The numbers 0, 1, 2, ...: with them one statement reads a whole blob of fixed-size records.
CREATE TABLE seq (n INTEGER PRIMARY KEY) STRICT;
WITH RECURSIVE r(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM r WHERE n < 16383) INSERT INTO seq SELECT n FROM r;
