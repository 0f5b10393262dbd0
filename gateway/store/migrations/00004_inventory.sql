-- Who may enrol: devices, and challenges made for one enrollment.

-- +goose Up

-- The one row that whoever changes the inventory locks first. batch is the last one given.
CREATE TABLE inventory (
    id    BIGINT NOT NULL PRIMARY KEY,
    batch BIGINT NOT NULL
);
INSERT INTO inventory (id, batch) VALUES (1, 0);

-- Entries come in batches, one for each import. Of an entry's visible rows the one of the latest batch counts.
CREATE TABLE devices (
    name     {id}   NOT NULL,
    batch    BIGINT NOT NULL,
    vendor   {id}   NOT NULL,
    disabled BIGINT NOT NULL, -- 1 or 0
    body     TEXT   NOT NULL, -- JSON of the rest of gateway.Device
    sealed   {blob},
    created  BIGINT NOT NULL,
    updated  BIGINT NOT NULL,
    PRIMARY KEY (name, batch)
);
CREATE INDEX devices_vendor ON devices (vendor, name);
CREATE INDEX devices_batch ON devices (batch, name); -- what is left of an import that broke off

-- Where to look for an identifier: the device's row that counts has it, or had it, or will have it. Its name is one of the
-- kind "name".
CREATE TABLE device_identifiers (
    value  {id} NOT NULL,
    kind   {id} NOT NULL,
    device {id} NOT NULL,
    PRIMARY KEY (value, kind, device)
) {clustered};

-- Batches that are not done. state 0: being written, and hidden; 1: visible, with the rows that it replaced still to be taken
-- away; 2: broken off, hidden, and to be taken away.
CREATE TABLE device_imports (
    batch BIGINT NOT NULL PRIMARY KEY,
    state BIGINT NOT NULL,
    rows_written BIGINT NOT NULL
);

CREATE TABLE challenges (
    id        {id}   NOT NULL PRIMARY KEY,
    hash      {blob} NOT NULL UNIQUE, -- SHA-256
    endpoint  TEXT   NOT NULL,
    device    TEXT   NOT NULL,
    subject   TEXT   NOT NULL,
    profile   TEXT   NOT NULL,
    uses      BIGINT NOT NULL,
    created   BIGINT NOT NULL,
    not_after BIGINT NOT NULL,
    made_by   TEXT   NOT NULL
);
CREATE INDEX challenges_created ON challenges (created, id);
