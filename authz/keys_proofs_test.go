package authz

import (
	"fmt"
	"testing"
)

// What gateway.RequiresLinking goes by.
func TestKeysProofs(t *testing.T) {
	for want, c := range map[string]KeysConfig{"[signature]": {}, "[tls-binding ra]": {POP: []string{"tls-binding", "ra"}}} {
		s, err := NewKeys(c, "")
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(s.Proofs()); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
