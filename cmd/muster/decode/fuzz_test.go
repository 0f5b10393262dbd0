package decode

import (
	"bytes"
	"crypto/rsa"
	"os"
	"path/filepath"
	"testing"

	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
	"github.com/muster-pki/muster/protocols/cms"
)

// FuzzDecode: whatever a file holds, the view neither panics nor has a character that does more than stand there.
func FuzzDecode(f *testing.F) {
	w, s := decodeWorld(f), scepWorld(f)
	f.Add(w.ir(f))
	f.Add(w.maced(f, w.mac, w.request(f, cmpmsg.TypeKUR)))
	f.Add(w.plain(f, &cmpmsg.Nested{Messages: [][]byte{w.ir(f)}}))
	f.Add(w.plain(f, &cmpmsg.RevReq{Details: []cmpmsg.RevDetails{{Certificate: cmpmsg.CertTemplate{Subject: w.ca.RawSubject}}}}))
	f.Add(w.plain(f, &cmpmsg.General{Kind: cmpmsg.TypeGenP, Info: []cmpmsg.InfoTypeAndValue{{Type: cmpmsg.OIDRootCACert, Value: w.ca.Raw}}}))
	f.Add(s.request(f))
	f.Add(s.encrypted(f, s.csr(f), cms.AES128))
	f.Add(s.csr(f))
	f.Add([]byte{})
	f.Add([]byte("-----BEGIN A-----\n-----END A-----\n"))
	f.Add([]byte("\x30\x80\x24\x80\x04\x01a\x00\x00\x00\x00"))
	files, err := filepath.Glob(filepath.Join("..", "..", "..", "testdata", "c[m]*", "*.der"))
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d := &decoder{secret: []byte("x"), keys: []*rsa.PrivateKey{s.raKey}, file: "f"}
		show := func(n *node) {
			var out bytes.Buffer
			if err := n.render(&out); err != nil {
				t.Fatal(err)
			}
			assertPrintable(t, out.String())
		}
		messages, err := unwrap(append([]byte{}, data...))
		if err != nil {
			messages = []captured{{der: data}}
		}
		for _, m := range messages {
			show(d.cmpMessage(m.der, "", 0))
			show(d.scepMessage(m.der))
			// Parts that a sound message leads to, each by itself.
			part := &node{label: "part"}
			d.addCSR(part, "csr", m.der)
			addCertificate(part, "certificate", m.der)
			addCRL(part, "crl", m.der)
			addKey(part, "key", m.der)
			d.encryptedKey(part, "key", m.der)
			outline(part, "outline", m.der)
			d.brokenOutline(part, m.der, 0)
			part.add(generalNames(m.der), keyIDText(m.der))
			show(part)
		}
		for _, err := range d.faults {
			assertPrintable(t, err.Error())
		}
	})
}
