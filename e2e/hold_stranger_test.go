package e2e

import (
	"strings"
	"testing"
)

// An EST client that shows nothing of who it is, where people approve: it finds its request again by its key, and not more
// than some of such requests wait.
func TestHeldStranger(t *testing.T) {
	g := configured(t, strings.Replace(holdESTSCEPConfig, "      - password: {file: users}\n", "", 1), "challenges", heldSecret(t, "held-challenge"))
	dir := t.TempDir()
	ask := func(name string) string {
		t.Helper()
		return g.sh(dir, `test -f "`+name+`.key" || { `+ecKey+name+`.key; openssl req -new -key `+name+`.key -subj /CN=`+name+` -outform DER -out `+name+`.der; }
			openssl base64 -A -in `+name+`.der > `+name+`.b64
			curl -sS --cacert "$MUSTER_CA" -H 'Content-Type: application/pkcs10' --data-binary @`+name+`.b64 -o `+name+`.out -w '%{http_code}' "$MUSTER_HTTPS/.well-known/est/simpleenroll"`)
	}
	for range 3 {
		if got := ask("walk-in"); got != "202" {
			t.Fatal(got)
		}
	}
	if rows := g.transactions("walk-in"); len(rows) != 1 {
		t.Errorf("%d requests wait, of one that was asked for three times", len(rows))
	}
	g.muster("approve", g.held("walk-in"), "--reason", "it stands on my desk")
	if got := ask("walk-in"); got != "200" || len(g.ledger("walk-in")) != 1 {
		t.Errorf("%s, %d certificates", got, len(g.ledger("walk-in")))
	}
	waiting := 0
	for i := range 12 {
		switch got := ask("crowd-" + string(rune('a'+i))); got {
		case "202":
			waiting++
		case "503":
		default:
			t.Error(got)
		}
	}
	if waiting != 9 { // and the one that was approved
		t.Errorf("%d wait", waiting)
	}
}
