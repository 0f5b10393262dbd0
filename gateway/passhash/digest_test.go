package passhash

import (
	"fmt"
	"strings"
	"testing"
)

func TestDigest(t *testing.T) {
	// RFC 7616 section 3.9.1: H(A1) of its example, as sha256sum computes it.
	const form = "{digest-sha-256}http-auth@example.org:7987c64c30e25f1b74be53f966b49b90f2808aa92faf9a00262392d7b4794232"
	s, err := Digest("Mufasa", "http-auth@example.org", []byte("Circle of Life"))
	if err != nil || s != form {
		t.Fatalf("%s, %v", s, err)
	}
	realm, ha1, ok, err := ParseDigest(s)
	if err != nil || !ok || realm != "http-auth@example.org" || fmt.Sprintf("%x", ha1) != form[len(form)-64:] {
		t.Errorf("%q %x %v %v", realm, ha1, ok, err)
	}
	if _, err := Parse(s); err == nil {
		t.Error("what is no hash of a password alone is taken for one")
	}
	if _, _, ok, err := ParseDigest(Secret([]byte("abc"))); ok || err != nil {
		t.Errorf("{sha256} is taken for a digest form: %v", err)
	}
	for _, bad := range []struct{ user, realm, password string }{
		{"", "r", "p"}, {"a:b", "r", "p"}, {"a", "", "p"}, {"a", "r:s", "p"}, {"a", `r"`, "p"}, {"a", `r\`, "p"}, {"a", "r\n", "p"}, {"a", "r\xff", "p"},
		{"a", strings.Repeat("r", maxRealm+1), "p"}, {"a", "r", ""}, {"a", "r", strings.Repeat("p", MaxPassword+1)},
	} {
		if _, err := Digest(bad.user, bad.realm, []byte(bad.password)); err == nil {
			t.Errorf("%q was hashed", bad)
		}
	}
	for _, bad := range []string{
		digestPrefix, digestPrefix + "r", digestPrefix + "r:", digestPrefix + "r:geheim", digestPrefix + ":" + strings.Repeat("0", 64),
		digestPrefix + "r:" + strings.Repeat("0", 63), digestPrefix + "r:" + strings.Repeat("0", 66), digestPrefix + "r:s:" + strings.Repeat("0", 64),
	} {
		_, _, ok, err := ParseDigest(bad)
		if !ok || err == nil {
			t.Errorf("%q was taken", bad)
		} else if strings.Contains(err.Error(), "geheim") {
			t.Errorf("%q: the error tells the entry: %v", bad, err)
		}
	}
}
