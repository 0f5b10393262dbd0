package cms

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// work walks data as Normalize does, without limits on elements and size, and returns the steps it took and the bytes
// that it wrote.
func work(data []byte, depth int) (steps, written, elements int, err error) {
	l := Limits{Depth: depth, Elements: 1 << 28, Size: 1 << 28}
	w := walker{data: data, limits: l.orDefault(), record: true}
	if err = w.walk(); err == nil && !w.nodes[0].exact {
		written = len(w.emit())
	}
	return w.steps, written, w.elements, err
}

// hostile makes inputs of about n bytes that cost naive readers quadratic time, memory or their stack.
var hostile = []struct {
	name string
	make func(n int) string
	want error // of Normalize with default limits, at 160 KB
}{
	{"nested indefinite, open", func(n int) string { return strings.Repeat("\x30\x80", n/2) }, ErrLimit},
	{"nested indefinite, closed", func(n int) string {
		return strings.Repeat("\x30\x80", n/4) + strings.Repeat("\x00\x00", n/4)
	}, ErrLimit},
	{"nested strings, open", func(n int) string { return strings.Repeat("\x24\x80", n/2) }, ErrLimit},
	{"nested context tags", func(n int) string { return strings.Repeat("\xa0\x80", n/2) }, ErrLimit},
	{"31 deep around many", func(n int) string {
		return strings.Repeat("\x30\x80", 31) + strings.Repeat("\x05\x00", n/2) + strings.Repeat("\x00\x00", 31)
	}, ErrLimit},
	{"towers of 30 side by side", func(n int) string {
		tower := strings.Repeat("\x30\x80", 30) + strings.Repeat("\x00\x00", 30)
		return "\x30\x80" + strings.Repeat(tower, n/120) + "\x00\x00"
	}, ErrLimit},
	{"segments of one byte", func(n int) string { return "\x24\x80" + strings.Repeat("\x04\x01a", n/3) + "\x00\x00" }, ErrLimit},
	{"segments of nothing", func(n int) string { return "\x24\x80" + strings.Repeat("\x04\x00", n/2) + "\x00\x00" }, ErrLimit},
	{"encryptedContent in bytes", func(n int) string {
		return "\x30\x80\x06\x01\x2a\x30\x00\xa0\x80" + strings.Repeat("\x04\x01a", n/3) + "\x00\x00\x00\x00"
	}, ErrLimit},
	{"many empty SETs", func(n int) string { return "\x30\x80" + strings.Repeat("\x31\x80\x00\x00", n/4) + "\x00\x00" }, ErrLimit},
	{"padded lengths", func(n int) string {
		return "\x30\x80" + strings.Repeat("\x04\x88\x00\x00\x00\x00\x00\x00\x00\x01a", n/11) + "\x00\x00"
	}, nil},
	{"huge length", func(n int) string { return "\x30\x84\x7f\xff\xff\xff" + strings.Repeat("\x05\x00", n/2) }, ErrSyntax},
	{"huge lengths inside", func(n int) string {
		return "\x30\x80" + strings.Repeat("\x04\x84\x7f\xff\xff\xff", n/6)
	}, ErrSyntax},
	{"tag numbers without end", func(n int) string { return "\x3f" + strings.Repeat("\xff", n) }, ErrSyntax},
	{"zeros", func(n int) string { return strings.Repeat("\x00", n) }, ErrSyntax},
	{"indefinite around one large string", func(n int) string {
		return strings.Repeat("\x30\x80", 31) + tlv(4, strings.Repeat("a", n)) + strings.Repeat("\x00\x00", 31)
	}, nil},
	{"cut inside a string", func(n int) string { return tlv(0x30, tlv(4, strings.Repeat("a", n)))[:n/2] }, ErrSyntax},
	{"one byte at a time out of step", func(n int) string { return "\x30\x80" + strings.Repeat("\x04\x03\x30\x80\x04", n/5) + "\x00\x00" }, ErrLimit},
}

// Work is counted, not timed: at most two visits of an element, one more for each end, and no element costs more than
// its bytes. Depth is not limited here beyond what is built in, so the limits are not what saves it.
func TestWorkIsLinear(t *testing.T) {
	for _, h := range hostile {
		t.Run(h.name, func(t *testing.T) {
			for _, n := range []int{1 << 10, 20 << 10, 160 << 10, 640 << 10} {
				data := []byte(h.make(n))
				steps, written, elements, _ := work(data, maxDepth)
				if elements > len(data)/2+1 {
					t.Errorf("%d elements in %d bytes", elements, len(data))
				}
				if limit := 3*elements + 2; steps > limit {
					t.Errorf("%d bytes: %d steps for %d elements, want at most %d", len(data), steps, elements, limit)
				}
				if written > len(data)+maxDepth {
					t.Errorf("%d bytes become %d", len(data), written)
				}
			}
			if _, err := Normalize([]byte(h.make(160<<10)), Limits{}); !errors.Is(err, h.want) {
				t.Errorf("160 KB: %v, want %v", err, h.want)
			}
		})
	}
}

// What a hostile input makes the guard allocate is bounded by the element limit and the size of the input.
func TestMemoryIsBounded(t *testing.T) {
	for _, h := range hostile {
		data := []byte(h.make(DefaultSize - 256))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _ = Normalize(data, Limits{})
		runtime.ReadMemStats(&after)
		// A record of 16384 elements, grown by doubling, and one copy of the input.
		if used := after.TotalAlloc - before.TotalAlloc; used > 4<<20 {
			t.Errorf("%s: %d bytes allocated for %d", h.name, used, len(data))
		}
		if allocs := testing.AllocsPerRun(5, func() { _ = Check(data, Limits{}) }); allocs > 2 {
			t.Errorf("%s: Check allocates %v times", h.name, allocs)
		}
	}
}

// A cut anywhere in a sound message is refused, by both calls.
func TestTruncated(t *testing.T) {
	for _, name := range []string{"enveloped-ber.der", "certs-only-openssl.der"} {
		data := read(t, name)
		for n := range data {
			if _, err := Normalize(data[:n], Limits{}); !errors.Is(err, ErrSyntax) {
				t.Fatalf("%s cut to %d bytes: %v", name, n, err)
			}
			if err := Check(data[:n], Limits{}); err == nil {
				t.Fatalf("%s cut to %d bytes passes Check", name, n)
			}
		}
	}
}

// Any single byte changed gives an error or sound DER, never a panic.
func TestEveryByteChanged(t *testing.T) {
	data := read(t, "signed-ber.der")
	for i := range data {
		old := data[i]
		for _, b := range []byte{0, 0x7f, 0x80, 0xff, old ^ 0x20, old ^ 1} {
			data[i] = b
			if der, err := Normalize(data, Limits{}); err == nil {
				if err := Check(der, Limits{Size: maxSize}); err != nil {
					t.Fatalf("byte %d set to %#x: %v", i, b, err)
				}
			}
		}
		data[i] = old
	}
}

func BenchmarkNormalize(b *testing.B) {
	for _, name := range []string{"certs-only-openssl.der", "enveloped.der", "enveloped-ber.der", "signed-ber.der"} {
		data := read(b, name)
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Normalize(data, Limits{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	for _, h := range hostile {
		data := []byte(h.make(160 << 10))
		b.Run(fmt.Sprintf("160KB %s", h.name), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = Normalize(data, Limits{Elements: 1 << 20})
			}
		})
	}
}

func BenchmarkCheck(b *testing.B) {
	data := read(b, "certs-only-openssl.der")
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if err := Check(data, Limits{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCertsOnly(b *testing.B) {
	cert := readPEM(b, "cert.pem")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := CertsOnly(cert); err != nil {
			b.Fatal(err)
		}
	}
}

// hostileMessages are messages that are sound to the guard and dear to the parsers behind it, near the default limits.
func hostileMessages(t testing.TB) map[string]string {
	p := rsaPair(t)
	key := strings.Repeat("k", 16)
	signed := func(edit func(p *signedParts)) string {
		s := newSigned(t)
		s.sign()
		edit(s)
		return string(s.der())
	}
	enveloped := func(edit func(e *envelopedParts)) string {
		e := newEnveloped(recipientInfo(p.cert, rsaTransport, wrapped(p.cert, key)))
		edit(e)
		return string(e.der())
	}
	many := func(element string, size int) string { return strings.Repeat(element, size/len(element)) }
	long := strings.Repeat("\x01", 200<<10)
	cert := string(p.cert.Raw)
	return map[string]string{
		"many certificates":    signed(func(p *signedParts) { p.certificates = tlv(0xa0, many(cert, 200<<10)) }),
		"many odd ones":        signed(func(p *signedParts) { p.certificates = tlv(0xa0, many(tlv(0x30), 30<<10)) }),
		"a long certificate":   signed(func(p *signedParts) { p.certificates = tlv(0xa0, tlv(0x30, tlv(0x30, tlv(2, long)))) }),
		"many attributes":      signed(func(p *signedParts) { p.attrs = manyAttributes(5000) }),
		"many values":          signed(func(p *signedParts) { p.attrs = []string{attributeDER(transactionID, many(null, 30<<10))} }),
		"a long attribute":     signed(func(p *signedParts) { p.attrs = []string{attributeDER(transactionID, tlv(4, long))} }),
		"a long type":          signed(func(p *signedParts) { p.attrs = []string{tlv(0x30, tlv(6, long), tlv(0x31, null))} }),
		"a long serial number": signed(func(p *signedParts) { p.sid = tlv(0x30, tlv(0x30), tlv(2, long)) }),
		"a long issuer":        signed(func(p *signedParts) { p.sid = tlv(0x30, tlv(0x30, many(null, 30<<10)), "\x02\x01\x01") }),
		"a long algorithm":     signed(func(p *signedParts) { p.digestAlgorithm = tlv(0x30, tlv(6, long)) }),
		"a long signature":     signed(func(p *signedParts) { p.signature = tlv(4, long) }),
		"many signers":         signed(func(p *signedParts) { p.moreSigners = many(tlv(0x30), 30<<10) }),
		"many recipients":      enveloped(func(e *envelopedParts) { e.recipients = []string{many(tlv(0x30, "\x02\x01\x00"), 50<<10)} }),
		"many other ones":      enveloped(func(e *envelopedParts) { e.recipients = []string{many(tlv(0xa1), 30<<10)} }),
		"a long encryptedKey":  enveloped(func(e *envelopedParts) { e.recipients = []string{recipientInfo(p.cert, rsaTransport, long)} }),
		"a long rid": enveloped(func(e *envelopedParts) {
			e.recipients = []string{tlv(0x30, "\x02\x01\x00", tlv(0x30, tlv(0x30), tlv(2, long)), rsaTransport, tlv(4))}
		}),
		"a long IV":      enveloped(func(e *envelopedParts) { e.cipher = algorithm(ciphers[AES128].oid, tlv(4, long)) }),
		"a long content": enveloped(func(e *envelopedParts) { e.content = tlv(0x80, long) }),
		"3DES": enveloped(func(e *envelopedParts) {
			e.cipher = algorithm(ciphers[TripleDES].oid, tlv(4, "8 octets"))
			e.content = tlv(0x80, long)
		}),
	}
}

// Behind the guard, memory stays in proportion to the input, and nothing panics. What passes is verified or decrypted.
func TestHostileMessages(t *testing.T) {
	p := rsaPair(t)
	inputs := hostileMessages(t)
	for _, h := range hostile {
		inputs[h.name] = h.make(200 << 10)
		// In the places of content, certificates, attributes and encryptedContent.
		s := newSigned(t)
		s.sign().certificates = tlv(0xa0, h.make(100<<10))
		inputs[h.name+" for certificates"] = string(s.der())
		s = newSigned(t)
		s.sign().attrs = []string{attributeDER(transactionID, h.make(100<<10))}
		inputs[h.name+" for an attribute"] = string(s.der())
		e := newEnveloped(recipientInfo(p.cert, rsaTransport, ""))
		e.content = tlv(0xa0, h.make(100<<10))
		inputs[h.name+" for encryptedContent"] = string(e.der())
	}
	for name, input := range inputs {
		data := []byte(input)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		s, err := ParseSigned(data, Limits{})
		if err == nil {
			err = s.Verify(sha2)
		}
		if err == nil {
			t.Errorf("%s: verified", name)
		}
		e, err2 := ParseEnveloped(data, Limits{})
		if err2 == nil {
			_, err2 = e.Decrypt(p.rsa(), p.cert)
		}
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; used > 8<<20 {
			t.Errorf("%s: %d bytes allocated for %d", name, used, len(data))
		}
		for _, err := range []error{err, err2} {
			if err != nil && !errors.Is(err, ErrSyntax) && !errors.Is(err, ErrLimit) && !errors.Is(err, ErrSignature) && !errors.Is(err, ErrDecrypt) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// A cut anywhere in a sound message is refused, by both parsers.
func TestTruncatedMessages(t *testing.T) {
	signed, enveloped := read(t, "signed-ber.der"), read(t, "enveloped.der")
	for n := range signed {
		if _, err := ParseSigned(signed[:n], Limits{}); !errors.Is(err, ErrSyntax) {
			t.Fatalf("SignedData cut to %d bytes: %v", n, err)
		}
	}
	for n := range enveloped {
		if _, err := ParseEnveloped(enveloped[:n], Limits{}); !errors.Is(err, ErrSyntax) {
			t.Fatalf("EnvelopedData cut to %d bytes: %v", n, err)
		}
	}
}

// No byte of what is signed can be changed: the signature does not verify, or says the same.
func TestEveryByteOfSigned(t *testing.T) {
	p := newSigned(t)
	der := p.sign().der()
	attrs := tlv(0xa0, p.attrs...)
	for _, part := range []string{p.eContent, attrs, p.signature} {
		at := strings.Index(string(der), part)
		for i := at; i < at+len(part); i++ {
			for _, flip := range []byte{1, 0x20, 0x80} {
				der[i] ^= flip
				if s, err := ParseSigned(der, Limits{}); err == nil && s.Verify(sha2) == nil {
					t.Errorf("byte %d ^ %#x verifies", i, flip)
				}
				der[i] ^= flip
			}
		}
	}
}

func BenchmarkHostile(b *testing.B) {
	p := rsaPair(b)
	for name, input := range hostileMessages(b) {
		data := []byte(input)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if s, err := ParseSigned(data, Limits{}); err == nil {
					_ = s.Verify(sha2)
				}
				if e, err := ParseEnveloped(data, Limits{}); err == nil {
					_, _ = e.Decrypt(p.rsa(), p.cert)
				}
			}
		})
	}
}
