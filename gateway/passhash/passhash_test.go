package passhash

import (
	"bytes"
	"strings"
	"testing"

	"golang.org/x/crypto/argon2"
)

func TestPassword(t *testing.T) {
	for _, bad := range []string{"", strings.Repeat("x", MaxPassword+1)} {
		if _, err := Password([]byte(bad)); err == nil {
			t.Errorf("%d bytes were hashed", len(bad))
		}
	}
	s, err := Password([]byte("correct horse"))
	if err != nil {
		t.Fatal(err)
	}
	h, err := Parse(s)
	if err != nil || h.Sum != nil {
		t.Fatalf("%+v, %v", h, err)
	}
	if !bytes.Equal(h.Hash, argon2.IDKey([]byte("correct horse"), h.Salt, h.Time, h.Memory, h.Threads, uint32(len(h.Hash)))) {
		t.Error("the hash is another password's")
	}
	if !strings.HasPrefix(s, "$argon2id$v=19$m=12288,t=1,p=1$") || h.Work() > DearWork {
		t.Errorf("%s: a guess at it costs more than 20 ms", s)
	}
	if again, _ := Password([]byte("correct horse")); again == s {
		t.Error("the salt is the same")
	}
}

func TestParse(t *testing.T) {
	if h, err := Parse(Secret([]byte("abc"))); err != nil || len(h.Sum) != 32 {
		t.Errorf("%+v, %v", h, err)
	}
	// Of releases before, whose parameters they keep.
	old, err := Parse("$argon2id$v=19$m=19456,t=1,p=1$MDEyMzQ1Njc4OWFiY2RlZg$2h8RkkhVjpOcVZb7RJnrqNsRtT7STYUvtSH1I2wJ+p0")
	if err != nil || !bytes.Equal(old.Hash, argon2.IDKey([]byte("correct horse"), old.Salt, 1, 19456, 1, 32)) || old.Work() <= DearWork {
		t.Errorf("%+v, %v", old, err)
	}
	if h, err := Parse(Secret([]byte("abc"))); err != nil || h.Work() != 0 {
		t.Errorf("%+v, %v", h, err)
	}
	good := "$argon2id$v=19$m=19456,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	if _, err := Parse(good); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{
		"", "geheim", "{sha256}geheim", "{sha256}", strings.Replace(good, "v=19", "v=18", 1), strings.Replace(good, "m=19456", "m=99999999", 1),
		strings.Replace(good, "t=1", "t=0", 1), strings.Replace(good, "p=1", "p=9", 1), strings.Replace(good, ",p=1", "", 1),
		good[:len(good)-30], good + "$geheim",
	} {
		_, err := Parse(bad)
		if err == nil {
			t.Errorf("%q was taken", bad)
		} else if strings.Contains(err.Error(), "geheim") {
			t.Errorf("%q: the error tells the entry: %v", bad, err)
		}
	}
}
