package profile

import (
	"encoding/asn1"
	"testing"
)

// FuzzAsked: a keyUsage or extKeyUsage that is read is written the same way, and within its bounds.
func FuzzAsked(f *testing.F) {
	f.Add([]byte{3, 2, 5, 0xa0})
	f.Add([]byte{3, 3, 7, 0, 0x80})
	f.Add([]byte{3, 1, 0})
	f.Add([]byte{0x30, 10, 6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 2})
	f.Add([]byte{0x30, 0x80, 0, 0})
	f.Fuzz(func(t *testing.T, der []byte) {
		if usage, ok := parseKeyUsage(der); ok && (usage < 0 || usage >= 1<<9) {
			t.Errorf("%x: keyUsage %b", der, usage)
		}
		ids, ok := parsePurposes(der)
		if !ok {
			return
		}
		again, err := asn1.Marshal(ids)
		if err != nil || string(again) != string(der) || len(ids) == 0 || len(ids) > maxAskedPurposes {
			t.Errorf("%x becomes %x, %v", der, again, err)
		}
	})
}
