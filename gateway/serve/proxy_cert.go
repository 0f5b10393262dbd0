package serve

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/muster-pki/muster/gateway/pkix"
)

// certForm is a form in which proxies pass on a client's certificate.
type certForm struct {
	named bool // the operator may name its header
	// read gives the client's certificate and what came with it, nil for a client without one. It has no trust in anything but that
	// the proxy wrote it: the chain is judged by the endpoint.
	read func(h http.Header, header string) ([]*x509.Certificate, error)
}

// forms are they, by what stands in the configuration.
var forms = map[string]certForm{
	"":        {read: func(http.Header, string) ([]*x509.Certificate, error) { return nil, nil }},
	"rfc9440": {read: readRFC9440},
	"nginx":   {named: true, read: readEscapedPEM},
	"haproxy": {named: true, read: readBase64DER},
	"envoy":   {read: readXFCC},
}

var errManyCertificates = fmt.Errorf("more than %d certificates", pkix.MaxChain)

// bounded is the value of a header that may stand once, within maxCertHeader.
func bounded(h http.Header, name string) (string, error) {
	v, err := single(h, name)
	if err == nil && len(v) > maxCertHeader {
		err = fmt.Errorf("%s is longer than %d bytes", name, maxCertHeader)
	}
	return v, err
}

// readRFC9440 reads Client-Cert, an Item, and Client-Cert-Chain, a List that may stand in several lines (RFC 9440 sections 2.2, 2.3), of
// Byte Sequences (RFC 8941 section 3.3.5) without parameters.
func readRFC9440(h http.Header, _ string) ([]*x509.Certificate, error) {
	const one, more = "Client-Cert", "Client-Cert-Chain"
	leaf, err := bounded(h, one)
	if err != nil {
		return nil, err
	}
	rest := strings.Trim(strings.Join(h.Values(more), ","), " \t,")
	switch {
	case leaf == "" && rest == "":
		return nil, nil
	case leaf == "":
		return nil, fmt.Errorf("%s without %s (RFC 9440 section 2.3)", more, one)
	case len(rest) > maxCertHeader:
		return nil, fmt.Errorf("%s is longer than %d bytes", more, maxCertHeader)
	}
	list := []string{leaf}
	if rest != "" {
		list = append(list, strings.Split(rest, ",")...)
	}
	var chain []*x509.Certificate
	for i, item := range list {
		name := one
		if i > 0 {
			name = more
		}
		item = strings.Trim(item, " \t")
		if len(item) < 2 || item[0] != ':' || item[len(item)-1] != ':' {
			return nil, fmt.Errorf("%s: base64 between colons is wanted (RFC 9440 section 2.1)", name)
		}
		c, err := oneDER(item[1 : len(item)-1])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if chain = append(chain, c); len(chain) > pkix.MaxChain {
			return nil, fmt.Errorf("%s: %w", more, errManyCertificates)
		}
	}
	return chain, nil
}

// oneDER reads a certificate from base64, with or without padding, whatever the bits behind the last byte (RFC 8941 section 4.2.7).
func oneDER(s string) (*x509.Certificate, error) {
	der, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(s, "="))
	if err != nil {
		return nil, errors.New("it is not base64")
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("it does not hold a certificate in DER: %w", err)
	}
	return c, nil
}

// readBase64DER reads what haproxy makes by %[ssl_c_der,base64]: the client's certificate alone.
func readBase64DER(h http.Header, header string) ([]*x509.Certificate, error) {
	v, err := bounded(h, header)
	if err != nil || v == "" {
		return nil, err
	}
	c, err := oneDER(v)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", header, err)
	}
	return []*x509.Certificate{c}, nil
}

// readEscapedPEM reads what nginx makes by $ssl_client_escaped_cert: PEM, percent-encoded. Others put the chain behind the client's
// certificate.
func readEscapedPEM(h http.Header, header string) ([]*x509.Certificate, error) {
	v, err := bounded(h, header)
	if err != nil || v == "" {
		return nil, err
	}
	chain, err := escapedPEM(v)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", header, err)
	}
	return chain, nil
}

// escapedPEM reads certificates, at least one, and nothing else between them than white space.
func escapedPEM(v string) ([]*x509.Certificate, error) {
	text, err := url.PathUnescape(v) // a plus sign is one
	if err != nil {
		return nil, errors.New("it is not percent-encoded")
	}
	return parsePEM([]byte(text), pkix.MaxChain)
}

// begin is how a certificate begins in PEM (RFC 7468 section 5.1).
var begin = []byte("-----BEGIN CERTIFICATE-----")

func parsePEM(text []byte, most int) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for rest := bytes.TrimSpace(text); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		block, after := pem.Decode(rest)
		// pem.Decode goes on to the next block behind a broken one, whose place another certificate would take.
		if block == nil || !bytes.HasPrefix(rest, begin) || bytes.Count(rest[:len(rest)-len(after)], []byte("-----BEGIN")) != 1 {
			return nil, errors.New("certificates in PEM are wanted, and nothing else")
		}
		if len(all) == most {
			return nil, fmt.Errorf("more than %d certificates", most)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("it does not hold a certificate: %w", err)
		}
		all, rest = append(all, c), after
	}
	if len(all) == 0 {
		return nil, errors.New("it holds no certificate")
	}
	return all, nil
}

// readXFCC reads X-Forwarded-Client-Cert as Envoy writes it: elements, of which each proxy on the way adds one at the end, of pairs.
// The last one is the nearest proxy's. It has the client's certificate in Cert, and with those that came along in Chain, as nginx's form
// has them; Hash, the SHA-256 of the certificate, has to be its.
func readXFCC(h http.Header, _ string) ([]*x509.Certificate, error) {
	const name = "X-Forwarded-Client-Cert"
	v, err := bounded(h, name)
	if err != nil || v == "" {
		return nil, err
	}
	fail := func(err error) ([]*x509.Certificate, error) { return nil, fmt.Errorf("%s: %w", name, err) }
	elements, err := splitQuoted(v, ',')
	if err != nil || len(elements) == 0 {
		return fail(errors.Join(errors.New("it is not a list of elements"), err))
	}
	pairs, err := splitQuoted(elements[len(elements)-1], ';')
	if err != nil {
		return fail(err)
	}
	found := map[string]string{}
	for _, pair := range pairs {
		key, value, ok := strings.Cut(pair, "=")
		key = strings.ToLower(key)
		if !ok {
			return fail(fmt.Errorf("%q is not a pair", cut(pair)))
		}
		if key != "cert" && key != "chain" && key != "hash" {
			continue // By, Subject, URI, DNS, some of which may stand more than once
		}
		if _, twice := found[key]; twice {
			return fail(fmt.Errorf("%s stands twice in an element", key))
		}
		if found[key], err = unquote(value); err != nil {
			return fail(err)
		}
	}
	var leaf, chain []*x509.Certificate
	if found["cert"] != "" {
		if leaf, err = escapedPEM(found["cert"]); err != nil {
			return fail(fmt.Errorf("in Cert: %w", err))
		}
	}
	if found["chain"] != "" {
		if chain, err = escapedPEM(found["chain"]); err != nil {
			return fail(fmt.Errorf("in Chain: %w", err))
		}
	}
	switch {
	case leaf == nil && chain == nil:
		return fail(errors.New("the last element has neither Cert nor Chain: set_current_client_cert_details: {cert: true, chain: true} has Envoy write them"))
	case leaf != nil && len(leaf) != 1:
		return fail(errors.New("in Cert: it is one certificate"))
	case leaf != nil && chain != nil && !chain[0].Equal(leaf[0]):
		return fail(errors.New("the Chain does not begin with Cert"))
	case chain == nil:
		chain = leaf
	}
	if sum := sha256.Sum256(chain[0].Raw); found["hash"] != "" && !strings.EqualFold(found["hash"], hex.EncodeToString(sum[:])) {
		return fail(errors.New("the Hash is not that of the certificate"))
	}
	return chain, nil
}

// readCAs reads a PEM file of CA certificates.
func readCAs(path string) ([]*x509.Certificate, error) {
	f, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	all, err := parsePEM(f, 1000)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return all, nil
}
