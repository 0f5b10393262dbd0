// Package lint checks certificates against the rules of RFC 5280 and others with zlint: before a CA makes one, over a
// certificate with its content and a signature that is none, and after. cmd/muster makes a Linter for each profile, the
// gateway calls it.
package lint

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/zmap/zcrypto/encoding/asn1"
	zx509 "github.com/zmap/zcrypto/x509"
	"github.com/zmap/zcrypto/x509/pkix"
	zlint "github.com/zmap/zlint/v3/lint"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
)

// Linter is a gateway.Linter. It never changes, and is safe for concurrent use.
type Linter struct {
	lints  []chosen
	refuse zlint.LintStatus // the least that refuses
}

var _ gateway.Linter = (*Linter)(nil)

// New makes a Linter; nil for the set none without additions. A nil configuration is the zero one.
func New(c *Config) *Linter {
	if c == nil {
		c = &Config{}
	}
	l := &Linter{lints: c.choose(), refuse: zlint.Error}
	if len(l.lints) == 0 {
		return nil
	}
	if c.Fail == Warn {
		l.refuse = zlint.Warn
	}
	return l
}

// Before lints what issuer would make of the template. Its error lists the lints that failed; one that cannot run has failed.
func (l *Linter) Before(t *backend.Template, issuer *x509.Certificate) error {
	der, err := draft(t, issuer)
	if err != nil {
		return fmt.Errorf("what is to be certified makes no certificate: %w", err)
	}
	return l.lint(der, true)
}

// After lints a certificate, as Before does.
func (l *Linter) After(cert *x509.Certificate) error {
	if cert == nil || len(cert.Raw) == 0 {
		return errors.New("there is no certificate to lint")
	}
	return l.lint(cert.Raw, false)
}

const (
	maxFindings = 8   // told of one certificate
	maxDetails  = 200 // bytes, of what zlint says of one finding
)

func (l *Linter) lint(der []byte, draft bool) error {
	cert, err := parse(der)
	if err != nil {
		return err
	}
	var found []string
	more := 0
	for _, one := range l.lints {
		if one.extension != nil && !has(cert, one.extension) || draft && one.addedByCA {
			continue
		}
		r := one.run(cert)
		if r == nil {
			r = &zlint.LintResult{Status: zlint.Fatal, Details: "it gave no result"}
		}
		if r.Status < l.refuse && r.Status != zlint.Reserved {
			continue
		}
		if len(found) == maxFindings {
			more++
			continue
		}
		found = append(found, describe(one, r))
	}
	if found == nil {
		return nil
	}
	if more > 0 {
		found = append(found, fmt.Sprintf("and %d more", more))
	}
	return errors.New("lints failed: " + strings.Join(found, "; "))
}

func has(cert *zx509.Certificate, id asn1.ObjectIdentifier) bool {
	return slices.ContainsFunc(cert.Extensions, func(e pkix.Extension) bool { return slices.Equal(e.Id, id) })
}

var noConfiguration = zlint.NewEmptyConfig()

// describe names a lint, what it wants and where that stands.
func describe(l chosen, r *zlint.LintResult) string {
	s := l.Name + " (" + strings.TrimSuffix(cut(l.Description), ".")
	if l.Citation != "" {
		s += "; " + cut(l.Citation)
	}
	s += ")"
	if r.Details != "" {
		s += ": " + cut(r.Details)
	}
	return s
}

func cut(s string) string {
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "?")), " ")
	if len(s) > maxDetails {
		s = strings.ToValidUTF8(s[:maxDetails], "") + "..."
	}
	return s
}

// parse reads a certificate with zcrypto, whose parser is another than the one that has read it before.
func parse(der []byte) (cert *zx509.Certificate, err error) {
	defer func() {
		if p := recover(); p != nil {
			cert, err = nil, fmt.Errorf("the certificate cannot be linted: its parser panicked: %v", p)
		}
	}()
	cert, err = zx509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("the certificate cannot be linted: %w", err)
	}
	return cert, nil
}
