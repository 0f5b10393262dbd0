package decode

import (
	"cmp"
	"encoding/asn1"
	"fmt"
	"strings"

	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// oidNames are the names that standards give to what occurs in CMP and SCEP messages.
var oidNames = map[string]string{
	// Public keys and signatures (RFC 3279, 4055, 5480, 5758, 8410, 9881).
	"1.2.840.113549.1.1.1":    "rsaEncryption",
	"1.2.840.113549.1.1.4":    "md5WithRSAEncryption",
	"1.2.840.113549.1.1.5":    "sha1WithRSAEncryption",
	"1.2.840.113549.1.1.7":    "RSAES-OAEP",
	"1.2.840.113549.1.1.8":    "MGF1",
	"1.2.840.113549.1.1.10":   "RSASSA-PSS",
	"1.2.840.113549.1.1.11":   "sha256WithRSAEncryption",
	"1.2.840.113549.1.1.12":   "sha384WithRSAEncryption",
	"1.2.840.113549.1.1.13":   "sha512WithRSAEncryption",
	"1.2.840.113549.1.1.14":   "sha224WithRSAEncryption",
	"1.2.840.10045.2.1":       "id-ecPublicKey",
	"1.2.840.10045.4.1":       "ecdsa-with-SHA1",
	"1.2.840.10045.4.3.1":     "ecdsa-with-SHA224",
	"1.2.840.10045.4.3.2":     "ecdsa-with-SHA256",
	"1.2.840.10045.4.3.3":     "ecdsa-with-SHA384",
	"1.2.840.10045.4.3.4":     "ecdsa-with-SHA512",
	"1.2.840.10045.3.1.7":     "P-256",
	"1.3.132.0.33":            "P-224",
	"1.3.132.0.34":            "P-384",
	"1.3.132.0.35":            "P-521",
	"1.3.132.0.10":            "secp256k1",
	"1.3.36.3.3.2.8.1.1.7":    "brainpoolP256r1",
	"1.3.36.3.3.2.8.1.1.11":   "brainpoolP384r1",
	"1.3.36.3.3.2.8.1.1.13":   "brainpoolP512r1",
	"1.2.840.10040.4.1":       "DSA",
	"1.3.101.110":             "X25519",
	"1.3.101.111":             "X448",
	"1.3.101.112":             "Ed25519",
	"1.3.101.113":             "Ed448",
	"2.16.840.1.101.3.4.3.17": "ML-DSA-44",
	"2.16.840.1.101.3.4.3.18": "ML-DSA-65",
	"2.16.840.1.101.3.4.3.19": "ML-DSA-87",
	// Digests and MACs (RFC 4211 section 4.4, 8018, 9481, 9810 section 5.1.3).
	"1.2.840.113549.2.5":        "MD5",
	"1.3.14.3.2.26":             "SHA-1",
	"2.16.840.1.101.3.4.2.1":    "SHA-256",
	"2.16.840.1.101.3.4.2.2":    "SHA-384",
	"2.16.840.1.101.3.4.2.3":    "SHA-512",
	"2.16.840.1.101.3.4.2.4":    "SHA-224",
	"1.2.840.113549.2.7":        "HMAC-SHA1",
	"1.2.840.113549.2.8":        "HMAC-SHA224",
	"1.2.840.113549.2.9":        "HMAC-SHA256",
	"1.2.840.113549.2.10":       "HMAC-SHA384",
	"1.2.840.113549.2.11":       "HMAC-SHA512",
	"1.3.6.1.5.5.8.1.1":         "HMAC-MD5",
	"1.3.6.1.5.5.8.1.2":         "HMAC-SHA1",
	"1.2.840.113533.7.66.13":    "PasswordBasedMac",
	"1.2.840.113533.7.66.16":    "KemBasedMac",
	"1.2.840.113533.7.66.30":    "DHBasedMac",
	"1.2.840.113549.1.5.12":     "PBKDF2",
	"1.2.840.113549.1.5.13":     "PBES2",
	"1.2.840.113549.1.5.14":     "PBMAC1",
	"1.2.840.113549.1.9.16.3.9": "PWRI-KEK",
	// Ciphers.
	"1.3.14.3.2.7":            "DES-CBC",
	"1.2.840.113549.3.2":      "RC2-CBC",
	"1.2.840.113549.3.7":      "DES-EDE3-CBC",
	"2.16.840.1.101.3.4.1.2":  "AES-128-CBC",
	"2.16.840.1.101.3.4.1.22": "AES-192-CBC",
	"2.16.840.1.101.3.4.1.42": "AES-256-CBC",
	"2.16.840.1.101.3.4.1.5":  "AES-128-wrap",
	"2.16.840.1.101.3.4.1.25": "AES-192-wrap",
	"2.16.840.1.101.3.4.1.45": "AES-256-wrap",
	"2.16.840.1.101.3.4.1.6":  "AES-128-GCM",
	"2.16.840.1.101.3.4.1.26": "AES-192-GCM",
	"2.16.840.1.101.3.4.1.46": "AES-256-GCM",
	// CMS content types (RFC 5652, 5958).
	"1.2.840.113549.1.7.1":       "data",
	"1.2.840.113549.1.7.2":       "signedData",
	"1.2.840.113549.1.7.3":       "envelopedData",
	"1.2.840.113549.1.7.5":       "digestedData",
	"1.2.840.113549.1.7.6":       "encryptedData",
	"1.2.840.113549.1.9.16.1.21": "encKeyWithID",
	"2.16.840.1.101.2.1.2.78.5":  "asymmetricKeyPackage",
	// Attributes (RFC 2985, 5652, 8894 section 3.2.1; Microsoft's).
	"1.2.840.113549.1.9.1":       "emailAddress",
	"1.2.840.113549.1.9.2":       "unstructuredName",
	"1.2.840.113549.1.9.3":       "contentType",
	"1.2.840.113549.1.9.4":       "messageDigest",
	"1.2.840.113549.1.9.5":       "signingTime",
	"1.2.840.113549.1.9.7":       "challengePassword",
	"1.2.840.113549.1.9.8":       "unstructuredAddress",
	"1.2.840.113549.1.9.14":      "extensionRequest",
	"1.2.840.113549.1.9.15":      "smimeCapabilities",
	"1.2.840.113549.1.9.16.2.12": "signingCertificate",
	"1.2.840.113549.1.9.16.2.47": "signingCertificateV2",
	"1.2.840.113549.1.9.52":      "cmsAlgorithmProtection",
	"2.16.840.1.113733.1.9.2":    "messageType",
	"2.16.840.1.113733.1.9.3":    "pkiStatus",
	"2.16.840.1.113733.1.9.4":    "failInfo",
	"2.16.840.1.113733.1.9.5":    "senderNonce",
	"2.16.840.1.113733.1.9.6":    "recipientNonce",
	"2.16.840.1.113733.1.9.7":    "transactionID",
	"1.3.6.1.5.5.7.24.1":         "failInfoText",
	"1.3.6.1.4.1.311.2.1.14":     "extensionRequest (Microsoft)",
	"1.3.6.1.4.1.311.13.2.2":     "enrollmentCSP",
	"1.3.6.1.4.1.311.13.2.3":     "osVersion",
	"1.3.6.1.4.1.311.20.2":       "certificateTemplateName",
	"1.3.6.1.4.1.311.21.7":       "certificateTemplate",
	"1.3.6.1.4.1.311.21.10":      "applicationCertPolicies",
	"1.3.6.1.4.1.311.21.20":      "requestClientInfo",
	"1.3.6.1.4.1.311.25.2":       "ntdsObjectSid",
	// Extensions (RFC 5280 section 4.2).
	"2.5.29.9":               "subjectDirectoryAttributes",
	"2.5.29.14":              "subjectKeyIdentifier",
	"2.5.29.15":              "keyUsage",
	"2.5.29.16":              "privateKeyUsagePeriod",
	"2.5.29.17":              "subjectAltName",
	"2.5.29.18":              "issuerAltName",
	"2.5.29.19":              "basicConstraints",
	"2.5.29.20":              "cRLNumber",
	"2.5.29.21":              "reasonCode",
	"2.5.29.23":              "holdInstructionCode",
	"2.5.29.24":              "invalidityDate",
	"2.5.29.27":              "deltaCRLIndicator",
	"2.5.29.28":              "issuingDistributionPoint",
	"2.5.29.29":              "certificateIssuer",
	"2.5.29.30":              "nameConstraints",
	"2.5.29.31":              "cRLDistributionPoints",
	"2.5.29.32":              "certificatePolicies",
	"2.5.29.32.0":            "anyPolicy",
	"2.5.29.33":              "policyMappings",
	"2.5.29.35":              "authorityKeyIdentifier",
	"2.5.29.36":              "policyConstraints",
	"2.5.29.37":              "extKeyUsage",
	"2.5.29.46":              "freshestCRL",
	"2.5.29.54":              "inhibitAnyPolicy",
	"1.3.6.1.5.5.7.1.1":      "authorityInfoAccess",
	"1.3.6.1.5.5.7.1.11":     "subjectInfoAccess",
	"1.3.6.1.5.5.7.1.24":     "tlsFeature",
	"2.16.840.1.113730.1.1":  "netscapeCertType",
	"2.16.840.1.113730.1.13": "netscapeComment",
	// Extended key usages.
	"2.5.29.37.0":            "anyExtendedKeyUsage",
	"1.3.6.1.5.5.7.3.1":      "serverAuth",
	"1.3.6.1.5.5.7.3.2":      "clientAuth",
	"1.3.6.1.5.5.7.3.3":      "codeSigning",
	"1.3.6.1.5.5.7.3.4":      "emailProtection",
	"1.3.6.1.5.5.7.3.5":      "ipsecEndSystem",
	"1.3.6.1.5.5.7.3.6":      "ipsecTunnel",
	"1.3.6.1.5.5.7.3.7":      "ipsecUser",
	"1.3.6.1.5.5.7.3.8":      "timeStamping",
	"1.3.6.1.5.5.7.3.9":      "OCSPSigning",
	"1.3.6.1.5.5.7.3.17":     "ipsecIKE",
	"1.3.6.1.5.5.7.3.27":     "cmcCA",
	"1.3.6.1.5.5.7.3.28":     "cmcRA",
	"1.3.6.1.5.5.7.3.32":     "cmKGA",
	"1.3.6.1.4.1.311.20.2.2": "smartcardLogon",
	"1.3.6.1.4.1.311.10.3.4": "encryptingFileSystem",
}

// oidName is the name of an OID, or its digits.
func oidName(oid asn1.ObjectIdentifier) string {
	if name := cmp.Or(cmpmsg.InfoTypeName(oid), cmpmsg.ControlName(oid)); name != "" {
		return name
	}
	if name, ok := oidNames[oid.String()]; ok {
		return name
	}
	return oid.String()
}

// numbered is a name with the number that stands for it on the wire. What has no name is called by its number already.
func numbered(name fmt.Stringer, n int) string {
	if s := name.String(); !strings.HasSuffix(s, fmt.Sprint(n)) {
		return fmt.Sprintf("%s (%d)", s, n)
	}
	return name.String()
}

// choice is the name of a tag number or of an ENUMERATED, with the number.
func choice(names []string, n int) string {
	if n >= 0 && n < len(names) && names[n] != "" {
		return fmt.Sprintf("%s (%d)", names[n], n)
	}
	return fmt.Sprintf("unknown (%d)", n)
}

// failures are the bits that are set, in words.
func failures(f cmpmsg.FailInfo) string {
	var out []string
	for bit := range 32 {
		if one := cmpmsg.FailInfo(1) << bit; f&one != 0 {
			out = append(out, numbered(one, bit))
		}
	}
	return strings.Join(out, ", ")
}

// crlReasons are CRLReason (RFC 5280 section 5.3.1).
var crlReasons = []string{"unspecified", "keyCompromise", "cACompromise", "affiliationChanged", "superseded", "cessationOfOperation",
	"certificateHold", "", "removeFromCRL", "privilegeWithdrawn", "aACompromise"}

// SCEP's numbers, which travel as digits in a PrintableString (RFC 8894 section 3.2.1).
var (
	scepTypes = map[string]string{"3": "CertRep", "17": "RenewalReq", "18": "UpdateReq", "19": "PKCSReq", "20": "CertPoll",
		"21": "GetCert", "22": "GetCRL"}
	scepStatuses = map[string]string{"0": "SUCCESS", "2": "FAILURE", "3": "PENDING"}
	scepFailures = map[string]string{"0": "badAlg", "1": "badMessageCheck", "2": "badRequest", "3": "badTime", "4": "badCertId"}
)
