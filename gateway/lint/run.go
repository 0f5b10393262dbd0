package lint

import (
	"fmt"
	"reflect"

	zx509 "github.com/zmap/zcrypto/x509"
	zlint "github.com/zmap/zlint/v3/lint"
)

// stateless makes a lint that can be run again and again, nil for one that has to be made for each certificate: it keeps something between its
// methods, or can be configured, or its source has zlint look whether the certificate is of that kind at all. Of the default set all are
// stateless; a lint made anew, and asked by reflection whether it can be configured, costs a fifth more.
func stateless(l *zlint.CertificateLint) zlint.CertificateLintInterface {
	switch l.Source {
	case zlint.CABFBaselineRequirements, zlint.CABFSMIMEBaselineRequirements, zlint.CABFCSBaselineRequirements:
		return nil
	}
	one := l.Lint()
	t := reflect.TypeOf(one)
	if t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if _, configurable := one.(zlint.Configurable); configurable || t == nil || t.Size() != 0 {
		return nil
	}
	return one
}

// run is zlint's Execute, which makes a panic of a lint Fatal.
func (c *chosen) run(cert *zx509.Certificate) (r *zlint.LintResult) {
	if c.kept == nil {
		return c.Execute(cert, noConfiguration)
	}
	defer func() {
		if p := recover(); p != nil {
			r = &zlint.LintResult{Status: zlint.Fatal, Details: fmt.Sprintf("'%s' panicked. Error: %v", c.Name, p)}
		}
	}()
	switch {
	case !c.kept.CheckApplies(cert):
		return notApplicable
	case !c.CheckEffective(cert):
		return notEffective
	}
	return c.kept.Execute(cert)
}

var notApplicable, notEffective = &zlint.LintResult{Status: zlint.NA}, &zlint.LintResult{Status: zlint.NE}
