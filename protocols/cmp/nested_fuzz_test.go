package cmp

import (
	"testing"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
	"github.com/muster-pki/muster/protocols/cms"
)

// FuzzNested: whatever an RA passes on, alone and in a batch, is answered with a protected message.
func FuzzNested(f *testing.F) {
	w := newWorld(f, worldOptions{})
	ra, device := w.ra("LRA", false), w.macClient("ref-1")
	ir := device.message(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(f))
	for _, der := range [][]byte{ir, ra.nest(ir, nil), ra.nestAll([][]byte{ir, ir}, nil), device.message(&cmpmsg.PKIConf{}), element(0x30)} {
		f.Add(der)
	}
	f.Fuzz(func(t *testing.T, inner []byte) {
		content := cryptobyte.String(inner)
		var one cryptobyte.String
		if len(inner) > 30000 || !content.ReadASN1(&one, cbasn1.SEQUENCE) || !content.Empty() || cms.Check(inner, cms.Limits{Depth: 20}) != nil {
			return // parsed, and refused, as one with the message around it
		}
		w.t, w.gateway.t = t, t
		ra.txid, ra.peer = random(16), nil
		for _, der := range [][]byte{ra.nest(inner, nil), ra.nestAll([][]byte{inner, device.message(&cmpmsg.PKIConf{})}, nil)} {
			m, err := cmpmsg.Parse(w.post(der))
			if err != nil || m.Protection == nil {
				t.Fatalf("%v", err)
			}
			if fail, text, _ := failure(m); fail == cmpmsg.SystemFailure {
				t.Fatalf("%s\n%s", text, w.log)
			}
		}
	})
}
