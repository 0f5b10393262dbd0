package gateway

import "testing"

// A wish for a kind of key is met where that kind, or one of its family, is made, and never refused.
func TestPreferredKind(t *testing.T) {
	for _, tt := range []struct {
		made         []string
		prefer, kind string
		want         string
	}{
		{[]string{"P-256", "RSA-2048", "RSA-3072", "P-384"}, "", "", "P-256"},
		{[]string{"P-256", "RSA-2048", "RSA-3072", "P-384"}, "P-384", "", "P-384"},
		{[]string{"P-256", "RSA-2048", "RSA-3072", "P-384"}, "RSA-3072", "", "RSA-3072"},
		{[]string{"P-256", "RSA-3072", "P-384"}, "RSA-1024", "", "RSA-3072"},
		{[]string{"RSA-2048", "P-384"}, "P-256", "", "P-384"},
		{[]string{"P-256", "RSA-3072"}, "RSA", "", "RSA-3072"},
		{[]string{"P-256", "P-384"}, "RSA-2048", "", "P-256"},
		{[]string{"P-256", "Ed25519"}, "Ed25519", "", "Ed25519"},
		{[]string{"P-256", "P-384"}, "P-384", "P-256", "P-256"}, // what is asked for counts, not what is preferred
	} {
		k := &KeyGen{Algorithm: tt.kind, Prefer: tt.prefer, Wrap: WrapSymmetric}
		got, err := kindFor(&Request{KeyGen: k}, &Grant{generates: tt.made, profile: &Profile{}})
		if err != nil || got != tt.want {
			t.Errorf("%v, %q preferred: %q, %v", tt.made, tt.prefer, got, err)
		}
	}
}
