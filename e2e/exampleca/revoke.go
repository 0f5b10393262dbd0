package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
)

// crlFor is how long a CRL counts.
const crlFor = 24 * time.Hour

// index makes an empty file for a certificate, by its serial number: Revoke looks whether it is one of ours.
func (a *ca) index(der []byte) error {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	_, err = once(a.bySerial("serial", c.SerialNumber), func() ([]byte, error) { return nil, nil })
	return err
}

func (a *ca) bySerial(kind string, n *big.Int) string {
	return filepath.Join(a.dir, fmt.Sprintf("%s-%x", kind, n))
}

// revoked is what stands in the file of a certificate that was.
type revoked struct {
	Serial *big.Int
	At     time.Time
	Reason int
}

// Revoke says success for what is revoked already, and changes nothing of it.
func (a *ca) Revoke(_ context.Context, r *backend.RevokeRequest) error {
	serial := new(big.Int).SetBytes(r.Serial)
	if _, err := os.Stat(a.bySerial("serial", serial)); errors.Is(err, os.ErrNotExist) || !bytes.Equal(r.Issuer, a.cert.RawSubject) {
		return backend.Refuse(backend.NotFound, "no certificate %x was issued here", r.Serial)
	}
	_, err := once(a.bySerial("revoked", serial), func() ([]byte, error) {
		return json.Marshal(revoked{serial, r.At.UTC(), r.Reason})
	})
	return err
}

// CRL makes one each time that it is asked for, which the gateway does once a minute at most.
func (a *ca) CRL(_ context.Context, issuer string, w io.Writer) error {
	if issuer != "" && issuer != name {
		return backend.Refuse(backend.NotFound, "no CA is named %q", issuer)
	}
	files, err := filepath.Glob(filepath.Join(a.dir, "revoked-*"))
	if err != nil {
		return err
	}
	now := time.Now().UTC()
	list := &x509.RevocationList{Number: big.NewInt(now.UnixNano()), ThisUpdate: now, NextUpdate: now.Add(crlFor)}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		var one revoked
		if err := json.Unmarshal(text, &one); err != nil {
			return fmt.Errorf("%s: %w", f, err)
		}
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: one.Serial, RevocationTime: one.At, ReasonCode: one.Reason})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, a.cert, a.key)
	if err != nil {
		return err
	}
	_, err = w.Write(der)
	return err
}
