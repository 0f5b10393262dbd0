package serve

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"strings"
	"testing"
)

// Names of CAs that no handshake could carry, or that small clients could not read, are not told; clients connect all the same.
func TestManyCANames(t *testing.T) {
	name, err := asn1.Marshal(pkix.Name{CommonName: strings.Repeat("a", 60)}.ToRDNSequence())
	if err != nil {
		t.Fatal(err)
	}
	most := maxCANames/(2+len(name)) - 2 // the listener's own CA is one more
	for n, told := range map[int]int{most: most + 1, most + 4: 0, 2000: 0} {
		p := newPoliced(t)
		var cas []*x509.Certificate
		for i := range n {
			cas = append(cas, &x509.Certificate{Raw: fmt.Append(nil, i), RawSubject: name})
		}
		addr := p.put("a", &TLS{}, cas...)
		for _, version := range bothVersions {
			var asked *tls.CertificateRequestInfo
			c, err := tls.Dial("tcp", addr, &tls.Config{
				RootCAs: p.ca.pool(), Time: p.clock, MinVersion: version, MaxVersion: version,
				GetClientCertificate: func(i *tls.CertificateRequestInfo) (*tls.Certificate, error) {
					asked = i
					return &tls.Certificate{}, nil
				},
			})
			if err != nil {
				t.Errorf("%d CAs, TLS %x: %v", n, version, err)
				continue
			}
			c.Close()
			if len(asked.AcceptableCAs) != told {
				t.Errorf("%d CAs, TLS %x: %d are told, want %d", n, version, len(asked.AcceptableCAs), told)
			}
		}
	}
}
