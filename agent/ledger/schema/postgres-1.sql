-- The ledger on PostgreSQL, schema version 1. Text that is a key is compared by its bytes: an upgrade of the operating
-- system's collations would otherwise break the indexes.

CREATE TABLE mailvitals.meta (name text COLLATE "C" PRIMARY KEY, value bytea NOT NULL);

-- What commits take, so that those that may know of the same event take turns. epoch: see postgres.py.
CREATE TABLE mailvitals.turn (id int PRIMARY KEY, epoch bigint NOT NULL);
INSERT INTO mailvitals.turn SELECT n, 0 FROM generate_series(0, 63) n;

-- The places events count in; roll-ups and identities refer to them by number.
-- shown: the cell that one of a domain without a known MX is read as, 'unresolved'; later the one that has its counts.
-- moved: set from then on: the last Unix hour in which an identity may name it.
CREATE TABLE mailvitals.cell (
  id int PRIMARY KEY,
  domain text COLLATE "C" NOT NULL, provider text COLLATE "C" NOT NULL,
  stream text COLLATE "C" NOT NULL, mailbox_provider text COLLATE "C" NOT NULL,
  shown int, moved int,
  UNIQUE (domain, provider, stream, mailbox_provider)
);
CREATE INDEX cell_waiting ON mailvitals.cell (mailbox_provider) WHERE shown IS NOT NULL AND moved IS NULL;

-- Every event counted, led by its Unix hour, so that inserts are clustered. A partition a day, named identity_<Unix day>,
-- made by the first event of that day and dropped whole. mark: 5 bytes, see questions.py.
CREATE TABLE mailvitals.identity (
  hour int NOT NULL, hash bytea NOT NULL, mark bytea NOT NULL,
  PRIMARY KEY (hour, hash)
) PARTITION BY RANGE (hour);
CREATE TABLE mailvitals.day (day int PRIMARY KEY);

-- Bounces by identity alone: where a delivery that arrives after its bounce finds it. Times in Unix milliseconds.
CREATE TABLE mailvitals.bounce (
  hash bytea PRIMARY KEY,
  at bigint NOT NULL, rank smallint NOT NULL, cell int NOT NULL,
  first_at bigint NOT NULL, last_at bigint NOT NULL, seen smallint NOT NULL
);
CREATE INDEX bounce_last_at ON mailvitals.bounce (last_at);

-- Counts by bucket of 60, 3600 or 86400 seconds. Room in the pages lets a count grow in place.
CREATE TABLE mailvitals.rollup (
  width int NOT NULL, bucket bigint NOT NULL, cell int NOT NULL, measure smallint NOT NULL, count bigint NOT NULL,
  PRIMARY KEY (width, bucket, cell, measure)
) WITH (fillfactor = 70);
CREATE INDEX rollup_cell ON mailvitals.rollup (cell, width, bucket);

CREATE TABLE mailvitals.source (
  name text COLLATE "C" PRIMARY KEY, received_at float8 NOT NULL, event_at float8 NOT NULL
) WITH (fillfactor = 50);

-- Who leads, and until when by this database's clock.
CREATE TABLE mailvitals.lease (holder text NOT NULL, epoch bigint NOT NULL, expires timestamptz NOT NULL);
INSERT INTO mailvitals.lease VALUES ('', 0, '-infinity');

-- The newest bounces for people to read; masked.
CREATE TABLE mailvitals.recent_bounce (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at float8 NOT NULL, source text NOT NULL, cell int NOT NULL, rank smallint NOT NULL,
  smtp_code int, enhanced_code text NOT NULL, reason text NOT NULL
);

-- Authentic bodies that could not be read, sealed with AES-GCM.
CREATE TABLE mailvitals.quarantine (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at float8 NOT NULL, source text NOT NULL, reason text NOT NULL, size bigint NOT NULL, sealed bytea NOT NULL
);

-- Small documents: open incidents, last good DNS answers.
CREATE TABLE mailvitals.document (
  kind text COLLATE "C" NOT NULL, key text COLLATE "C" NOT NULL, body bytea NOT NULL, PRIMARY KEY (kind, key)
);

-- What vendors give each request once: seen again with the same body it is a retry, with another a forgery.
CREATE TABLE mailvitals.token (hash bytea PRIMARY KEY, body bytea NOT NULL, at bigint NOT NULL);
CREATE INDEX token_at ON mailvitals.token (at);
