package cmp

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/plugins/backend/upstream"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// identity is what messages are protected with and answers verified with. It is read from its files for each dialogue, so that they
// may be replaced.
type identity struct {
	sender []byte // DER Name
	kid    []byte // senderKID; nil for none

	key   crypto.Signer // nil: mac
	certs [][]byte      // the signer's, and its chain

	reference, secret []byte
	algorithm         string

	trust []*x509.Certificate
}

// String keeps %v from showing a secret.
func (*identity) String() string { return "identity" }

// GoString is String, for %#v.
func (id *identity) GoString() string { return id.String() }

// identity reads the files.
func (c *Config) identity() (*identity, error) {
	id := &identity{sender: []byte{0x30, 0}}
	if c.Trust != "" {
		text, err := read("trust", c.Trust)
		if err != nil {
			return nil, err
		}
		if id.trust, err = certificates("trust", text); err != nil {
			return nil, err
		}
	}
	switch {
	case c.Sign != nil:
		return id, id.readKey(c.Sign)
	case c.MAC != nil:
		secret, err := upstream.Secret(c.MAC.Secret)
		if err != nil {
			return nil, fmt.Errorf("mac.secret: %w", err)
		}
		if len(secret) == 0 {
			return nil, fmt.Errorf("mac.secret: %s is empty", c.MAC.Secret)
		}
		id.reference, id.secret, id.algorithm = []byte(c.MAC.Reference), secret, c.MAC.Algorithm
		id.kid = id.reference
	}
	return id, nil
}

func (id *identity) readKey(s *SignConfig) error {
	key, err := upstream.Secret(s.Key)
	if err != nil {
		return fmt.Errorf("sign.key: %w", err)
	}
	cert, err := read("sign.cert", s.Cert)
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("sign: %w", err)
	}
	signer, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return errors.New("sign.key: it does not sign")
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return fmt.Errorf("sign.cert: %w", err)
	}
	if _, err := pkix.SignatureAlgorithm(signer); err != nil {
		return fmt.Errorf("sign.key: %w", err)
	}
	id.key, id.certs, id.sender, id.kid = signer, pair.Certificate, leaf.RawSubject, leaf.SubjectKeyId
	return nil
}

// certificates reads PEM.
func certificates(key string, text []byte) (list []*x509.Certificate, err error) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: certificate %d: %w", key, len(list)+1, err)
		}
		list = append(list, c)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%s: there is no PEM certificate in it", key)
	}
	return list, nil
}

// iterations of the MACs that are sent, within what servers take (docs/cmp.md).
const iterations = 10_000

// protect makes the DER message. salt is the MAC's.
func (id *identity) protect(out *cmpmsg.Outgoing, salt []byte) ([]byte, error) {
	out.Header.Sender, out.Header.SenderKID = cmpmsg.GeneralDirectoryName(id.sender), id.kid
	if id.key != nil {
		alg, err := pkix.SignatureAlgorithm(id.key)
		if err != nil {
			return nil, err
		}
		out.Header.ProtectionAlg, out.ExtraCerts = &cmpmsg.AlgorithmIdentifier{Raw: alg}, id.certs
		return out.Protect(func(part []byte) ([]byte, error) {
			_, signature, err := pkix.Sign(id.key, part)
			return signature, err
		})
	}
	make := cmpmsg.NewPBMAC1
	if id.algorithm == algorithmPBM {
		make = cmpmsg.NewPBM
	}
	mac, err := make(crypto.SHA256, crypto.SHA256, iterations, salt)
	if err != nil {
		return nil, err
	}
	alg := mac.Algorithm()
	out.Header.ProtectionAlg = &alg
	return out.Protect(func(part []byte) ([]byte, error) {
		sum := mac.Sum(id.secret, part)
		if sum == nil {
			return nil, errors.New("no key could be derived for the MAC")
		}
		return sum, nil
	})
}

// Purposes of who may answer in a CA's place (RFC 9810 section 4.5).
var (
	oidCMCCA = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 27}
	oidCMCRA = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 28}
)

// maxSigners bounds how many certificates are tried for one answer.
const maxSigners = 4

// verify says what is wrong with the protection of an answer.
func (id *identity) verify(m *cmpmsg.Message, now time.Time) error {
	alg := m.Header.ProtectionAlg
	if alg == nil || m.Protection == nil {
		return errors.New("it is not protected")
	}
	if alg.IsMAC() {
		if id.secret == nil {
			return errors.New("it has a MAC, and no secret is shared with the CA")
		}
		mac, err := cmpmsg.ParseMAC(alg, cmpmsg.MACPolicy{})
		if err != nil {
			return err
		}
		if !mac.Verify(id.secret, m.Protected(), m.Protection) {
			return errors.New("its MAC does not verify under the shared secret")
		}
		return nil
	}
	if len(id.trust) == 0 {
		return errors.New("it is signed, and nobody is named in trust")
	}
	sender, ok := cmpmsg.DirectoryName(m.Header.Sender)
	if !ok {
		return errors.New("it is signed, and its sender is not a directoryName")
	}
	extra := parsed(m.ExtraCerts)
	var all []error
	for _, c := range slices.Concat(extra, id.trust) {
		if !bytes.Equal(c.RawSubject, sender) && !pkix.SameName(c.RawSubject, sender) || m.Header.SenderKID != nil && c.SubjectKeyId != nil && !bytes.Equal(m.Header.SenderKID, c.SubjectKeyId) {
			continue
		}
		err := pkix.VerifySignature(c.PublicKey, alg.Raw, m.Protected(), m.Protection)
		if err == nil {
			if err = id.trusted(c, extra, now); err == nil {
				return nil
			}
		}
		if all = append(all, err); len(all) == maxSigners {
			break
		}
	}
	if len(all) == 0 {
		return errors.New("neither its extraCerts nor trust has the certificate of its sender " + pkix.FormatName(sender))
	}
	return errors.Join(all...)
}

// trusted says why a certificate may not answer in the CA's place. One of a device, below the same root, may not.
func (id *identity) trusted(c *x509.Certificate, extra []*x509.Certificate, now time.Time) error {
	if slices.ContainsFunc(id.trust, c.Equal) {
		if now.After(c.NotAfter) {
			return fmt.Errorf("the certificate of %s in trust expired at %s", pkix.FormatName(c.RawSubject), c.NotAfter.UTC().Format(time.RFC3339))
		}
		return nil
	}
	o := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	for _, t := range id.trust {
		o.Roots.AddCert(t)
	}
	for _, e := range extra {
		o.Intermediates.AddCert(e)
	}
	if _, err := c.Verify(o); err != nil {
		return fmt.Errorf("the certificate of its signer %s does not lead to one of trust: %w", pkix.FormatName(c.RawSubject), err)
	}
	if c.IsCA || slices.ContainsFunc(c.UnknownExtKeyUsage, func(p asn1.ObjectIdentifier) bool { return p.Equal(oidCMCCA) || p.Equal(oidCMCRA) }) {
		return nil
	}
	return fmt.Errorf("its signer %s is no CA, and its certificate has neither the purpose cmcRA nor cmcCA: where it answers for the CA all the same, put that certificate into trust", pkix.FormatName(c.RawSubject))
}

// parsed are those of the certificates that parse.
func parsed(list [][]byte) (out []*x509.Certificate) {
	for _, der := range list {
		if c, err := x509.ParseCertificate(der); err == nil {
			out = append(out, c)
		}
	}
	return out
}
