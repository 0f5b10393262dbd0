package cmpmsg

import (
	"runtime"
	"strings"
	"testing"

	"github.com/muster-pki/muster/protocols/cms"
)

func BenchmarkParse(b *testing.B) {
	for _, name := range []string{"ir-pbm", "ir-sig", "ip-pbm", "certconf-pbm"} {
		data := read(b, name)
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Parse(data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkProtect(b *testing.B) {
	m := parsed(b, "ip-pbm")
	strip(m)
	b.ReportAllocs()
	for b.Loop() {
		again(b, m)
	}
}

// large are messages as large as the guard lets them be, each with much of one thing.
func large() map[string]string {
	const n = cms.DefaultSize - 512
	fill := func(element string) string { return strings.Repeat(element, n/len(element)) }
	return map[string]string{
		"texts":       seq(header(tlv(0xa7, seq(strings.Repeat(utf(strings.Repeat("a", 4000)), 32)))), conf),
		"empty texts": seq(header(tlv(0xa7, seq(strings.Repeat(utf(""), 8000)))), conf),
		"RDNs":        seq(seq(integer(2), nullDN, tlv(0xa4, seq(strings.Repeat(cn, 4000)))), conf),
		"infos":       seq(header(tlv(0xa8, seq(strings.Repeat(seq("\x06\x01\x2a", "\x9f\x24"+tlv(4, strings.Repeat("a", 3900))[1:]), 64)))), conf),
		"requests":    body(TypeIR, seq(strings.Repeat(seq(seq(integer(0), seq(tlv(0xa5, seq(strings.Repeat(cn, 32)))))), 64))),
		"integers":    body(TypePOPDecR, seq(strings.Repeat(tlv(2, strings.Repeat("\x01", 1000)), 64))),
		"OIDs":        body(TypeGenM, seq(strings.Repeat(seq(tlv(6, strings.Repeat("\x01", 64))), 64))),
		"one OID":     body(TypeGenM, seq(seq(tlv(6, fill("\x01"))))),
		"one INTEGER": body(TypePOPDecR, seq(tlv(2, fill("\x01")))),
		"extraCerts":  seq(header(), conf, tlv(0xa1, seq(strings.Repeat(seq(tlv(4, strings.Repeat("a", 16000))), 16)))),
		"nested":      body(TypeNested, seq(strings.Repeat(seq(tlv(4, strings.Repeat("a", 4000))), 64))),
		"extensions":  template(tlv(0xa9, strings.Repeat(seq("\x06\x01\x2a", tlv(4, strings.Repeat("a", 8000))), 32))),
		"key":         template(tlv(0xa6, anAlg, tlv(3, fill("\x00")))),
		"failInfo":    answer(integer(0), seq(integer(2), tlv(3, fill("\x00")))),
	}
}

// What a message makes the parser allocate is a small multiple of its size.
func TestMemoryIsBounded(t *testing.T) {
	for name, der := range large() {
		if len(der) > cms.DefaultSize {
			t.Errorf("%s is too large for the guard: %d", name, len(der))
		}
		data := []byte(der)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _ = Parse(data)
		runtime.ReadMemStats(&after)
		if used, limit := after.TotalAlloc-before.TotalAlloc, uint64(8*len(data)+64<<10); used > limit {
			t.Errorf("%s: %d bytes allocated for %d", name, used, len(data))
		}
	}
}

func BenchmarkLarge(b *testing.B) {
	for name, der := range large() {
		data := []byte(der)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = Parse(data)
			}
		})
	}
}
