-- Keys that the gateway makes for devices and must not keep: how to make another one for who has not got it.

-- +goose Up

ALTER TABLE transactions ADD COLUMN delivery TEXT NOT NULL DEFAULT ''; -- gateway.Delivery, '' for none
