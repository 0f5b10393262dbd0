//go:build bench

package bench

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/mlkem"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// operations are the cryptographic ones of which a server's work is made, each run so many times on a thread of its own.
type operations struct {
	rsa    *rsa.PrivateKey
	sealed []byte
	sRSA   []byte
	p256   *ecdsa.PrivateKey
	sP256  []byte
	x25519 *ecdh.PublicKey
	mlkem  []byte
	mac    *cmpmsg.MAC
	digest [sha256.Size]byte
	t      testing.TB
}

func newOperations(t testing.TB) *operations {
	t.Helper()
	o := &operations{t: t, digest: sha256.Sum256([]byte("to be signed"))}
	var err error
	ok := func() {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	o.rsa, err = rsa.GenerateKey(rand.Reader, 2048)
	ok()
	//lint:ignore SA1019 RFC 8894 clients know no other key transport
	o.sealed, err = rsa.EncryptPKCS1v15(rand.Reader, &o.rsa.PublicKey, make([]byte, 16))
	ok()
	o.sRSA, err = rsa.SignPKCS1v15(nil, o.rsa, crypto.SHA256, o.digest[:])
	ok()
	o.p256, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ok()
	o.sP256, err = o.p256.Sign(rand.Reader, o.digest[:], crypto.SHA256)
	ok()
	peer, err := ecdh.X25519().GenerateKey(rand.Reader)
	ok()
	o.x25519 = peer.PublicKey()
	decapsulation, err := mlkem.GenerateKey768()
	ok()
	o.mlkem = decapsulation.EncapsulationKey().Bytes()
	o.mac, err = cmpmsg.NewPBM(crypto.SHA256, crypto.SHA256, 500, make([]byte, 16))
	ok()
	return o
}

func (o *operations) signRSA() { o.check(rsa.SignPKCS1v15(nil, o.rsa, crypto.SHA256, o.digest[:])) }
func (o *operations) verifyRSA() {
	o.ok(rsa.VerifyPKCS1v15(&o.rsa.PublicKey, crypto.SHA256, o.digest[:], o.sRSA))
}
func (o *operations) signP256() { o.check(o.p256.Sign(rand.Reader, o.digest[:], crypto.SHA256)) }
func (o *operations) macs()     { o.mac.Sum(make([]byte, 24), make([]byte, 600)) }
func (o *operations) openRSA() {
	//lint:ignore SA1019 RFC 8894 clients know no other key transport
	o.ok(rsa.DecryptPKCS1v15SessionKey(nil, o.rsa, o.sealed, make([]byte, 16)))
}

func (o *operations) sealRSA() {
	//lint:ignore SA1019 RFC 8894 clients know no other key transport
	o.check(rsa.EncryptPKCS1v15(rand.Reader, &o.rsa.PublicKey, make([]byte, 16)))
}

func (o *operations) verifyP256() {
	if !ecdsa.VerifyASN1(&o.p256.PublicKey, o.digest[:], o.sP256) {
		o.t.Fatal("the signature does not verify")
	}
}

// agree is the server's half of X25519MLKEM768, which Go's clients and servers agree on by default.
func (o *operations) agree() {
	own, err := ecdh.X25519().GenerateKey(rand.Reader)
	o.ok(err)
	o.check(own.ECDH(o.x25519))
	theirs, err := mlkem.NewEncapsulationKey768(o.mlkem)
	o.ok(err)
	theirs.Encapsulate()
}

func (o *operations) ok(err error) {
	if err != nil {
		o.t.Fatal(err)
	}
}

func (o *operations) check(_ []byte, err error) { o.ok(err) }

// cost is what some operations take together, in microseconds of this thread.
func (o *operations) cost(what ...func()) float64 {
	const times = 60
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	now := func() float64 {
		var ts unix.Timespec
		o.ok(unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts))
		return float64(ts.Nano()) / 1000
	}
	began := now()
	for range times {
		for _, f := range what {
			f()
		}
	}
	return (now() - began) / times
}

// An enrollment cannot do without these. Over EST: the request's signature, the certificate's, and its verification in the CA before it leaves and
// in the gateway before it is handed out. A handshake adds an agreement and a signature. CMP has four MACs. SCEP opens an envelope,
// signs certificate and answer, verifies message, request and twice the certificate, and seals the answer.
func (o *operations) est() float64 {
	return o.cost(o.signP256, o.verifyP256, o.verifyP256, o.verifyP256)
}

func (o *operations) estHandshake() float64 {
	return o.cost(o.signP256, o.verifyP256, o.verifyP256, o.verifyP256, o.signP256, o.agree)
}

func (o *operations) cmp() float64 {
	return o.cost(o.signP256, o.verifyP256, o.verifyP256, o.verifyP256, o.macs, o.macs, o.macs, o.macs)
}

func (o *operations) scep() float64 {
	return o.cost(o.openRSA, o.signRSA, o.signRSA, o.verifyRSA, o.verifyRSA, o.verifyRSA, o.verifyRSA, o.sealRSA)
}
