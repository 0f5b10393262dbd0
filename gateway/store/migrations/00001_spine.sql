-- Times are Unix microseconds, UTC; 0 where there is none. Lists and structures are JSON.
-- {blob}, {id} and {clustered} are words of the dialect (dialect.go). Migrations only expand: an older binary's
-- statements keep working beside them.

-- +goose Up

-- One row per request that was refused by name, held, or asked of a CA.
CREATE TABLE transactions (
    id          {id}    NOT NULL PRIMARY KEY,
    wire_id     TEXT    NOT NULL,
    protocol    TEXT    NOT NULL,
    endpoint    TEXT    NOT NULL,
    operation   TEXT    NOT NULL,
    state       TEXT    NOT NULL,
    source      TEXT    NOT NULL,
    credentials TEXT    NOT NULL,
    requester   TEXT    NOT NULL,
    device      TEXT    NOT NULL,
    subject     TEXT    NOT NULL,
    verdicts    TEXT    NOT NULL,
    repeat      TEXT    NOT NULL,
    backend     TEXT    NOT NULL,
    profile     TEXT    NOT NULL,
    replaces    {blob},
    intent      TEXT    NOT NULL,
    reason      TEXT    NOT NULL,
    note        TEXT    NOT NULL,
    received    BIGINT  NOT NULL,
    updated     BIGINT  NOT NULL,
    ticket      TEXT    NOT NULL
);
CREATE INDEX transactions_device ON transactions (device, id);
CREATE INDEX transactions_state ON transactions (state, id);

-- Which transaction answers a repeated request, and until when. An open transaction's key never expires.
CREATE TABLE repeats (
    key     {id}   NOT NULL PRIMARY KEY,
    tx      {id}   NOT NULL,
    expires BIGINT NOT NULL
) {clustered};

-- How many uses of a claim stand, and whose they are.
CREATE TABLE claims (
    key  {id}   NOT NULL PRIMARY KEY,
    used BIGINT NOT NULL
) {clustered};
CREATE TABLE uses (
    tx  {id}   NOT NULL,
    key {id}   NOT NULL,
    n   BIGINT NOT NULL,
    PRIMARY KEY (tx, key)
) {clustered};

-- What has to be done for a transaction, by one instance at a time: its lease is held while lease_until is ahead.
CREATE TABLE work (
    tx          {id}   NOT NULL PRIMARY KEY REFERENCES transactions (id),
    kind        TEXT   NOT NULL,
    due         BIGINT NOT NULL,
    owner       TEXT   NOT NULL,
    lease_until BIGINT NOT NULL,
    epoch       BIGINT NOT NULL,
    attempts    BIGINT NOT NULL,
    note        TEXT   NOT NULL
) {clustered};
CREATE INDEX work_due ON work (due);

-- Certificate chains, each kept once, by the SHA-256 of their JSON.
CREATE TABLE chains (
    hash {blob} NOT NULL PRIMARY KEY,
    body TEXT   NOT NULL
) {clustered};

CREATE TABLE certificates (
    issuer      {blob}  NOT NULL,
    serial      {blob}  NOT NULL, -- without leading zeros
    tx          {id}    NOT NULL,
    backend     TEXT    NOT NULL,
    endpoint    TEXT    NOT NULL,
    profile     TEXT    NOT NULL,
    device      TEXT    NOT NULL,
    requester   TEXT    NOT NULL,
    subject     TEXT    NOT NULL,
    subject_raw {blob}  NOT NULL,
    key_hash    {blob}  NOT NULL,
    not_before  BIGINT  NOT NULL,
    not_after   BIGINT  NOT NULL,
    der         {blob}  NOT NULL,
    chain       {blob}  REFERENCES chains (hash),
    revoked_at  BIGINT  NOT NULL,
    revocation  BIGINT  NOT NULL,
    replaces    {blob},
    PRIMARY KEY (issuer, serial)
);
CREATE UNIQUE INDEX certificates_tx ON certificates (tx);
CREATE INDEX certificates_device ON certificates (device, tx);
CREATE INDEX certificates_holder ON certificates (requester, subject_raw, tx);
CREATE INDEX certificates_not_after ON certificates (not_after);

-- The audit trail: a chain per stream (instance). hash covers stream, seq, prev and body; prev is the hash of the
-- record before.
CREATE TABLE audit (
    stream {id}   NOT NULL,
    seq    BIGINT NOT NULL,
    prev   {blob} NOT NULL,
    hash   {blob} NOT NULL,
    body   TEXT   NOT NULL,
    PRIMARY KEY (stream, seq)
) {clustered};

-- The processes that have written here.
CREATE TABLE instances (
    name    {id}   NOT NULL PRIMARY KEY,
    started BIGINT NOT NULL,
    seen    BIGINT NOT NULL
) {clustered};
