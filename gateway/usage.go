package gateway

import (
	"crypto/x509"
	"encoding/asn1"
	"strings"

	"github.com/muster-pki/muster/gateway/pkix"
	"golang.org/x/crypto/cryptobyte"
)

// keyUsageOf reads the value of the extension keyUsage.
func keyUsageOf(der []byte) (x509.KeyUsage, bool) {
	var bits asn1.BitString
	if rest, err := asn1.Unmarshal(der, &bits); err != nil || len(rest) > 0 {
		return 0, false
	}
	var u x509.KeyUsage
	for i := range pkix.KeyUsages {
		if bits.At(i) != 0 {
			u |= 1 << i
		}
	}
	return u, true
}

// keyUsageValue is the value of the extension keyUsage (RFC 5280 section 4.2.1.3).
func keyUsageValue(u x509.KeyUsage) ([]byte, error) {
	var b cryptobyte.Builder
	pkix.AddKeyUsage(&b, u)
	return b.Bytes()
}

func keyUsageNames(u x509.KeyUsage) string {
	var names []string
	for i, name := range pkix.KeyUsages {
		if u&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	if names == nil {
		return "none"
	}
	return strings.Join(names, " ")
}

// purposes are the names of key purposes that people know (RFC 5280 section 4.2.1.12 and others).
var purposes = map[string]string{
	"1.3.6.1.5.5.7.3.1": "serverAuth", "1.3.6.1.5.5.7.3.2": "clientAuth", "1.3.6.1.5.5.7.3.3": "codeSigning",
	"1.3.6.1.5.5.7.3.4": "emailProtection", "1.3.6.1.5.5.7.3.8": "timeStamping", "1.3.6.1.5.5.7.3.9": "OCSPSigning",
	"1.3.6.1.5.5.7.3.17": "ipsecIKE", "1.3.6.1.5.5.7.3.28": "cmcRA", "1.3.6.1.5.5.7.3.32": "cmKGA", "2.5.29.37.0": "anyExtendedKeyUsage",
}

func purposeName(id asn1.ObjectIdentifier) string {
	if name, ok := purposes[id.String()]; ok {
		return name
	}
	return id.String()
}
