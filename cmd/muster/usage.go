package main

import (
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// keyUsages by RFC 5280 section 4.2.1.3. keyCertSign and cRLSign are a CA's, and no device's.
var keyUsages = []struct {
	name string
	bit  x509.KeyUsage
}{
	{"digitalSignature", x509.KeyUsageDigitalSignature},
	{"nonRepudiation", x509.KeyUsageContentCommitment},
	{"contentCommitment", x509.KeyUsageContentCommitment},
	{"keyEncipherment", x509.KeyUsageKeyEncipherment},
	{"dataEncipherment", x509.KeyUsageDataEncipherment},
	{"keyAgreement", x509.KeyUsageKeyAgreement},
}

// parseKeyUsage reads profiles' key-usage; digitalSignature when none is named.
func parseKeyUsage(names []string) (x509.KeyUsage, error) {
	if len(names) == 0 {
		return x509.KeyUsageDigitalSignature, nil
	}
	var all []string
	for _, u := range keyUsages {
		all = append(all, u.name)
	}
	var usage x509.KeyUsage
	for _, n := range names {
		i := slices.Index(all, n)
		if i < 0 {
			return 0, fmt.Errorf("unknown usage %q%s", n, strictyaml.Suggest(n, all))
		}
		usage |= keyUsages[i].bit
	}
	return usage, nil
}

// purposes by RFC 5280 section 4.2.1.12; ipsecIKE is RFC 4945 section 5.1.3.12's.
var purposes = []struct {
	name string
	oid  asn1.ObjectIdentifier
}{
	{"serverAuth", asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 1}},
	{"clientAuth", asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 2}},
	{"codeSigning", asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 3}},
	{"emailProtection", asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 4}},
	{"ipsecIKE", asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 17}},
}

// parseExtKeyUsage reads profiles' ext-key-usage; clientAuth when none is named.
func parseExtKeyUsage(names []string) ([]asn1.ObjectIdentifier, error) {
	if len(names) == 0 {
		names = []string{"clientAuth"}
	}
	var all []string
	for _, p := range purposes {
		all = append(all, p.name)
	}
	var oids []asn1.ObjectIdentifier
	for _, n := range names {
		oid, err := parseOID(n)
		if i := slices.Index(all, n); i >= 0 {
			oid, err = purposes[i].oid, nil
		}
		if err != nil {
			return nil, fmt.Errorf("unknown usage %q%s, or an OID", n, strictyaml.Suggest(n, all))
		}
		if slices.ContainsFunc(oids, oid.Equal) {
			return nil, fmt.Errorf("%q stands twice", n)
		}
		oids = append(oids, oid)
	}
	return oids, nil
}

// parseOID reads a dotted OID of at least two arcs (X.660: the first is 0 to 2, the second below 40 under 0 and 1).
func parseOID(s string) (asn1.ObjectIdentifier, error) {
	parts := strings.Split(s, ".")
	if len(parts) < 2 || len(parts) > 32 {
		return nil, fmt.Errorf("%q is not an OID", s)
	}
	oid := make(asn1.ObjectIdentifier, len(parts))
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 31)
		if err != nil || len(p) > 1 && p[0] == '0' {
			return nil, fmt.Errorf("%q is not an OID", s)
		}
		oid[i] = int(n)
	}
	if oid[0] > 2 || oid[0] < 2 && oid[1] >= 40 {
		return nil, fmt.Errorf("%q is not an OID", s)
	}
	return oid, nil
}
