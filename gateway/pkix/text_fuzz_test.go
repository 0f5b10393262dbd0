package pkix

import (
	"encoding/asn1"
	"encoding/hex"
	"strings"
	"testing"
)

// FuzzReadBlocklist: a list that is read has as many hashes as lines at most.
func FuzzReadBlocklist(f *testing.F) {
	f.Add("# keys\n\n" + strings.Repeat("0f", 32) + " a router's\r\n" + strings.Repeat("0F", 32))
	f.Add(hex.EncodeToString([]byte("short")))
	f.Add("\x00")
	f.Fuzz(func(t *testing.T, text string) {
		b, err := ReadBlocklist(strings.NewReader(text))
		if err != nil {
			if b != nil {
				t.Fatalf("a list with the error %v", err)
			}
			return
		}
		if b.Len() > strings.Count(text, "\n")+1 || b.Contains([]byte(text)) {
			t.Errorf("%d hashes", b.Len())
		}
	})
}

// FuzzOID: a dotted OID that is read is written the same, and has DER.
func FuzzOID(f *testing.F) {
	for _, s := range []string{"1.2.840.113549", "2.999.1", "1.40", "1..2", "0.0", "2.5.29.2147483647", "1.02", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		oid, ok := ParseOID(s)
		if !ok {
			return
		}
		if oid.String() != s {
			t.Errorf("%q becomes %s", s, oid)
		}
		if _, err := asn1.Marshal(oid); err != nil {
			t.Errorf("%q has no DER: %v", s, err)
		}
	})
}

// FuzzExtensions: what an extensionRequest has is bounded, each once, and DER.
func FuzzExtensions(f *testing.F) {
	f.Add([]byte{0x30, 0x0c, 0x30, 0x0a, 0x06, 0x03, 0x55, 0x1d, 0x0f, 0x04, 0x03, 0x03, 0x01, 0x06})
	f.Add([]byte{0x30, 0x00})
	f.Add([]byte{0x30, 0x80, 0x00, 0x00})
	f.Fuzz(func(t *testing.T, der []byte) {
		list, err := ParseExtensions(der)
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for _, e := range list {
			if seen[e.Id.String()] || len(e.Value) > len(der) {
				t.Fatalf("%v twice, or longer than all", e.Id)
			}
			seen[e.Id.String()] = true
		}
	})
}
