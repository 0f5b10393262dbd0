package backend

import (
	"bytes"
	"testing"

	pb "github.com/muster-pki/muster/plugins/backend/backendpb/v1"
)

// What a plugin's answer was parsed to is what the gateway compares, and only as long as the answer is still that: whoever changes it, or a byte of
// it, has it parsed anew.
func TestLeaf(t *testing.T) {
	der, other := certificate(t, 0), certificate(t, 0)
	fresh := func() *Issuance {
		i, err := issuanceFromWire(&pb.Issuance{Certificate: bytes.Clone(der)})
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	i := fresh()
	first, err := i.Leaf()
	if again, _ := i.Leaf(); err != nil || first != again || !bytes.Equal(first.Raw, der) {
		t.Errorf("it is parsed each time, or another: %v", err)
	}
	i.Certificate = other
	if c, err := i.Leaf(); err != nil || !bytes.Equal(c.Raw, other) {
		t.Errorf("the certificate of before: %v", err)
	}
	i = fresh()
	for at := range i.Certificate[len(der)-8:] { // of the signature, in place
		i.Certificate[len(der)-8+at] ^= 1
	}
	if c, err := i.Leaf(); err == nil && (c == i.leaf || !bytes.Equal(c.Raw, i.Certificate)) {
		t.Error("the certificate of before, in whose place others stand")
	}
	if c, err := (&Issuance{Certificate: other}).Leaf(); err != nil || !bytes.Equal(c.Raw, other) {
		t.Errorf("one that came from no plugin: %v", err)
	}
	if _, err := (&Issuance{Certificate: []byte("garbage")}).Leaf(); err == nil {
		t.Error("garbage")
	}
}
