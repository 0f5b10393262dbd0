package mdm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	_ "crypto/sha1" // of the device CA's signatures
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// appleDeviceCA is the public key of the Apple iPhone Device CA, which Apple's description of the profile service prints (its
// certificate ended in 2014, and goes on being the issuer of devices' certificates). SHA-256 of its SubjectPublicKeyInfo:
// 13686ec675f9fd26a123adb17b5533f593cf451edd6105ae39b748277a3922e5. Checked against its chain up to the Apple Root CA
// (SHA-256 of that certificate b0b1730ecbc7ff4505142c49f1295e6eda6bcaed7e2c68c5be91b5a11001f024).
const appleDeviceCA = `-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDxlErJ6rpaGGCty6JNTU5UGWkX
WQdmy5foZppHX0auZ3q1SnNUscsE9r02uAxVOIqEgzFSZfkz4Zd3nCtMJrAlP+ky
qnsIdJTswUs4HWdOCFKUWotZo1zXk/Sg/lWFu0xGl15usndFL2dcvAsYv1m5bIb3
KnV20hlx9CljuSULrwIDAQAB
-----END PUBLIC KEY-----
`

// deviceCA is a key that signs the certificates of devices, pinned: of its certificate nothing counts but the name, and that
// only where it is known.
type deviceCA struct {
	key  crypto.PublicKey
	name []byte // DER Name of the certificate; nil for a bare key
}

// Bounds of an RSA key of a device CA, in bits. Apple's has 1024.
const (
	minDeviceRSA = 1024
	maxDeviceRSA = 8192
)

// readDeviceCAs reads the keys that sign devices' certificates; Apple's when none is configured.
func readDeviceCAs(c Config) ([]deviceCA, error) {
	if len(c.DeviceCA) == 0 {
		return parseDeviceCAs([]byte(appleDeviceCA))
	}
	var all []deviceCA
	for _, file := range c.DeviceCA {
		data, err := c.read(file)
		if err != nil {
			return nil, err
		}
		some, err := parseDeviceCAs(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		all = append(all, some...)
	}
	return all, nil
}

func parseDeviceCAs(data []byte) ([]deviceCA, error) {
	var all []deviceCA
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		var made deviceCA
		switch block.Type {
		case "CERTIFICATE":
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, err
			}
			made = deviceCA{cert.PublicKey, cert.RawSubject}
		case "PUBLIC KEY":
			key, err := x509.ParsePKIXPublicKey(block.Bytes)
			if err != nil {
				return nil, err
			}
			made = deviceCA{key: key}
		default:
			continue
		}
		switch key := made.key.(type) {
		case *rsa.PublicKey:
			if bits := key.N.BitLen(); bits < minDeviceRSA || bits > maxDeviceRSA {
				return nil, fmt.Errorf("an RSA key of %d bits: want %d to %d", bits, minDeviceRSA, maxDeviceRSA)
			}
		case *ecdsa.PublicKey:
		default:
			return nil, fmt.Errorf("a key of type %T signs no certificates here: want RSA or ECDSA", key)
		}
		all = append(all, made)
	}
	if len(all) == 0 {
		return nil, errors.New("no CERTIFICATE and no PUBLIC KEY (PEM) is in it")
	}
	return all, nil
}

// issuedUnder reports whether one of the pinned keys signed the certificate of a device. There is no path validation, and time
// does not count: no path under Apple's CA would validate, and devices keep certificates that have ended.
func issuedUnder(cas []deviceCA, leaf *x509.Certificate) bool {
	if leaf.IsCA {
		return false
	}
	for _, ca := range cas {
		if (ca.name == nil || bytes.Equal(ca.name, leaf.RawIssuer)) && ca.signed(leaf) {
			return true
		}
	}
	return false
}

// signed verifies the signature of a certificate. crypto/x509 has no SHA-1 any more, which older certificates are signed with.
func (ca deviceCA) signed(c *x509.Certificate) bool {
	var hash crypto.Hash
	ec := false
	switch c.SignatureAlgorithm {
	case x509.SHA1WithRSA:
		hash = crypto.SHA1
	case x509.SHA256WithRSA:
		hash = crypto.SHA256
	case x509.SHA384WithRSA:
		hash = crypto.SHA384
	case x509.SHA512WithRSA:
		hash = crypto.SHA512
	case x509.ECDSAWithSHA256:
		hash, ec = crypto.SHA256, true
	case x509.ECDSAWithSHA384:
		hash, ec = crypto.SHA384, true
	case x509.ECDSAWithSHA512:
		hash, ec = crypto.SHA512, true
	default:
		return false
	}
	h := hash.New()
	h.Write(c.RawTBSCertificate)
	digest := h.Sum(nil)
	switch key := ca.key.(type) {
	case *rsa.PublicKey:
		return !ec && rsa.VerifyPKCS1v15(key, hash, digest, c.Signature) == nil
	case *ecdsa.PublicKey:
		return ec && ecdsa.VerifyASN1(key, digest, c.Signature)
	}
	return false
}
