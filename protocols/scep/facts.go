package scep

import (
	"fmt"

	"github.com/muster-pki/muster/gateway/pkix"
)

// facts is what the operator is shown of a message that was understood: what it is, how it is protected, and what it is
// about.
func (x *exchange) facts(csr *pkix.CSR) string {
	m := x.message
	return fmt.Sprintf("%s, signed with %v by %s, enveloped with %v, PKCS#10 of %d bytes; a key of type %s",
		messageTypeName(m.kind), m.digest, pkix.FormatName(m.signed.Signer.RawSubject), m.cipher, len(csr.Raw), pkix.KeyName(csr.Key))
}

// messageTypeName is how RFC 8894 section 3.2.1.2 calls a message type.
func messageTypeName(kind string) string {
	switch kind {
	case typePKCSReq:
		return "PKCSReq"
	case typeRenewalReq:
		return "RenewalReq"
	case typeCertPoll:
		return "CertPoll"
	case typeGetCert:
		return "GetCert"
	case typeGetCRL:
		return "GetCRL"
	}
	return "messageType " + kind
}
