package main

import (
	"errors"
	"fmt"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/authz"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// checkHint refuses a `window` that opens later than EST's hint has clients renew: they would do as they are told, and be refused.
func (c *Config) checkHint(path []string, op gateway.Operation, e *EndpointConfig, nodes []yaml.Node) error {
	if op != gateway.Renew || e.Protocol != gateway.EST {
		return nil
	}
	hint := section(e.EST).RenewalHint.WithDefaults()
	list := pipelineNodes(nodes)
	if hint.Off || len(list) == 0 {
		return nil
	}
	var errs []error
	for _, name := range e.offered() {
		p := c.Profiles[name]
		if p == nil { // said already
			continue
		}
		life := p.validity() + time.Duration(p.Backdate) // jitter makes it shorter, of which a window is the greater part
		from := c.renewsFrom(list, life)
		if from <= int(hint.From) {
			continue
		}
		other := "{off: true}"
		if from < 99 {
			other = fmt.Sprintf("{from: %d%%, until: %d%%}", from, min(max(from+15, int(hint.Until)), 99))
		}
		errs = append(errs, c.fault(path, "own-certificate renews after %d%% of a certificate's life (profile %s), and clients that ask est.renewal-hint come after %d%%: they would be refused. "+
			"Give it a longer window, or set est.renewal-hint to %s", from, name, hint.From, other))
	}
	return errors.Join(errs...)
}

// renewsFrom is after how many hundredths of its life, rounded up, a list of stages renews a certificate.
func (c *Config) renewsFrom(list []*yaml.Node, life time.Duration) (from int) {
	for _, n := range list {
		name, settings, err := stageNode(c.file, n)
		if err != nil { // said already
			continue
		}
		one := 0
		switch name {
		case "own-certificate":
			var s authz.OwnCertificateConfig
			if strictyaml.DecodeNode(c.file, settings, &s) == nil && !s.Window.IsZero() {
				closed := max(life-s.Window.Of(life), 0)
				one = int((closed*100 + life - 1) / life)
			}
		case "allOf":
			one = c.renewsFrom(branch(settings), life)
		case "anyOf": // the earliest way
			for i, b := range settings.Content {
				if f := c.renewsFrom(branch(b), life); i == 0 || f < one {
					one = f
				}
			}
		}
		from = max(from, one)
	}
	return from
}
