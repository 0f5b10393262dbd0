package passhash

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

// sealed is a seal that shows what it was made for.
func sealed(secret []byte, context ...string) []byte {
	return []byte(strings.Join(context, "|") + "|" + hex.EncodeToString(secret))
}

func opened(sealed []byte, context ...string) ([]byte, error) {
	rest, ok := strings.CutPrefix(string(sealed), strings.Join(context, "|")+"|")
	if !ok {
		return nil, errors.New("sealed for something else")
	}
	return hex.DecodeString(rest)
}

func TestDigest(t *testing.T) {
	// RFC 7616 section 3.9.1: H(A1) of its example, as sha256sum computes it.
	const ha1 = "7987c64c30e25f1b74be53f966b49b90f2808aa92faf9a00262392d7b4794232"
	form := digestPrefix + "http-auth@example.org:" + base64.StdEncoding.EncodeToString([]byte("digest|Mufasa|http-auth@example.org|"+ha1))
	s, err := Digest("Mufasa", "http-auth@example.org", []byte("Circle of Life"), sealed)
	if err != nil || s != form {
		t.Fatalf("%s, %v", s, err)
	}
	realm, got, ok, err := OpenDigest(s, "Mufasa", opened)
	if err != nil || !ok || realm != "http-auth@example.org" || hex.EncodeToString(got) != ha1 {
		t.Errorf("%q %x %v %v", realm, got, ok, err)
	}
	if _, _, ok, err := OpenDigest(s, "Simba", opened); !ok || err == nil || !strings.Contains(err.Error(), "--user Simba") {
		t.Errorf("another user's form opens: %v", err)
	}
	if _, _, _, err := OpenDigest(strings.Replace(s, "http-auth", "http-auto", 1), "Mufasa", opened); err == nil {
		t.Error("another realm's form opens")
	}
	if _, err := Parse(s); err == nil {
		t.Error("what is no hash of a password alone is taken for one")
	}
	if _, _, ok, err := OpenDigest(Secret([]byte("abc")), "Mufasa", opened); ok || err != nil {
		t.Errorf("{sha256} is taken for a digest form: %v", err)
	}
	for _, bad := range []struct{ user, realm, password string }{
		{"", "r", "p"}, {"a:b", "r", "p"}, {"a", "", "p"}, {"a", "r:s", "p"}, {"a", `r"`, "p"}, {"a", `r\`, "p"}, {"a", "r\n", "p"}, {"a", "r\xff", "p"},
		{"a", strings.Repeat("r", maxRealm+1), "p"}, {"a", "r", ""}, {"a", "r", strings.Repeat("p", MaxPassword+1)},
	} {
		if _, err := Digest(bad.user, bad.realm, []byte(bad.password), sealed); err == nil {
			t.Errorf("%q was hashed", bad)
		}
	}
	all := func([]byte, ...string) ([]byte, error) { return make([]byte, 32), nil }
	short := func([]byte, ...string) ([]byte, error) { return make([]byte, 31), nil }
	for _, bad := range []string{
		digestPrefix, digestPrefix + "r", digestPrefix + "r:", digestPrefix + "r:geheim.", digestPrefix + ":AAAA", digestPrefix + "r:s:AAAA",
		digestPrefix + "r:" + ha1[:63],
	} {
		_, _, ok, err := OpenDigest(bad, "a", all)
		if !ok || err == nil {
			t.Errorf("%q was taken", bad)
		} else if strings.Contains(err.Error(), "geheim") {
			t.Errorf("%q: the error tells the entry: %v", bad, err)
		}
	}
	if _, _, _, err := OpenDigest(digestPrefix+"r:AAAA", "a", short); err == nil {
		t.Error("31 bytes were taken")
	}
}
