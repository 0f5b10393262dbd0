package lint

import (
	"reflect"
	"testing"

	zx509 "github.com/zmap/zcrypto/x509"
	zlint "github.com/zmap/zlint/v3/lint"
)

// A lint that is kept says what a new one says, of every certificate of the tests; and all of the default set are kept, which is what they cost less by.
func TestKeptLintsSayTheSame(t *testing.T) {
	l, all := New(nil), zlint.GlobalRegistry().CertificateLints()
	for _, one := range l.lints {
		if one.kept == nil {
			t.Errorf("%s is made for each certificate", one.Name)
		}
	}
	for kind, key := range keys(t) {
		for name, tmpl := range good(t, key) {
			cert, err := parse(issued(t, tmpl, false).Raw)
			if err != nil {
				t.Fatal(err)
			}
			for _, id := range all.Names() {
				one := chosen{CertificateLint: all.ByName(id)}
				if one.kept = stateless(one.CertificateLint); one.kept == nil {
					continue
				}
				if got, want := one.run(cert), one.Execute(cert, noConfiguration); !reflect.DeepEqual(got, want) {
					t.Errorf("%s of %s, %s: %+v, made anew %+v", id, kind, name, got, want)
				}
			}
		}
	}
}

// tool is a lint with a state, which a second certificate would find.
type tool struct{ seen int }

func (*tool) CheckApplies(*zx509.Certificate) bool { return true }
func (x *tool) Execute(*zx509.Certificate) *zlint.LintResult {
	x.seen++
	return &zlint.LintResult{Status: zlint.LintStatus(x.seen)}
}

func TestLintsWithAStateAreMadeAnew(t *testing.T) {
	if stateless(&zlint.CertificateLint{Lint: func() zlint.CertificateLintInterface { return &tool{} }}) != nil {
		t.Error("a lint with a state is kept")
	}
	of := zlint.GlobalRegistry().CertificateLints()
	for _, id := range of.Names() {
		l := of.ByName(id)
		if _, configurable := l.Lint().(zlint.Configurable); (configurable || l.Source == zlint.CABFBaselineRequirements) && stateless(l) != nil {
			t.Errorf("%s is kept", id)
		}
	}
}
