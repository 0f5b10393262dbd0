package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/muster-pki/muster/plugins/backend"
)

// issued is what stands in the file of an ID.
type issued struct {
	Content     [sha256.Size]byte // of the request: the same ID with another is refused
	Certificate []byte
}

func decode(file []byte) (i issued, err error) {
	return i, gob.NewDecoder(bytes.NewReader(file)).Decode(&i)
}

// file is that of an ID.
func (a *ca) file(id string) string {
	return filepath.Join(a.dir, fmt.Sprintf("id-%x", sha256.Sum256([]byte(id))))
}

// Issue answers only when the file stands on disk, and the file's name is the ID: asked again after any accident, it finds the file.
func (a *ca) Issue(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err // nobody waits any more
	}
	if err := known(r.Issuer); err != nil {
		return nil, err
	}
	asked, err := json.Marshal(r.Template)
	if err != nil {
		return nil, err
	}
	content := sha256.Sum256(asked)
	file, err := once(a.file(r.ID), func() ([]byte, error) {
		der, err := a.sign(&r.Template)
		if err != nil {
			return nil, err
		}
		var b bytes.Buffer
		err = gob.NewEncoder(&b).Encode(issued{content, der})
		return b.Bytes(), err
	})
	if err != nil {
		return nil, err
	}
	i, err := decode(file)
	if err != nil {
		return nil, err
	}
	if i.Content != content {
		return nil, backend.Refuse(backend.AlreadyExists, "ID %s stands for another request", r.ID)
	}
	if err := a.index(i.Certificate); err != nil {
		return nil, err // unknown to the gateway, which asks again
	}
	slog.Info("issued", "id", backend.RequestID(ctx), "device", r.Device)
	return a.issuance(i.Certificate), nil
}

func (a *ca) issuance(der []byte) *backend.Issuance {
	return &backend.Issuance{Certificate: der, Chain: [][]byte{a.cert.Raw}}
}

// Lookup tells the gateway what became of an ID whose answer it never got.
func (a *ca) Lookup(_ context.Context, r *backend.IssueRequest) (*backend.Outcome, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	file, err := os.ReadFile(a.file(r.ID))
	if errors.Is(err, os.ErrNotExist) {
		return &backend.Outcome{State: backend.OutcomeNever}, nil
	}
	if err != nil {
		return nil, err // the outcome stays unknown
	}
	i, err := decode(file)
	if err != nil {
		return nil, err
	}
	if err := a.index(i.Certificate); err != nil {
		return nil, err
	}
	return &backend.Outcome{State: backend.OutcomeIssued, Issuance: a.issuance(i.Certificate)}, nil
}

// sign certifies the template as it stands, or refuses it. Only these refusals prove that nothing was issued.
func (a *ca) sign(t *backend.Template) ([]byte, error) {
	pub, err := x509.ParsePKIXPublicKey(t.PublicKey)
	if err != nil {
		return nil, backend.Refuse(backend.InvalidArgument, "public key: %v", err)
	}
	var subject pkix.RDNSequence
	if rest, err := asn1.Unmarshal(t.Subject, &subject); err != nil || len(rest) > 0 {
		return nil, backend.Refuse(backend.InvalidArgument, "the subject is not a Name")
	}
	if !t.NotBefore.Before(t.NotAfter) || t.NotBefore.Before(a.cert.NotBefore) || t.NotAfter.After(a.cert.NotAfter) {
		return nil, backend.Refuse(backend.InvalidArgument, "validity %s to %s", t.NotBefore, t.NotAfter)
	}
	c := &x509.Certificate{ // without a SerialNumber, a random one
		RawSubject: t.Subject, NotBefore: t.NotBefore, NotAfter: t.NotAfter,
		KeyUsage: t.KeyUsage, UnknownExtKeyUsage: t.ExtKeyUsage, ExtraExtensions: t.Extensions,
	}
	if t.SubjectAltName != nil { // critical when the subject is empty (RFC 5280 section 4.2.1.6)
		c.ExtraExtensions = append(c.ExtraExtensions[:len(t.Extensions):len(t.Extensions)],
			pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: len(subject) == 0, Value: t.SubjectAltName})
	}
	return x509.CreateCertificate(rand.Reader, c, a.cert, pub, a.key)
}
