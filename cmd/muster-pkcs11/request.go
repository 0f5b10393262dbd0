//go:build cgo

package main

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/muster-pki/muster/backends/local"
	"github.com/muster-pki/muster/cmd/muster-pkcs11/token"
)

const usage = `usage: muster-pkcs11 request -module FILE -token LABEL -pin FILE -label LABEL [-kind P-256] [-cn NAME]

Makes the key with the label in the token, unless it is there, and prints a PKCS #10 request by it: for the certificate of an RA
(ra: {cert: FILE, token: {backend: NAME, label: LABEL}}). Kinds: P-256, P-384, Ed25519, RSA-2048, RSA-3072, RSA-4096; for SCEP RSA`

// byHand is what the program does for an operator.
func byHand(args []string, out io.Writer) error {
	if args[0] != "request" {
		return errors.New(usage)
	}
	f := flag.NewFlagSet("request", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	var c local.PKCS11
	f.StringVar(&c.Module, "module", "", "")
	f.StringVar(&c.Token, "token", "", "")
	f.StringVar(&c.PIN, "pin", "", "")
	label, kind, cn := f.String("label", "", ""), f.String("kind", "P-256", ""), f.String("cn", "", "")
	if err := f.Parse(args[1:]); errors.Is(err, flag.ErrHelp) {
		_, err := fmt.Fprintln(out, usage)
		return err
	} else if err != nil || f.NArg() > 0 || c.Module == "" || c.Token == "" || c.PIN == "" || *label == "" {
		return errors.New(usage)
	}
	t, err := openToken(c, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		return err
	}
	defer t.Close() //nolint:errcheck // the process ends
	k, err := t.Key(*label)
	if errors.Is(err, token.ErrNoKey) {
		k, err = t.Generate(*kind, *label)
	}
	if err != nil {
		return fmt.Errorf("the key %s: %w", *label, err)
	}
	name := *cn
	if name = strings.TrimSpace(name); name == "" {
		name = *label
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, k)
	if err != nil {
		return err
	}
	return pem.Encode(out, &pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}
