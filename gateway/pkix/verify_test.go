package pkix

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"io"
	"math/big"
	"slices"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// parts takes a request of testdata/pkix apart: what is signed, the DER of the algorithm, and the signature, all OpenSSL's.
func parts(t testing.TB, name string) (key crypto.PublicKey, algorithm, data, signature []byte) {
	t.Helper()
	c := mustCSR(t, name)
	in := cryptobyte.String(c.Raw)
	var outer, info, alg cryptobyte.String
	if !in.ReadASN1(&outer, cbasn1.SEQUENCE) || !outer.ReadASN1Element(&info, cbasn1.SEQUENCE) || !outer.ReadASN1Element(&alg, cbasn1.SEQUENCE) {
		t.Fatal("not a request")
	}
	return c.Key, alg, info, c.Signature
}

func TestVerifySignature(t *testing.T) {
	for _, f := range files {
		if f.parse != nil {
			continue
		}
		t.Run(f.name, func(t *testing.T) {
			key, alg, data, sig := parts(t, f.name)
			err := VerifySignature(key, alg, data, sig)
			if !errors.Is(err, f.check) {
				t.Errorf("%v, want %v", err, f.check)
			}
			if f.check == ErrWeak && !errors.Is(err, ErrAlgorithm) {
				t.Errorf("%v is not ErrAlgorithm too", err)
			}
			if f.check != nil {
				return
			}
			if err := VerifySignature(key, alg, append(slices.Clone(data), 0), sig); !errors.Is(err, ErrSignature) {
				t.Errorf("other data: %v", err)
			}
			if err := VerifySignature(key, alg, data, nil); !errors.Is(err, ErrSignature) {
				t.Errorf("no signature: %v", err)
			}
			for _, bad := range [][]byte{nil, alg[:len(alg)-1], append(slices.Clone(alg), 0), {0x30, 0}, {0x31, 0}} {
				if err := VerifySignature(key, bad, data, sig); !errors.Is(err, ErrMalformed) {
					t.Errorf("algorithm %x: %v", bad, err)
				}
			}
		})
	}
	key, alg, data, sig := parts(t, "p256-sha1.der")
	if err := VerifySignature(key, alg, data, sig, AllowSHA1()); err != nil {
		t.Errorf("SHA-1 where it is allowed: %v", err)
	}
	key, alg, data, sig = parts(t, "rsa2048-md5.der")
	if err := VerifySignature(key, alg, data, sig, AllowSHA1()); !errors.Is(err, ErrWeak) {
		t.Errorf("MD5: %v", err)
	}
}

// What is not a sound key neither panics nor costs anything.
func TestVerifySignatureKeys(t *testing.T) {
	_, rsaAlg, _, _ := parts(t, "rsa2048.der")
	_, ecAlg, _, _ := parts(t, "p256.der")
	_, edAlg, _, _ := parts(t, "ed25519.der")
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		key  crypto.PublicKey
		alg  []byte
	}{
		{"nil", nil, ecAlg},
		{"another type", "key", ecAlg},
		{"no modulus", &rsa.PublicKey{}, rsaAlg},
		{"huge modulus", &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), MaxRSABits), E: 3}, rsaAlg},
		{"P-224", p224.Public(), ecAlg},
		{"no curve", &ecdsa.PublicKey{}, ecAlg},
		{"short Ed25519", ed25519.PublicKey{1, 2}, edAlg},
		{"RSA's algorithm with an EC key", testKey.Public(), rsaAlg},
		{"EC's algorithm with an Ed25519 key", make(ed25519.PublicKey, ed25519.PublicKeySize), ecAlg},
	} {
		if err := VerifySignature(tt.key, tt.alg, nil, nil); !errors.Is(err, ErrAlgorithm) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func newSigner(t testing.TB, name string) crypto.Signer {
	t.Helper()
	var key crypto.Signer
	var err error
	switch name {
	case "RSA":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case "Ed25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	case "P-224":
		key, err = ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	case "P-256":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "P-384":
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "P-521":
		key, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestSign(t *testing.T) {
	data := []byte("data to be signed")
	for _, tt := range []struct {
		key  string
		alg  string // DER, as OpenSSL writes it
		hash crypto.Hash
		std  x509.SignatureAlgorithm
	}{
		{"RSA", "300d06092a864886f70d01010b0500", crypto.SHA256, x509.SHA256WithRSA},
		{"P-256", "300a06082a8648ce3d040302", crypto.SHA256, x509.ECDSAWithSHA256},
		{"P-384", "300a06082a8648ce3d040303", crypto.SHA384, x509.ECDSAWithSHA384},
		{"P-521", "300a06082a8648ce3d040304", crypto.SHA512, x509.ECDSAWithSHA512},
		{"Ed25519", "300506032b6570", crypto.SHA512, x509.PureEd25519},
	} {
		t.Run(tt.key, func(t *testing.T) {
			key := newSigner(t, tt.key)
			alg, sig, err := Sign(key, data)
			if err != nil {
				t.Fatal(err)
			}
			if got := hex.EncodeToString(alg); got != tt.alg {
				t.Errorf("algorithm %s, want %s", got, tt.alg)
			}
			if only, err := SignatureAlgorithm(key); err != nil || !bytes.Equal(only, alg) {
				t.Errorf("SignatureAlgorithm %x %v", only, err)
			}
			if hash, err := SignatureHash(alg); err != nil || hash != tt.hash {
				t.Errorf("hash %v %v, want %v", hash, err, tt.hash)
			}
			if err := VerifySignature(key.Public(), alg, data, sig); err != nil {
				t.Error(err)
			}
			if err := (&x509.Certificate{PublicKey: key.Public()}).CheckSignature(tt.std, data, sig); err != nil {
				t.Errorf("crypto/x509: %v", err)
			}
			if _, again, err := Sign(key, data); err != nil || !bytes.Equal(again, sig) {
				t.Errorf("the second signature over the same data differs (%v)", err)
			}
			if _, elsewhere, err := Sign(remoteKey{key}, data); err != nil {
				t.Errorf("key of another make: %v", err)
			} else if err := VerifySignature(key.Public(), alg, data, elsewhere); err != nil {
				t.Errorf("key of another make: %v", err)
			}
		})
	}
	for _, key := range []crypto.Signer{nil, newSigner(t, "P-224"), strange{}} {
		if _, _, err := Sign(key, data); !errors.Is(err, ErrAlgorithm) {
			t.Errorf("Sign with %T: %v", key, err)
		}
		if _, err := SignatureAlgorithm(key); !errors.Is(err, ErrAlgorithm) {
			t.Errorf("SignatureAlgorithm of %T: %v", key, err)
		}
	}
	if _, _, err := Sign(broken{newSigner(t, "P-256")}, data); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a key that cannot sign: %v", err)
	}
}

// remoteKey is a key that is kept elsewhere and needs randomness, as a PKCS #11 module's may.
type remoteKey struct{ crypto.Signer }

func (d remoteKey) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if random == nil {
		return nil, errors.New("no randomness")
	}
	return d.Signer.Sign(random, digest, opts)
}

type strange struct{}

func (strange) Public() crypto.PublicKey { return struct{}{} }
func (strange) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("must not be asked")
}

type broken struct{ crypto.Signer }

func (broken) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, io.ErrClosedPipe
}

// RFC 6979 appendix A.2.5 to A.2.7: the message "sample" with the hash of the curve's size.
func TestSignRFC6979(t *testing.T) {
	for _, tt := range []struct {
		curve   elliptic.Curve
		x, r, s string
	}{
		{
			elliptic.P256(),
			"C9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721",
			"EFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716",
			"F7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8",
		},
		{
			elliptic.P384(),
			"6B9D3DAD2E1B8C1C05B19875B6659F4DE23C3B667BF297BA9AA47740787137D896D5724E4C70A825F872C9EA60D2EDF5",
			"94EDBB92A5ECB8AAD4736E56C691916B3F88140666CE9FA73D64C4EA95AD133C81A648152E44ACF96E36DD1E80FABE46",
			"99EF4AEB15F178CEA1FE40DB2603138F130E740A19624526203B6351D0A3A94FA329C145786E679E7B82C71A38628AC8",
		},
		{
			elliptic.P521(),
			"00FAD06DAA62BA3B25D2FB40133DA757205DE67F5BB0018FEE8C86E1B68C7E75CAA896EB32F1F47C70855836A6D16FCC1466F6D8FBEC67DB89EC0C08B0E996B83538",
			"00C328FAFCBD79DD77850370C46325D987CB525569FB63C5D3BC53950E6D4C5F174E25A1EE9017B5D450606ADD152B534931D7D4E8455CC91F9B15BF05EC36E377FA",
			"00617CCE7CF5064806C467F678D3B4080D6F1CC50AF26CA209417308281B68AF282623EAA63E5B5C0723D8B8C37FF0777B1A20F8CCB1DCCC43997F1EE0E44DA4A67A",
		},
	} {
		x, err := hex.DecodeString(tt.x)
		if err != nil {
			t.Fatal(err)
		}
		key, err := ecdsa.ParseRawPrivateKey(tt.curve, x)
		if err != nil {
			t.Fatal(err)
		}
		_, sig, err := Sign(key, []byte("sample"))
		if err != nil {
			t.Fatal(err)
		}
		want, err := asn1.Marshal(struct{ R, S *big.Int }{bigHex(tt.r), bigHex(tt.s)})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(sig, want) {
			t.Errorf("%s: %x, want %x", tt.curve.Params().Name, sig, want)
		}
	}
}

func TestSignatureHash(t *testing.T) {
	for name, want := range map[string]crypto.Hash{
		"rsa2048.der": crypto.SHA256, "rsa2048-pss.der": crypto.SHA384, "rsa3072.der": crypto.SHA512,
		"p256.der": crypto.SHA256, "p384.der": crypto.SHA384, "p521.der": crypto.SHA512,
		"ed25519.der": crypto.SHA512, "rsa2048-sha1.der": crypto.SHA1,
	} {
		_, alg, _, _ := parts(t, name)
		if got, err := SignatureHash(alg); err != nil || got != want {
			t.Errorf("%s: %v %v, want %v", name, got, err, want)
		}
	}
	_, md5, _, _ := parts(t, "rsa2048-md5.der")
	ed448 := []byte{0x30, 5, 6, 3, 0x2b, 0x65, 0x71}
	for _, bad := range [][]byte{md5, ed448} {
		if got, err := SignatureHash(bad); !errors.Is(err, ErrAlgorithm) || got != 0 {
			t.Errorf("%x: %v %v", bad, got, err)
		}
	}
	for _, bad := range [][]byte{nil, {0x30}, append(slices.Clone(ed448), 0)} {
		if got, err := SignatureHash(bad); !errors.Is(err, ErrMalformed) || got != 0 {
			t.Errorf("%x: %v %v", bad, got, err)
		}
	}
}
