package pkix

import (
	"crypto/x509"
	"testing"
)

func TestRulesOut(t *testing.T) {
	for name, want := range map[string]bool{
		"m2m.example.com": false, "M2M.Example.com": false, "cse1.m2m.example.com": false,
		"example.com": true, "xm2m.example.com": true, "m2m.example.com.elsewhere.example": true, "test.m2m.example.com": true, "a.test.m2m.example.com": true, "": true,
		"sub.example.net": false, "example.net": true,
	} {
		constrained := &x509.Certificate{PermittedDNSDomains: []string{"m2m.EXAMPLE.com", ".example.net"}, ExcludedDNSDomains: []string{"test.m2m.example.com"}}
		if got := RulesOut([]*x509.Certificate{{}, constrained}, name); (got == constrained) != want || got != nil && !want {
			t.Errorf("%q: %v", name, got)
		}
		if RulesOut([]*x509.Certificate{{}, {PermittedDNSDomains: []string{""}}}, name) != nil || RulesOut(nil, name) != nil {
			t.Errorf("%q is ruled out by nothing", name)
		}
	}
}
