package wire

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// Limits are the keys that every adapter's section has. The zero value stands for the defaults.
type Limits struct {
	// MaxBody is how many bytes the body of a request may have, 0 means 262144 (256 KiB). From 4096 to what the adapter says.
	MaxBody int64 `yaml:"max-body"`
	// RetryAfter is when a client may come back, where nothing else is known; 0 means 30s. It is sent in whole seconds.
	// From 1s to 24h.
	RetryAfter strictyaml.Duration `yaml:"retry-after"`
}

const (
	defaultMaxBody    = 256 << 10
	minMaxBody        = 4 << 10
	defaultRetryAfter = 30 * time.Second
	maxRetryAfter     = 24 * time.Hour
)

// Check reports what is out of bounds; most is what MaxBody may be.
func (l Limits) Check(most int64) error {
	if l.MaxBody != 0 && (l.MaxBody < minMaxBody || l.MaxBody > most) {
		return fmt.Errorf("max-body: not from %d to %d bytes", minMaxBody, most)
	}
	if d := time.Duration(l.RetryAfter); d != 0 && (d < time.Second || d > maxRetryAfter) {
		return fmt.Errorf("retry-after: not from 1s to %s", maxRetryAfter)
	}
	return nil
}

// WithDefaults fills in what is 0.
func (l Limits) WithDefaults() Limits {
	return Limits{cmp.Or(l.MaxBody, defaultMaxBody), cmp.Or(l.RetryAfter, strictyaml.Duration(defaultRetryAfter))}
}

// DecodeSection decodes an adapter's section of the configuration and has it checked. section is a pointer to a type
// without an UnmarshalStrict; an error of check is given the section's file and line.
func DecodeSection(file string, n *yaml.Node, section any, check func() error) error {
	if err := strictyaml.DecodeNode(file, n, section); err != nil {
		return err
	}
	if err := check(); err != nil {
		return strictyaml.Errorf(file, n, "%v", err)
	}
	return nil
}

// Names are those of an adapter's endpoints. The zero value has none.
type Names struct {
	taken    []string
	fallback string
}

// nameForm keeps names to characters that need no escaping in a path (RFC 3986 section 2.3).
var nameForm = regexp.MustCompile(`^[A-Za-z0-9_~-][A-Za-z0-9._~-]{0,63}$`)

// Add takes down an endpoint, or says why there cannot be such a one beside the others: its name is a part of URLs, and
// one endpoint at most is the default.
func (n *Names) Add(name string, isDefault bool) error {
	switch {
	case !nameForm.MatchString(name):
		return errors.New("the name is part of a URL: use at most 64 of A-Z a-z 0-9 . _ ~ - and do not begin with a dot")
	case slices.Contains(n.taken, name):
		return errors.New("named twice")
	case isDefault && n.fallback != "":
		return fmt.Errorf("%q is the default already", n.fallback)
	}
	n.taken = append(n.taken, name)
	if isDefault {
		n.fallback = name
	}
	return nil
}
