package authz

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/muster-pki/muster/gateway/pkix"
)

// certificateFiles lists the files of a folder that hold certificates by their names.
func certificateFiles(base, folder string) ([]string, error) {
	folder = resolve(base, folder)
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		if isCertificateFile(e.Name()) {
			files = append(files, filepath.Join(folder, e.Name()))
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s holds no file that ends in .pem, .crt, .cer or .der", folder)
	}
	return files, nil
}

func isCertificateFile(name string) bool {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".pem", ".crt", ".cer", ".der":
		return true
	}
	return false
}

// blocks returns the DER of each PEM block of the type in a file's content, or the content itself when it is no PEM.
func blocks(file string, data []byte, kind string) ([][]byte, error) {
	if !bytes.Contains(data, []byte("-----BEGIN ")) {
		return [][]byte{data}, nil
	}
	var all [][]byte
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != kind {
			return nil, fmt.Errorf("%s: a PEM block %q, where only %q is read", file, block.Type, kind)
		}
		all = append(all, block.Bytes)
	}
	if len(all) == 0 || bytes.Contains(data, []byte("-----BEGIN ")) {
		return nil, fmt.Errorf("%s: broken PEM", file)
	}
	return all, nil
}

// readCAs reads CA certificates, each once.
func readCAs(dir string, files []string) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for _, file := range files {
		data, err := readFile(dir, file)
		if err != nil {
			return nil, err
		}
		certs, err := parseCAs(file, data)
		if err != nil {
			return nil, err
		}
		all = addNew(all, certs)
	}
	return all, nil
}

// parseCAs reads the CA certificates of one file's content.
func parseCAs(file string, data []byte) ([]*x509.Certificate, error) {
	ders, err := blocks(file, data, "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	var all []*x509.Certificate
	for _, der := range ders {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		// A version 1 certificate cannot say that it is a CA (RFC 5280 section 6.1.4 (k)).
		if cert.Version == 3 && !(cert.BasicConstraintsValid && cert.IsCA) {
			return nil, fmt.Errorf("%s: %s is not a CA's certificate", file, formatSubject(cert.RawSubject))
		}
		all = append(all, cert)
	}
	return all, nil
}

// addNew appends the certificates that are not in the list.
func addNew(list, more []*x509.Certificate) []*x509.Certificate {
	for _, cert := range more {
		if !slices.ContainsFunc(list, cert.Equal) {
			list = append(list, cert)
		}
	}
	return list
}

func readBlocklist(dir, file string) (*pkix.Blocklist, error) {
	data, err := readFile(dir, file)
	if err != nil {
		return nil, err
	}
	list, err := pkix.ReadBlocklist(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return list, nil
}

// crls are complete revocation lists.
type crls []*crl

type crl struct {
	*x509.RevocationList
	file    string
	serials map[string]bool
}

// Extensions that make a list speak for some certificates only (RFC 5280 sections 5.2.4 and 5.2.5).
var (
	oidDeltaCRLIndicator        = asn1.ObjectIdentifier{2, 5, 29, 27}
	oidIssuingDistributionPoint = asn1.ObjectIdentifier{2, 5, 29, 28}
)

// readCRLs reads the lists; who signed them is for signedBy to say.
func readCRLs(dir string, files []string) (crls, error) {
	var all crls
	for _, file := range files {
		data, err := readFile(dir, file)
		if err != nil {
			return nil, err
		}
		lists, err := parseCRLs(file, data)
		if err != nil {
			return nil, err
		}
		all = append(all, lists...)
	}
	return all, nil
}

// parseCRLs reads the lists of one file's content.
func parseCRLs(file string, data []byte) (crls, error) {
	ders, err := blocks(file, data, "X509 CRL")
	if err != nil {
		return nil, err
	}
	var all crls
	for _, der := range ders {
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		for _, e := range list.Extensions {
			if e.Critical || e.Id.Equal(oidDeltaCRLIndicator) || e.Id.Equal(oidIssuingDistributionPoint) {
				return nil, fmt.Errorf("%s: a list with extension %v is not complete; only complete lists are read", file, e.Id)
			}
		}
		if list.NextUpdate.IsZero() {
			return nil, fmt.Errorf("%s: the list has no nextUpdate (RFC 5280 section 5.1.2.5)", file)
		}
		c := &crl{list, file, make(map[string]bool, len(list.RevokedCertificateEntries))}
		for _, e := range list.RevokedCertificateEntries {
			for _, x := range e.Extensions {
				if x.Critical {
					return nil, fmt.Errorf("%s: an entry with the critical extension %v: indirect lists are not read", file, x.Id)
				}
			}
			c.serials[e.SerialNumber.String()] = true
		}
		all = append(all, c)
	}
	return all, nil
}

// signedBy parts the lists into those that one of the CAs signed, and the others, which say nothing.
func (all crls) signedBy(cas []*x509.Certificate) (signed, others crls) {
	for _, c := range all {
		if slices.ContainsFunc(cas, func(ca *x509.Certificate) bool {
			return bytes.Equal(ca.RawSubject, c.RawIssuer) && c.CheckSignatureFrom(ca) == nil
		}) {
			signed = append(signed, c)
		} else {
			others = append(others, c)
		}
	}
	return signed, others
}

var errNoCRL = errors.New("no revocation list of its issuer is configured")

// revoked reports whether a list of the certificate's issuer names it. It fails when none of them is current.
func (all crls) revoked(cert *x509.Certificate, now time.Time) (bool, error) {
	err := errNoCRL
	for _, c := range all {
		if !bytes.Equal(c.RawIssuer, cert.RawIssuer) {
			continue
		}
		if len(c.AuthorityKeyId) > 0 && len(cert.AuthorityKeyId) > 0 && !bytes.Equal(c.AuthorityKeyId, cert.AuthorityKeyId) {
			continue // another CA, or another key, of the same name
		}
		// What was revoked once stays so, however old the list.
		if c.serials[cert.SerialNumber.String()] {
			return true, nil
		}
		switch {
		case now.Before(c.ThisUpdate), now.After(c.NextUpdate):
			if err != nil {
				err = fmt.Errorf("the revocation list of its issuer is for %s to %s", c.ThisUpdate.UTC().Format(time.RFC3339), c.NextUpdate.UTC().Format(time.RFC3339))
			}
		default:
			err = nil
		}
	}
	return false, err
}

func dottedOID(s string) (asn1.ObjectIdentifier, bool) {
	var oid asn1.ObjectIdentifier
	for part := range strings.SplitSeq(s, ".") {
		n, err := strconv.ParseUint(part, 10, 31)
		if err != nil {
			return nil, false
		}
		oid = append(oid, int(n))
	}
	return oid, len(oid) >= 3 && oid[0] <= 2
}
