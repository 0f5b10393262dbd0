package main

import (
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// RetentionConfig says for how long the store keeps what is over: docs/reliability.md. The audit trail keeps its events for a time of its own.
type RetentionConfig struct {
	// Refused is for how long requests stay that ended without a certificate: refused, denied, failed. 0: for ever. Default: 90d. At
	// least 1d.
	Refused *strictyaml.Duration `yaml:"refused"`
	// Ended is for how long certificates stay after they have expired, with their transactions. Longer than the grace of any stage
	// `owncert`. Default: for ever. At least 1d.
	Ended strictyaml.Duration `yaml:"ended"`
}

const (
	defaultRefused = 90 * 24 * time.Hour
	minRetention   = 24 * time.Hour
)

// retention is for how long what is over stays.
func (c *Config) retention() gateway.Retention {
	keep := gateway.Retention{Refused: defaultRefused}
	if r := c.Retention; r != nil {
		keep.Ended = time.Duration(r.Ended)
		if r.Refused != nil {
			keep.Refused = time.Duration(*r.Refused)
		}
	}
	return keep
}

// retention checks the section.
func (f *review) retention() {
	keep := f.c.retention()
	if keep.Refused != 0 && keep.Refused < minRetention {
		f.fail(at("retention", "refused"), "%v is less than 1d: 0 keeps them for ever", strictyaml.Duration(keep.Refused))
	}
	if keep.Ended != 0 && keep.Ended < minRetention {
		f.fail(at("retention", "ended"), "%v is less than 1d: leave it out to keep them for ever", strictyaml.Duration(keep.Ended))
	}
}
