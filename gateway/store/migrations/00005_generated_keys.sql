-- Keys that the gateway makes for devices, encrypted to them: kept while the answer may be asked for again.

-- +goose Up

ALTER TABLE transactions ADD COLUMN sealed_key {blob};
