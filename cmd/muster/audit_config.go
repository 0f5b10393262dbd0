package main

import (
	"time"

	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// AuditConfig says what becomes of the audit trail: docs/audit.md.
type AuditConfig struct {
	// Keep is for how long records stay in the store: 400d. What is older is removed, once a day, in whole stretches that end
	// before a signed checkpoint. Default: for ever. At least 1d.
	Keep strictyaml.Duration `yaml:"keep"`
	// Sinks get a copy of each record, before anybody is answered. Default: none.
	Sinks []SinkConfig `yaml:"sinks"`
}

// minAuditKeep is the shortest time for which records stay.
const minAuditKeep = 24 * time.Hour

// auditKeep is for how long records of the audit trail stay, 0 for ever.
func (c *Config) auditKeep() time.Duration {
	if c.Audit == nil {
		return 0
	}
	return time.Duration(c.Audit.Keep)
}

// audit checks the audit section.
func (f *review) audit() {
	if keep := f.c.auditKeep(); keep != 0 && keep < minAuditKeep {
		f.fail(at("audit", "keep"), "%v is less than 1d: leave it out to keep records for ever", f.c.Audit.Keep)
	}
	f.sinks()
}
