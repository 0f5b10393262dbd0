package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
)

// authority is a CA: a key and its certificate.
type authority struct {
	key  crypto.Signer
	cert *x509.Certificate
}

// makes a CA below another one, or a root. Their keys are RSA, which SCEP's clients need.
func makes(name string, key crypto.Signer, above *authority) (*authority, error) {
	now := time.Now().UTC().Truncate(time.Second)
	t := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	if above == nil {
		above = &authority{key, t}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, above.cert, key.Public(), above.key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{key, cert}, err
}

// identity reads the CA's key and certificates, and makes them the first time.
func (c *ca) identity() error {
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	if c.foreign, err = makes("Elsewhere", other, nil); err != nil {
		return err
	}
	file := filepath.Join(c.Dir, "identity")
	text, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		if text, err = newIdentity(); err == nil {
			err = os.WriteFile(file, text, 0o600)
		}
	}
	var parts [][]byte
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		parts = append(parts, block.Bytes)
	}
	if err != nil || len(parts) != 3 {
		return fmt.Errorf("identity: %v", err)
	}
	if c.key, err = x509.ParsePKCS1PrivateKey(parts[0]); err == nil {
		c.issuing, err = x509.ParseCertificate(parts[1])
	}
	if err == nil {
		c.root, err = x509.ParseCertificate(parts[2])
	}
	return err
}

func newIdentity() ([]byte, error) {
	rootKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	root, err := makes("Lying Root", rootKey, nil)
	if err != nil {
		return nil, err
	}
	issuing, err := makes("Lying CA", key, root)
	if err != nil {
		return nil, err
	}
	var text []byte
	for _, der := range [][]byte{x509.MarshalPKCS1PrivateKey(key), issuing.cert.Raw, root.cert.Raw} {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PART", Bytes: der})...)
	}
	return text, nil
}

// Issue answers as the common name says. "true" is no lie.
func (c *ca) Issue(_ context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
	if err := c.does("Issue"); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if a, ok := c.answers[r.ID]; ok {
		return a.issuance, a.err
	}
	var a answer
	a.issuance, a.err = c.lie(lieOf(r.Template.Subject), r)
	c.answers[r.ID] = a
	return a.issuance, a.err
}

func lieOf(subject []byte) string {
	var rdns pkix.RDNSequence
	var name pkix.Name
	if _, err := asn1.Unmarshal(subject, &rdns); err == nil {
		name.FillFromRDNSequence(&rdns)
	}
	lie, _, _ := strings.Cut(name.CommonName, "-")
	return lie
}

// lie makes the answer. The gateway's own requests, whose name is none of these, get a true one.
func (c *ca) lie(lie string, r *backend.IssueRequest) (*backend.Issuance, error) {
	switch lie {
	case "hang":
		c.mu.Unlock()
		select {}
	case "crash":
		os.Exit(6)
	case "shout":
		return nil, backend.Refuse(codes.Unavailable, "%s", shout())
	case "flood":
		c.mu.Unlock()
		flood()
		c.mu.Lock()
	case "environ":
		return nil, backend.Refuse(codes.Unavailable, "own: %s; the host's: %s", secrets(strings.Join(os.Environ(), " "), nil), hostsEnvironment())
	}
	t := &r.Template
	pub, err := x509.ParsePKIXPublicKey(t.PublicKey)
	if err != nil {
		return nil, backend.Refuse(codes.InvalidArgument, "public key: %v", err)
	}
	cert := &x509.Certificate{
		RawSubject: t.Subject, NotBefore: t.NotBefore, NotAfter: t.NotAfter, KeyUsage: t.KeyUsage, UnknownExtKeyUsage: t.ExtKeyUsage, ExtraExtensions: t.Extensions,
	}
	san := t.SubjectAltName
	by := &authority{c.key, c.issuing}
	chain := c.chain()
	switch lie {
	case "otherkey":
		pub = c.foreign.key.Public()
	case "othersubject":
		cert.RawSubject, cert.Subject = nil, pkix.Name{CommonName: "administrator"}
	case "othersan":
		san, cert.DNSNames = nil, []string{"bank.example"}
	case "isca":
		cert.IsCA, cert.BasicConstraintsValid = true, true
	case "longer":
		cert.NotAfter = cert.NotAfter.AddDate(5, 0, 0)
	case "foreign":
		by, chain = c.foreign, [][]byte{c.foreign.cert.Raw}
	case "foreignleaf":
		by = c.foreign
	case "order":
		chain = [][]byte{c.root.Raw, c.issuing.Raw}
	case "nochain":
		chain = nil
	}
	if san != nil {
		cert.ExtraExtensions = append(cert.ExtraExtensions[:len(t.Extensions):len(t.Extensions)], pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: san})
	}
	if lie == "selfsigned" {
		by, pub = &authority{c.foreign.key, cert}, c.foreign.key.Public()
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, by.cert, pub, by.key)
	if err != nil {
		return nil, backend.Refuse(codes.InvalidArgument, "%v", err)
	}
	switch lie {
	case "garbage":
		der = append([]byte("no certificate "), der...)
	case "trailing":
		der = append(der, 0x05, 0x00)
	case "huge":
		der = make([]byte, 10<<20)
	case "neither":
		return &backend.Issuance{}, nil
	}
	return &backend.Issuance{Certificate: der, Chain: chain}, nil
}

// secrets says whether an environment has what tests put into the gateway's.
func secrets(environment string, err error) string {
	switch {
	case err != nil:
		return err.Error()
	case strings.Contains(environment, "GATEWAYS_SECRET"):
		return "has it"
	}
	return "clean"
}

// hostsEnvironment is what a plugin that is not root's finds out of the gateway's.
func hostsEnvironment() string {
	if os.Geteuid() == 0 {
		return "root may read all"
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", os.Getppid()))
	return secrets(string(text), err)
}
