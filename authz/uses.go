package authz

import (
	"strconv"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// Uses is how often something may be used: a number from 1 on, or `unlimited`. 0 is the setting's default.
type Uses int

// Unlimited is Uses without a bound.
const Unlimited Uses = gateway.Unlimited

// maxUses bounds a number of uses.
const maxUses = 1_000_000_000

// UnmarshalStrict reads a number, or the word.
func (u *Uses) UnmarshalStrict(file string, n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode && n.Value == "unlimited" {
		*u = Unlimited
		return nil
	}
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!int" {
		if i, err := strconv.Atoi(n.Value); err == nil && i > 0 && i <= maxUses {
			*u = Uses(i)
			return nil
		}
	}
	return strictyaml.Errorf(file, n, "want a number from 1 to %d, or unlimited", maxUses)
}

// or is u, or the default where it is 0.
func (u Uses) or(standard Uses) Uses {
	if u == 0 {
		return standard
	}
	return u
}

// claims is the claim of one use, none where there is no bound.
func (u Uses) claims(c gateway.Claim) []gateway.Claim {
	if u == Unlimited {
		return nil
	}
	c.Limit = int64(u)
	return []gateway.Claim{c}
}

// times says how often in words: "once", "3 times".
func (u Uses) times() string {
	if u == 1 {
		return "once"
	}
	return strconv.Itoa(int(u)) + " times"
}
