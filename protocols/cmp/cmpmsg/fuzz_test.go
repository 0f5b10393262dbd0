package cmpmsg

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/muster-pki/muster/protocols/cms"
)

// seed adds the messages of testdata/cmp, those of the tables, one of every body, and with MUSTER_HOSTILE set to a folder
// the files in its subfolders.
func seed(f *testing.F) {
	f.Helper()
	for _, m := range messages {
		f.Add(read(f, m.name))
	}
	for _, m := range malformed {
		if len(m.der) < 1024 {
			f.Add([]byte(m.der))
		}
	}
	for _, b := range bodies() {
		o := Outgoing{Header: Header{PVNO: 3, Sender: []byte(nullDN), Recipient: []byte(dirGN)}, Body: b}
		der, err := o.Protect(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der)
	}
	if dir := os.Getenv("MUSTER_HOSTILE"); dir != "" {
		paths, err := filepath.Glob(filepath.Join(dir, "*", "*"))
		if err != nil || len(paths) == 0 {
			f.Fatalf("nothing in %s: %v", dir, err)
		}
		for _, path := range paths {
			b, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
}

func FuzzParse(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		before := bytes.Clone(data)
		m, err := Parse(data)
		if !bytes.Equal(data, before) {
			t.Fatal("the input is changed")
		}
		var e *Error
		if err != nil {
			if !errors.As(err, &e) || e.Offset < 0 || e.Offset > len(data) || e.What == "" || e.Err == nil {
				t.Fatalf("%#v", err)
			}
			if e.Body != (m != nil) {
				t.Fatalf("%v with message %v", err, m)
			}
		}
		if m == nil {
			Remains(data)
			return
		}
		if id, nonce := Remains(data); !bytes.Equal(id, m.Header.TransactionID) || !bytes.Equal(nonce, m.Header.SenderNonce) {
			t.Errorf("what remains: %x, %x", id, nonce)
		}
		// ProtectedPart is the beginning of the message under a header of its own.
		part := m.Protected()
		if err := cms.Check(part, cms.Limits{}); err != nil {
			t.Fatalf("ProtectedPart: %v", err)
		}
		if !bytes.HasSuffix(part, append(bytes.Clone(m.RawHeader), m.RawBody...)) || !bytes.Contains(data, append(bytes.Clone(m.RawHeader), m.RawBody...)) {
			t.Error("ProtectedPart is something else")
		}
		if err == nil {
			stable(t, m)
		}
	})
}

// stable encodes a message anew, with and without the raw bytes in it, and wants the same to come back.
func stable(t *testing.T, m *Message) {
	t.Helper()
	if (m.Header.ProtectionAlg == nil) != (m.Protection == nil) {
		return // cannot be made
	}
	for range 2 {
		der := again(t, m)
		back, err := Parse(der)
		if err != nil {
			t.Fatalf("%x: %v", der, err)
		}
		strip(back)
		want, err := Parse(m.Raw)
		if err != nil {
			t.Fatal(err)
		}
		strip(want)
		equal(t, "message", back, want)
		raw := m.Raw
		strip(m)
		m.Raw = raw
	}
}

// FuzzMAC parses the input as parameters of each MAC, and as every value there is.
func FuzzMAC(f *testing.F) {
	for _, v := range values() {
		for _, der := range append(v.good, v.bad...) {
			f.Add([]byte(der))
		}
	}
	for _, name := range []string{"ir-pbm", "cr-pbm-sha1", "cr-pbm-sha512"} {
		f.Add(parsed(f, name).Header.ProtectionAlg.Parameters)
	}
	f.Add([]byte(seq(seq(oidPBKDF2, seq(tlv(4, "salt"), integer(100), integer(32), seq(oidHMAC256, null))), seq(oidHMAC256, null))))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, a := range []AlgorithmIdentifier{{OID: OIDPasswordBasedMac, Parameters: data}, {OID: OIDPBMAC1, Parameters: data}} {
			m, err := ParseMAC(&a, MACPolicy{AllowSHA1: true})
			if err != nil {
				if !errors.Is(err, ErrAlgorithm) {
					t.Fatal(err)
				}
				continue
			}
			if m.iterations < minIterations || m.iterations > maxPBMIterations || m.pbmac1 && m.iterations > maxPBKDF2 || len(m.salt) > maxSalt {
				t.Errorf("%+v", m)
			}
			// Same salt again: same MAC, from an encoding of our own.
			other := m.Again(m.salt).Algorithm()
			back, err := ParseMAC(&other, MACPolicy{AllowSHA1: true})
			if err != nil {
				t.Fatal(err)
			}
			if m.iterations < 1000 && !back.Verify(secret, data, m.Sum(secret, data)) {
				t.Error("another MAC after encoding")
			}
		}
		for _, v := range values() {
			der, err := v.again(data)
			var e *Error
			switch {
			case err == nil:
				if again, err := v.again(der); err != nil || !bytes.Equal(again, der) {
					t.Errorf("%s: %x becomes %x, %v", v.name, der, again, err)
				}
			case !errors.As(err, &e):
				t.Errorf("%s: %v", v.name, err)
			}
		}
		DirectoryName(data)
		GeneralDirectoryName(data)
	})
}
