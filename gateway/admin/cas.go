package admin

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/plugins/backend"
)

// BackendCAs are the CAs of one backend, the default first.
type BackendCAs struct {
	Backend string
	CAs     []backend.CA
	Rolls   bool  // its CAs can be changed over
	Err     error // why it does not answer
}

// cas lists them.
func (s *Server) cas(c echo.Context) error {
	if _, err := known(c); err != nil {
		return err
	}
	list := CAList{CAs: []CA{}}
	for _, b := range s.config.CAs(c.Request().Context()) {
		if b.Err != nil {
			list.CAs = append(list.CAs, CA{Backend: b.Backend, Error: b.Err.Error()})
			continue
		}
		for i := range b.CAs {
			one := caOf(b.Backend, &b.CAs[i])
			one.Default, one.CanRoll = i == 0, b.Rolls
			list.CAs = append(list.CAs, one)
		}
	}
	return c.JSON(http.StatusOK, list)
}

// caOf shows a CA. A certificate that does not parse is told in Error.
func caOf(name string, ca *backend.CA) CA {
	out := CA{Backend: name, Name: ca.Name, CRLs: ca.CRLs}
	for _, s := range ca.Shards {
		out.CRLShards = append(out.CRLShards, s.Name)
	}
	parse := func(all [][]byte) []*x509.Certificate {
		var certs []*x509.Certificate
		for _, der := range all {
			cert, err := x509.ParseCertificate(der)
			if err != nil {
				out.Error = fmt.Sprintf("a certificate of the CA does not parse: %v", err)
				return nil
			}
			certs = append(certs, cert)
		}
		return certs
	}
	chain := parse(ca.Chain)
	out.Chain, out.Next = chainOf(chain), chainOf(parse(ca.Next))
	for _, cert := range parse(ca.Rollover) {
		out.Rollover = append(out.Rollover, caCertificateOf(cert, generationOf(cert, chain)))
	}
	return out
}

// chainOf shows a chain, the issuing certificate first.
func chainOf(chain []*x509.Certificate) []CACertificate {
	var out []CACertificate
	for i, cert := range chain {
		kind := "intermediate"
		if bytes.Equal(cert.RawSubject, cert.RawIssuer) && i == len(chain)-1 {
			kind = "root"
		} else if i == 0 {
			kind = "issuing"
		}
		out = append(out, caCertificateOf(cert, kind))
	}
	return out
}

// generationOf says what a certificate of another generation is for (RFC 4210 section 4.4): the names are those of its key and
// of the key that signed it.
func generationOf(cert *x509.Certificate, chain []*x509.Certificate) string {
	if !bytes.Equal(cert.RawSubject, cert.RawIssuer) || len(chain) == 0 {
		return "issuing"
	}
	root := chain[len(chain)-1]
	switch {
	case cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) == nil:
		return "root"
	case bytes.Equal(cert.RawSubjectPublicKeyInfo, root.RawSubjectPublicKeyInfo):
		return "NewWithOld"
	case root.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) == nil:
		return "OldWithNew"
	}
	return "root"
}

func caCertificateOf(c *x509.Certificate, kind string) CACertificate {
	sum, key := sha256.Sum256(c.Raw), sha256.Sum256(c.RawSubjectPublicKeyInfo)
	out := CACertificate{
		Subject: pkix.FormatName(c.RawSubject), Issuer: pkix.FormatName(c.RawIssuer), Serial: hex.EncodeToString(c.SerialNumber.Bytes()),
		NotBefore: c.NotBefore.UTC(), NotAfter: c.NotAfter.UTC(), Kind: kind, Fingerprint: hex.EncodeToString(sum[:]),
		KeyID: hex.EncodeToString(key[:]), PEM: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})),
	}
	if pub, err := pkix.ParsePublicKey(c.RawSubjectPublicKeyInfo); err == nil {
		out.Key = pkix.KeyName(pub)
	}
	return out
}

// subjectsOf are the names that a backend's certificates can have as issuer.
func subjectsOf(cas []backend.CA) [][]byte {
	var all [][]byte
	for _, ca := range cas {
		for _, list := range [][][]byte{ca.Chain, ca.Rollover} {
			for _, der := range list {
				if cert, err := x509.ParseCertificate(der); err == nil {
					all = append(all, cert.RawSubject)
				}
			}
		}
	}
	return all
}

// rollover changes a CA over.
func (s *Server) rollover(c echo.Context) error {
	if _, err := known(c); err != nil {
		return err
	}
	var in RolloverOrder
	if err := decode(c, &in); err != nil {
		return err
	}
	r := &backend.RolloverRequest{ID: in.ID, Issuer: in.Issuer, Kind: backend.RolloverKind(in.Kind), Root: in.Root, Announce: in.Announce}
	switch {
	case r.Kind != backend.RolloverRenew && r.Kind != backend.RolloverRekey:
		return badRequest("kind is %q (a new certificate for the same key) or %q (a new key)", backend.RolloverRenew, backend.RolloverRekey)
	case r.ID == "":
		r.ID = gateway.NewID(s.config.Clock())
	case !gateway.ValidID(r.ID):
		return badRequest("id has the form of a transaction's")
	}
	if err := line("issuer", r.Issuer); err != nil {
		return err
	}
	name := param(c, "backend")
	ca, err := s.config.Gateway.Rollover(c.Request().Context(), name, r, actorOf(c))
	if err != nil {
		return err
	}
	out := caOf(name, ca)
	out.CanRoll = true
	return c.JSON(http.StatusOK, out)
}

// crl gives a CRL, DER.
func (s *Server) crl(c echo.Context) error {
	q, err := known(c, "name")
	if err != nil {
		return err
	}
	name := param(c, "backend")
	der, err := s.config.CRL(c.Request().Context(), name, q["name"])
	if errors.Is(err, gateway.ErrNotFound) {
		return &refusal{status: http.StatusNotFound, message: fmt.Sprintf("backend %q has no CRL %q", name, q["name"])}
	} else if err != nil {
		return err
	}
	return c.Blob(http.StatusOK, "application/pkix-crl", der) // RFC 5280 section 4.2.1.13
}
