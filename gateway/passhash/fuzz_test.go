package passhash

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"
)

// FuzzParse: what is read may be computed at each log-in: its cost is bounded.
func FuzzParse(f *testing.F) {
	hashed, err := Password([]byte("geheim"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(hashed)
	f.Add(Secret([]byte("geheim")))
	f.Add("{sha256}" + strings.Repeat("A", 43) + "=")
	f.Add("$argon2id$v=19$m=4294967295,t=1,p=1$AAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAA")
	f.Fuzz(func(t *testing.T, s string) {
		h, err := Parse(s)
		if err != nil {
			if h != nil || len(err.Error()) > 400 {
				t.Fatalf("%+v, %v", h, err)
			}
			return
		}
		switch {
		case h.Sum != nil && (len(h.Sum) != sha256.Size || h.Hash != nil):
			t.Errorf("%+v", h)
		case h.Sum == nil && (h.Memory-1 >= MaxMemory || h.Time-1 >= MaxTime || h.Threads-1 >= MaxThreads || len(h.Salt) > 64 || len(h.Hash) < 16 || len(h.Hash) > 64):
			t.Errorf("%+v", h)
		}
	})
}

// FuzzOpenDigest: a form that opens is the one that was made for this user and realm.
func FuzzOpenDigest(f *testing.F) {
	join := func(sealed []byte, context ...string) []byte {
		return append([]byte(strings.Join(context, "\x00")+"\x00"), sealed...)
	}
	open := func(sealed []byte, context ...string) ([]byte, error) {
		rest, ok := bytes.CutPrefix(sealed, join(nil, context...))
		if !ok {
			return nil, errors.New("sealed for another")
		}
		return rest, nil
	}
	made, err := Digest("anna", "ran", []byte("geheim"), join)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(made, "anna")
	f.Add(made, "otto")
	f.Add("{digest-sha-256}ran", "anna")
	f.Add("{digest-sha-256}:AAEC", "")
	f.Fuzz(func(t *testing.T, s, user string) {
		realm, ha1, ok, err := OpenDigest(s, user, open)
		if err != nil || !ok {
			if ha1 != nil || ok != strings.HasPrefix(s, digestPrefix) {
				t.Fatalf("%x, %v, %v", ha1, ok, err)
			}
			return
		}
		if len(ha1) != sha256.Size || checkRealm(realm) != nil || !strings.HasPrefix(s, digestPrefix+realm+":") {
			t.Errorf("%q: realm %q, %x", s, realm, ha1)
		}
	})
}
