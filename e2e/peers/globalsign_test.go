//go:build peers

package peers

import (
	"path/filepath"
	"strings"
	"testing"
)

// GlobalSign's estclient, whose bodies are chunked, through all that it can do.
func TestGlobalSignClient(t *testing.T) {
	g := est(t)
	script := func(s string) string {
		t.Helper()
		return g.Sh(`est() { command=$1; shift; "` + filepath.Join(tools, "estclient") + `" $command -server localhost:` + g.tls() + ` "$@"; }
` + s)
	}
	script(`est cacerts -explicit ca/roots.pem -out cacerts.pem
		test "$(grep -c BEGIN cacerts.pem)" = 2`)
	if out := script(`est csrattrs -explicit cacerts.pem`); !strings.Contains(out, "2.5.4.3") { // commonName
		t.Errorf("csrattrs:\n%s", out)
	}
	if out := script(`openssl req -new -key P-256.key -subj "/CN=by estclient" -out request.pem
		est enroll -explicit cacerts.pem -user factory -pass "pass word" -csr request.pem -out enrolled.pem
		est reenroll -explicit cacerts.pem -certs enrolled.pem -key P-256.key -out renewed.pem
		openssl verify -CAfile ca/roots.pem -untrusted cacerts.pem renewed.pem
		openssl x509 -in renewed.pem -noout -subject`); !strings.Contains(out, "by estclient") {
		t.Errorf("enroll, reenroll:\n%s", out)
	}
	if got := g.Transactions("by estclient"); len(got) != 2 {
		t.Errorf("%v", got)
	}
	if out := script(`! est enroll -explicit cacerts.pem -user factory -pass wrong -csr request.pem 2>&1`); !strings.Contains(out, "user name or password is wrong (reference ") {
		t.Errorf("a wrong password:\n%s", out)
	}
	// RFC 7030 section 4.4: the request is signed with another key than the one that the gateway makes.
	script(`est serverkeygen -explicit cacerts.pem -aps made -user factory -pass "pass word" -csr request.pem -out made.pem -keyout made.key
		openssl x509 -in made.pem -pubkey -noout >made.pub
		openssl pkey -in made.key -pubout | cmp - made.pub
		! openssl pkey -in P-256.key -pubout | cmp -s - made.pub`)
}
