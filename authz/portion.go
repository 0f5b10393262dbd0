package authz

import (
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// Portion is a part of a period: a period of its own ("30d"), or so many percent of it ("33%"). Zero is none.
type Portion struct {
	fixed   time.Duration
	percent int // 1 to 100
}

// UnmarshalStrict reads either.
func (p *Portion) UnmarshalStrict(file string, n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		if s, ok := strings.CutSuffix(n.Value, "%"); ok {
			if i, err := strconv.Atoi(s); err == nil && i >= 1 && i <= 100 && !strings.HasPrefix(s, "+") {
				*p = Portion{percent: i}
				return nil
			}
		} else if d, err := strictyaml.ParseDuration(n.Value); err == nil && d > 0 {
			*p = Portion{fixed: time.Duration(d)}
			return nil
		}
	}
	return strictyaml.Errorf(file, n, "wants a period such as 30d, or a share such as 33%%, more than 0")
}

// Of is how long that is of a period.
func (p Portion) Of(whole time.Duration) time.Duration {
	if p.percent > 0 {
		return whole / 100 * time.Duration(p.percent)
	}
	return p.fixed
}

// IsZero reports whether it is none.
func (p Portion) IsZero() bool { return p == Portion{} }

// String is what UnmarshalStrict reads.
func (p Portion) String() string {
	if p.percent > 0 {
		return strconv.Itoa(p.percent) + "%"
	}
	return strictyaml.Duration(p.fixed).String()
}
