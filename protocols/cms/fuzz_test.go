package cms

import (
	"bytes"
	"crypto"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// seed adds the messages of testdata/cms, small hostile inputs, and with MUSTER_HOSTILE set to a folder the files in its
// subfolders.
func seed(f *testing.F) {
	f.Helper()
	paths, err := filepath.Glob(filepath.Join(vectors, "*.der"))
	if err != nil || len(paths) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	if dir := os.Getenv("MUSTER_HOSTILE"); dir != "" {
		more, err := filepath.Glob(filepath.Join(dir, "*", "*"))
		if err != nil || len(more) == 0 {
			f.Fatalf("nothing in %s: %v", dir, err)
		}
		paths = append(paths, more...)
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	for _, h := range hostile {
		f.Add([]byte(h.make(240)))
	}
	f.Add([]byte("\x30\x80\x23\x80\x03\x02\x00\xaa\x03\x02\x04\xf0\x00\x00\x2c\x80\x04\x01a\x00\x00\xbf\x1f\x80\x00\x00\x00\x00"))
}

func FuzzNormalize(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		before := bytes.Clone(data)
		steps, _, elements, _ := work(data, maxDepth)
		if steps > 3*elements+2 {
			t.Errorf("%d steps for %d elements", steps, elements)
		}
		der, err := Normalize(data, Limits{})
		if !bytes.Equal(data, before) {
			t.Fatal("the input is changed")
		}
		if err != nil {
			if Check(data, Limits{}) == nil {
				t.Errorf("refused, but DER: %v", err)
			}
			return
		}
		roomy := Limits{Size: maxSize}
		if err := Check(der, roomy); err != nil {
			t.Fatalf("the answer is not DER: %v", err)
		}
		again, err := Normalize(der, roomy)
		if err != nil || !bytes.Equal(again, der) {
			t.Errorf("the answer changes again: %v", err)
		}
		// The way back: the same message in the clumsiest BER gives the same DER.
		ber := clumsy(der, false)
		back, err := Normalize(ber, Limits{Depth: maxDepth, Elements: maxSize, Size: maxSize})
		if err != nil || !bytes.Equal(back, der) {
			t.Errorf("%x from BER is %x, %v", der, back, err)
		}
	})
}

// clumsy rewrites DER elements as BER: constructed ones with indefinite length, strings in segments, lengths padded.
// segment is set inside of what is a segment already.
func clumsy(der []byte, segment bool) []byte {
	var out []byte
	for len(der) > 0 {
		w := walker{data: der}
		h, err := w.header(0, len(der))
		if err != nil {
			panic(err)
		}
		id, body, rest := der[:h.id], der[h.body:h.body+h.length], der[h.body+h.length:]
		isString := h.class == classUniversal && h.id == 1 && (h.number == tagOctetString || h.number == 12 || h.number == 22)
		switch {
		case h.isOpen:
			out = append(out, id...)
			out = append(out, 0x80)
			out = append(out, clumsy(body, false)...)
			out = append(out, 0, 0)
		case isString && !segment && len(body) > 1:
			out = append(out, id[0]|constructedBit, 0x80)
			half := len(body) / 2
			out = append(out, clumsy([]byte(tlv(tagOctetString, string(body[:half]))), true)...)
			out = append(out, clumsy([]byte(tlv(tagOctetString, string(body[half:]))), true)...)
			out = append(out, 0, 0)
		default:
			out = append(out, id...)
			n := len(body)
			out = append(out, 0x85, 0, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
			out = append(out, body...)
		}
		der = rest
	}
	return out
}

func FuzzParseCertsOnly(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := ParseCertsOnly(data, Limits{})
		if err != nil || len(list) == 0 {
			return
		}
		built, err := CertsOnly(list...)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseCertsOnly(built, Limits{Size: maxSize, Elements: maxSize})
		if err != nil || len(again) != len(list) {
			t.Fatalf("%d certificates become %d, %v", len(list), len(again), err)
		}
		for i := range list {
			if !bytes.Equal(list[i], again[i]) {
				t.Errorf("certificate %d changes", i)
			}
		}
	})
}

func FuzzParseSigned(f *testing.F) {
	seed(f)
	p := newSigned(f)
	f.Add(p.sign().der())
	f.Add(clumsy(p.der(), false))
	ski := newSigned(f)
	ski.siVersion, ski.sid, ski.noAttrs = "\x02\x01\x03", tlv(0x80, string(ski.signer.cert.SubjectKeyId)), true
	f.Add(ski.sign().der())
	f.Fuzz(func(t *testing.T, data []byte) {
		before := bytes.Clone(data)
		s, err := ParseSigned(data, Limits{})
		if err != nil {
			var e *Error
			if s != nil || !errors.As(err, &e) || e.Offset < 0 || e.Offset > len(data) {
				t.Fatalf("%v, %v", s, err)
			}
			return
		}
		if len(s.Certificates) > maxParts || len(s.attributes) > maxParts {
			t.Errorf("%d certificates, %d attributes", len(s.Certificates), len(s.attributes))
		}
		accept := []crypto.Hash{crypto.MD5, crypto.SHA1, crypto.SHA256, crypto.SHA512}
		verified := s.Verify(accept)
		if verified == nil && (s.Content == nil || s.Signer == nil || s.Digest == crypto.MD5) {
			t.Error("verified")
		}
		_ = s.VerifyDetached(nil, accept)
		for _, a := range s.Attributes() {
			if v, ok := s.Attribute(a.Type); !ok || !bytes.Equal(v, a.Value) {
				t.Errorf("%v: %x, %v, want %x", a.Type, v, ok, a.Value)
			}
			StringValue(a.Value)
			OctetsValue(a.Value)
		}
		// The same message in other clothes is the same message.
		again, err := ParseSigned(clumsy(must(Normalize(data, Limits{})), false), Limits{Depth: maxDepth, Elements: maxSize, Size: maxSize})
		if err != nil || !bytes.Equal(again.Content, s.Content) || (again.Verify(accept) == nil) != (verified == nil) {
			t.Errorf("as BER: %v", err)
		}
		if !bytes.Equal(data, before) {
			t.Error("the input is changed")
		}
	})
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

func FuzzParseEnveloped(f *testing.F) {
	seed(f)
	p := rsaPair(f)
	key := strings.Repeat("k", 16)
	f.Add(newEnveloped(recipientInfo(p.cert, rsaTransport, wrapped(p.cert, key))).der())
	f.Add(clumsy(newEnveloped(recipientInfo(p.cert, algorithm(oidOAEP, tlv(0x30)), wrapped(p.cert, key))).der(), false))
	for _, c := range known {
		f.Add(must(Encrypt([]byte("hello"), p.cert, c)))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		before := bytes.Clone(data)
		e, err := ParseEnveloped(data, Limits{})
		if err != nil {
			var bad *Error
			if e != nil || !errors.As(err, &bad) || bad.Offset < 0 || bad.Offset > len(data) {
				t.Fatalf("%v, %v", e, err)
			}
			return
		}
		got, err := e.Decrypt(p.rsa(), p.cert)
		if got == nil || len(got) > max(len(e.ciphertext), 16) {
			t.Errorf("%d octets of %d", len(got), len(e.ciphertext))
		}
		if err != nil && !errors.Is(err, ErrDecrypt) {
			t.Error(err)
		}
		if err == nil && (!e.For(p.cert) || !e.Cipher.known()) {
			t.Error("decrypted")
		}
		if !bytes.Equal(data, before) {
			t.Error("the input is changed")
		}
	})
}
