package cmp

import (
	"bytes"
	"crypto/x509"
	stdpkix "crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"

	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

var (
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidKeyUsage       = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidExtKeyUsage    = asn1.ObjectIdentifier{2, 5, 29, 37}
)

// request is what is asked of the CA, before it has a header.
type request struct {
	body   cmpmsg.Body
	reqID  *big.Int        // certReqId of the answer
	answer cmpmsg.BodyType // the answer's
	parts  parts
	info   []cmpmsg.InfoTypeAndValue
}

// request makes what is asked for. Its errors say what is wrong with it: nothing was asked.
func (r *running) request(i *backend.IssueRequest, chain [][]byte) (*request, error) {
	if i.Issuer != "" && i.Issuer != r.name() {
		return nil, fmt.Errorf("there is no CA %q: this one is %q", i.Issuer, r.name())
	}
	if slices.Contains(r.Decides, backend.FieldValidity) {
		chain = nil // the CA cuts what is too long
	}
	if err := sound(&i.Template, chain); err != nil {
		return nil, err
	}
	q := &request{reqID: new(big.Int), answer: cmpmsg.TypeCP}
	kind := cmpmsg.TypeCR
	if r.Request == requestIR {
		kind, q.answer = cmpmsg.TypeIR, cmpmsg.TypeIP
	}
	var content []byte
	var err error
	if q.body, content, err = certRequest(kind, &i.Template); err != nil {
		return nil, err
	}
	if r.Request == requestP10CR {
		if len(i.CSR) == 0 {
			return nil, errors.New("the CA takes PKCS#10 alone, and there is none")
		}
		q.body, q.reqID = &cmpmsg.PKCS10{CSR: i.CSR}, big.NewInt(-1) // RFC 9810 section 5.3.4
	}
	id := []byte(i.ID)
	q.parts = parts{nonce: derived("nonce", id, content, i.CSR), salt: derived("salt", id, content, i.CSR), at: r.now()}
	if r.Repeats {
		q.parts.at = i.Template.NotBefore.Add(time.Duration(r.Backdate))
	}
	if r.Confirm == confirmImplicit {
		q.info = append(q.info, cmpmsg.InfoTypeAndValue{Type: cmpmsg.OIDImplicitConfirm, Value: []byte{5, 0}})
	}
	if r.Profile != "" {
		value, err := cmpmsg.MarshalTexts(r.Profile)
		if err != nil {
			return nil, err
		}
		q.info = append(q.info, cmpmsg.InfoTypeAndValue{Type: cmpmsg.OIDCertProfile, Value: value})
	}
	return q, nil
}

// transactionID of a request: the same for the same ID, whatever is asked for under it, so that the CA sees when that changes.
func transactionID(id string) []byte { return derived("transaction", []byte(id)) }

// sound refuses a template that no certificate can be made of.
func sound(t *backend.Template, chain [][]byte) error {
	var name stdpkix.RDNSequence
	if _, err := x509.ParsePKIXPublicKey(t.PublicKey); err != nil {
		return errors.New("the public key does not parse")
	}
	if rest, err := asn1.Unmarshal(t.Subject, &name); err != nil || len(rest) > 0 {
		return errors.New("the subject does not parse")
	}
	if t.NotBefore.IsZero() || !t.NotAfter.After(t.NotBefore) {
		return errors.New("the validity ends before it begins")
	}
	if len(chain) == 0 {
		return nil
	}
	issuing, err := x509.ParseCertificate(chain[0])
	if err == nil && t.NotAfter.After(issuing.NotAfter) {
		return fmt.Errorf("the validity ends after that of the CA, at %s", issuing.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// certRequest is a cr or ir for a template, in which the RA says that it has seen proof of possession (RFC 4211 section 4). content is
// the DER CertRequest.
func certRequest(kind cmpmsg.BodyType, t *backend.Template) (body cmpmsg.Body, content []byte, err error) {
	m := cmpmsg.CertReqMsg{
		ReqID: new(big.Int), POP: &cmpmsg.ProofOfPossession{Kind: cmpmsg.POPRAVerified},
		Template: cmpmsg.CertTemplate{Subject: t.Subject, PublicKey: t.PublicKey, NotBefore: t.NotBefore, NotAfter: t.NotAfter},
	}
	if m.Template.Extensions, err = extensions(t); err != nil {
		return nil, nil, err
	}
	if content, err = m.Request(); err != nil {
		return nil, nil, err
	}
	return &cmpmsg.CertReqMessages{Kind: kind, Messages: []cmpmsg.CertReqMsg{m}}, content, nil
}

// extensions are the DER Extensions of a template, nil for none.
func extensions(t *backend.Template) ([]byte, error) {
	var list []stdpkix.Extension
	if t.KeyUsage != 0 {
		var b cryptobyte.Builder
		pkix.AddKeyUsage(&b, t.KeyUsage)
		value, err := b.Bytes()
		if err != nil {
			return nil, err
		}
		list = append(list, stdpkix.Extension{Id: oidKeyUsage, Critical: true, Value: value})
	}
	if len(t.ExtKeyUsage) > 0 {
		value, err := asn1.Marshal(t.ExtKeyUsage)
		if err != nil {
			return nil, err
		}
		list = append(list, stdpkix.Extension{Id: oidExtKeyUsage, Value: value})
	}
	if t.SubjectAltName != nil {
		// RFC 5280 section 4.1.2.6: critical where the subject is empty.
		list = append(list, stdpkix.Extension{Id: oidSubjectAltName, Critical: bytes.Equal(t.Subject, []byte{0x30, 0}), Value: t.SubjectAltName})
	}
	if list = append(list, t.Extensions...); len(list) == 0 {
		return nil, nil
	}
	return asn1.Marshal(list)
}
