package scep

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"math/big"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cms"
)

// With it, TestOracle measures too: go test -run Oracle -oracle.samples=10000 ./protocols/scep
var oracleSamples = flag.Int("oracle.samples", 0, "requests of each kind that TestOracle measures; 0: it compares answers only")

// oracleSpread is how far the medians may lie apart.
const oracleSpread = 50 * time.Microsecond

// oracleKinds are the envelopes of which a client must not learn what is wrong with them: first the four that matter
// most, by name.
func oracleKinds(w *world, csr []byte) map[string][]byte {
	key := bytes.Repeat([]byte{0x42}, 16)
	random := func(n int) []byte {
		b := make([]byte, n)
		rand.Read(b)
		return b
	}
	wrongSignature := tampered(bytes.Clone(csr))
	good := pad(csr, 16)
	// What is left of bad padding must not have the length of the request by chance: it would be parsed as one.
	longer := csr
	for name := "device-0001"; len(longer)%16 > 13; name += "x" {
		longer = makeCSR(deviceKey(), name, testChallenge, 0)
	}
	badPadding := pad(longer, 16)
	copy(badPadding[len(badPadding)-2:], []byte{7, 9})
	badLength := bytes.Clone(good)
	copy(badLength[len(badLength)-2:], []byte{7, 9})
	zeroPadding := bytes.Clone(good)
	zeroPadding[len(zeroPadding)-1] = 0
	weak := makeCSR(must(rsa.GenerateKey(rand.Reader, 1024)), "device-0001", testChallenge, 0)
	kinds := map[string][]byte{
		"bad PKCS#1 padding": envelope(w, block(1, key), key, good),
		"wrong key length":   envelope(w, block(2, key[:15]), key, good),
		"bad CBC padding":    envelope(w, block(2, key), key, badPadding),
		"undecodable CSR":    envelope(w, block(2, key), key, pad(random(len(csr)), 16)),

		"no PKCS#1 padding at all":     envelope(w, random(256), key, good),
		"a key twice as long":          envelope(w, block(2, append(key, key...)), key, good),
		"another session key":          envelope(w, block(2, random(16)), key, good),
		"bad CBC padding of one octet": envelope(w, block(2, key), key, badLength),
		"CBC padding of 0":             envelope(w, block(2, key), key, zeroPadding),
		"ciphertext not aligned":       envelope(w, block(2, key), key, good[:len(good)-3]),
		"no ciphertext":                envelope(w, block(2, key), key, nil),
		"encrypted key above modulus":  must(cms.Encrypt(csr, w.ca.ra, cms.AES128)),
		"empty content":                envelope(w, block(2, key), key, pad(nil, 16)),
		"CSR cut short":                envelope(w, block(2, key), key, pad(csr[:len(csr)-1], 16)),
		"CSR with more behind":         envelope(w, block(2, key), key, pad(append(bytes.Clone(csr), 0), 16)),
		"CSR signature wrong":          envelope(w, block(2, key), key, pad(wrongSignature, 16)),
		"CSR signed with SHA-1":        envelope(w, block(2, key), key, pad(must(sha1CSR()), 16)),
		"BER deep in the CSR":          envelope(w, block(2, key), key, pad(withAttribute(deviceKey(), csr, []int{1, 2, 3}, cbasn1.SEQUENCE, "\x30\x80\x00\x00"), 16)),
		"CSR key weak":                 envelope(w, block(2, key), key, pad(weak, 16)),
		"another recipient":            must(cms.Encrypt(csr, selfSigned(raKey()), cms.AES128)),
		"another key's CSR, tampered":  envelope(w, block(2, key), key, pad(tampered(makeCSR(otherKey(), "device-0001", "-", 0)), 16)),
		"EC CSR, tampered":             envelope(w, block(2, key), key, pad(tampered(makeCSR(newP256(), "device-0001", "-", 0)), 16)),
		"huge CSR, tampered":           envelope(w, block(2, key), key, pad(tampered(makeCSR(deviceKey(), strings.Repeat("d", 100_000), "-", 0)), 16)),
		"challenge of no characters in a CSR that is tampered": envelope(w, block(2, key), key, pad(tampered(makeCSR(deviceKey(), "device-0001", "", 0)), 16)),
		"BER in BER": envelope(w, block(2, key), key, pad([]byte("\x30\x80\x00\x00"), 16)),
	}
	kinds["encrypted key above modulus"] = replaceKey(kinds["encrypted key above modulus"], bytes.Repeat([]byte{0xff}, 256))
	return kinds
}

// tampered is a request whose signature no longer holds.
func tampered(csr []byte) []byte {
	csr[len(csr)-1] ^= 1
	return csr
}

func pad(b []byte, size int) []byte {
	n := size - len(b)%size
	return append(bytes.Clone(b), bytes.Repeat([]byte{byte(n)}, n)...)
}

// block is a block of RFC 8017 section 7.2.1 of the given type.
func block(kind byte, key []byte) []byte {
	b := bytes.Repeat([]byte{0xa5}, 256)
	b[0], b[1] = 0, kind
	copy(b[256-len(key)-1:], append([]byte{0}, key...))
	return b
}

// envelope makes an EnvelopedData of a block for the RA's key and of a plaintext that is padded already.
func envelope(w *world, block, key, plain []byte) []byte {
	pub := w.ca.ra.PublicKey.(*rsa.PublicKey)
	m := new(big.Int).Mod(new(big.Int).SetBytes(block), pub.N)
	encryptedKey := new(big.Int).Exp(m, big.NewInt(int64(pub.E)), pub.N).FillBytes(make([]byte, 256))
	iv := bytes.Repeat([]byte{3}, 16)
	ciphertext := bytes.Clone(plain)
	whole := ciphertext[:len(ciphertext)/16*16]
	cipher.NewCBCEncrypter(must(aes.NewCipher(key)), iv).CryptBlocks(whole, whole)
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier([]int{1, 2, 840, 113549, 1, 7, 3})
		b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1Int64(0)
				b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) {
					b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
						b.AddASN1Int64(0)
						b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
							b.AddBytes(w.ca.ra.RawIssuer)
							b.AddASN1BigInt(w.ca.ra.SerialNumber)
						})
						b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
							b.AddASN1ObjectIdentifier([]int{1, 2, 840, 113549, 1, 1, 1})
							b.AddASN1NULL()
						})
						b.AddASN1OctetString(encryptedKey)
					})
				})
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1ObjectIdentifier([]int{1, 2, 840, 113549, 1, 7, 1})
					b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
						b.AddASN1ObjectIdentifier([]int{2, 16, 840, 1, 101, 3, 4, 1, 2})
						b.AddASN1OctetString(iv)
					})
					b.AddASN1(cbasn1.Tag(0).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes(ciphertext) })
				})
			})
		})
	})
	return b.BytesOrPanic()
}

// replaceKey puts other bytes into the place of the one encryptedKey of 256 bytes.
func replaceKey(envelope, key []byte) []byte {
	i := bytes.Index(envelope, []byte{4, 0x82, 1, 0}) + 4
	return append(append(bytes.Clone(envelope[:i]), key...), envelope[i+256:]...)
}

// Whatever is wrong between RecipientInfo and a request whose signature holds: one answer, and the same work.
// RFC 8894 sections 3.1 and 7.
func TestOracle(t *testing.T) {
	w := newWorld(t, worldOptions{quiet: *oracleSamples > 0})
	csr := makeCSR(deviceKey(), "device-0001", testChallenge, 0)
	signer := selfSigned(deviceKey())
	messages := map[string][]byte{}
	for name, e := range oracleKinds(w, csr) {
		messages[name] = w.message(wish{signer: signer, envelope: func([]byte) []byte { return e }})
	}
	// The envelopes are made as sound ones are.
	key := bytes.Repeat([]byte{0x42}, 16)
	sound := w.message(wish{signer: signer, envelope: func([]byte) []byte { return envelope(w, block(2, key), key, pad(csr, 16)) }})
	if a := w.read(t, w.post("/scep", sound), deviceKey(), signer); a.status != "0" {
		t.Fatalf("a sound envelope: %+v", a)
	}

	if n := len(w.paused()); n != 0 {
		t.Errorf("a sound envelope waited %d times", n)
	}

	var want []byte
	for name, message := range messages {
		waited := len(w.paused())
		got := w.post("/scep", message)
		if p := w.paused(); len(p) != waited+1 || p[waited] <= 0 || p[waited] > undecryptableAfter {
			t.Errorf("%s: waited %v, %d times before", name, p, waited)
		}
		a := w.read(t, got, nil, nil)
		if a.status != "2" || a.failInfo != "2" || a.text != undecryptable {
			t.Errorf("%s: %+v", name, a)
		}
		r := w.gateway.lastRejected(t)
		if r.err.Reason != gateway.Undecryptable || r.err.Err == nil || r.request.CSR != nil || r.request.Subject != nil {
			t.Errorf("%s: %+v", name, r.err)
		}
		rest := stripped(got.body, a)
		if want == nil {
			want = rest
		}
		if !bytes.Equal(rest, want) {
			t.Errorf("%s: another answer than the others\n%x\n%x", name, rest, want)
		}
		byGet := w.get("/scep?operation=PKIOperation&message=" + base64.RawURLEncoding.EncodeToString(message))
		if !bytes.Equal(stripped(byGet.body, w.read(t, byGet, nil, nil)), want) || len(w.paused()) != waited+2 {
			t.Errorf("%s: another answer by GET", name)
		}
		header := fmt.Sprint(got.Header, got.StatusCode)
		if header != fmt.Sprint(w.post("/scep", messages["bad CBC padding"]).Header, 200) {
			t.Errorf("%s: other headers: %s", name, header)
		}
	}
	if len(w.gateway.allEnrolled()) != 1 {
		t.Error("the gateway was asked")
	}
	if *oracleSamples > 0 {
		measureOracle(t, w, messages)
	}
}

// The work is counted, not timed: whatever is wrong, one request comes as far as the verification of its signature, as a sound one
// does. What the decryption does before is counted in protocols/cms.
func TestOracleWork(t *testing.T) {
	w := newWorld(t, worldOptions{})
	csr, signer := makeCSR(deviceKey(), "device-0001", testChallenge, 0), selfSigned(deviceKey())
	key := bytes.Repeat([]byte{0x42}, 16)
	kinds := oracleKinds(w, csr)
	kinds["a sound envelope"] = envelope(w, block(2, key), key, pad(csr, 16))
	for name, e := range kinds {
		verified := 0
		w.handler.readCSR = func(der []byte, judges []pkix.Option) (*pkix.CSR, error) {
			csr, err := readCSR(der, judges)
			if err == nil || errors.Is(err, pkix.ErrSignature) {
				verified++
			}
			return csr, err
		}
		w.post("/scep", w.message(wish{signer: signer, envelope: func([]byte) []byte { return e }}))
		if verified != 1 {
			t.Errorf("%s: %d signatures of requests were verified", name, verified)
		}
	}
}

// stripped is an answer without what is new in each: nonce and signature. There is no time in it.
func stripped(body []byte, a answer) []byte {
	body = bytes.Replace(bytes.Clone(body), a.senderNonce, make([]byte, 16), 1)
	clear(body[len(body)-raKey().Size():])
	return body
}

// measureOracle compares the medians of interleaved requests, the four kinds that matter most against each other.
func measureOracle(t *testing.T, w *world, messages map[string][]byte) {
	names := []string{"bad PKCS#1 padding", "wrong key length", "bad CBC padding", "undecodable CSR", "CSR signature wrong"}
	took := map[string][]time.Duration{}
	for i := range *oracleSamples {
		for j := range names {
			name := names[(i+j)%len(names)]
			r := httptest.NewRequest("POST", "/scep?operation=PKIOperation", bytes.NewReader(messages[name]))
			rec := httptest.NewRecorder()
			start := time.Now()
			w.router.ServeHTTP(rec, r)
			took[name] = append(took[name], time.Since(start))
		}
		w.gateway.mu.Lock()
		w.gateway.rejected = w.gateway.rejected[:0]
		w.gateway.mu.Unlock()
	}
	var low, high time.Duration
	for i, name := range names {
		slices.Sort(took[name])
		median := took[name][len(took[name])/2]
		t.Logf("%-20s median of %d: %v (quartiles %v, %v)", name, len(took[name]), median, took[name][len(took[name])/4], took[name][len(took[name])*3/4])
		if i == 0 || median < low {
			low = median
		}
		high = max(high, median)
	}
	if high-low > oracleSpread {
		t.Errorf("medians lie %v apart, want at most %v", high-low, oracleSpread)
	}
}

// The sender chooses the keys, and with them what a verification costs: the refusal goes out at a time that does not
// depend on it.
// RFC 8894 section 7.
func TestRefusalTime(t *testing.T) {
	for took, want := range map[time.Duration]time.Duration{
		-1: 50 * time.Millisecond, 0: 50 * time.Millisecond, time.Millisecond: 49 * time.Millisecond, 49999 * time.Microsecond: time.Microsecond,
		50 * time.Millisecond: 50 * time.Millisecond, 51 * time.Millisecond: 49 * time.Millisecond, time.Second + 1: 50*time.Millisecond - 1,
	} {
		if got := untilNext(took); got != want {
			t.Errorf("after %v: %v, want %v", took, got, want)
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	pause(gone, time.Hour) // or the test never ends
	pause(t.Context(), 1)
}

// The stand-in for a request that cannot be had costs what a request does: it is read as far as its signature.
func TestStandIn(t *testing.T) {
	for _, bits := range []int{2048, 3072} {
		key := deviceKey()
		if bits != 2048 {
			key = must(rsa.GenerateKey(rand.Reader, bits))
		}
		der := must(standIn(&key.PublicKey, selfSigned(key).RawSubjectPublicKeyInfo))
		csr, err := readCSR(der, nil)
		if csr == nil || err == nil || !strings.Contains(err.Error(), "signature does not verify") {
			t.Errorf("%d bits: %v, %v", bits, csr, err)
		}
	}
}
