package gateway_test

import (
	"bytes"
	"strings"
	"testing"
	"unicode"

	"github.com/muster-pki/muster/gateway"
)

func TestReferenceID(t *testing.T) {
	for _, c := range []struct{ reference, id string }{
		{"3078", "3078"},
		{"base station 7", "base station 7"},
		{"Müster", "Müster"},
		{"", "hex:"},
		{"\x00\x01\xff", "hex:0001ff"},
		{"a\n", "hex:610a"},
		{"a\u200bb", "hex:61e2808b62"}, // a space of no width
		{"hex:00", "hex:6865783a3030"}, // not to be taken for the byte 00
		{"\xc3", "hex:c3"},
	} {
		if got := gateway.ReferenceID([]byte(c.reference)); got != c.id {
			t.Errorf("%q: %q, want %q", c.reference, got, c.id)
		}
		if back, ok := gateway.ParseReferenceID(c.id); string(back) != c.reference || ok != (c.reference != "") {
			t.Errorf("%q: back as %q %t", c.id, back, ok)
		}
	}
	for _, id := range []string{"", "hex:", "hex:0", "hex:zz"} {
		if got, ok := gateway.ParseReferenceID(id); ok {
			t.Errorf("%q stands for %q", id, got)
		}
	}
}

func FuzzReferenceID(f *testing.F) {
	for _, s := range []string{"3078", "", "hex:00", "\x00", "Müster"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, reference []byte) {
		id := gateway.ReferenceID(reference)
		if id == "" || strings.ContainsFunc(id, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%x is shown as %q", reference, id)
		}
		if back, _ := gateway.ParseReferenceID(id); !bytes.Equal(back, reference) {
			t.Errorf("%x is %q, which is %x", reference, id, back)
		}
	})
}
