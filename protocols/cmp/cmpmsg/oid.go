package cmpmsg

import "encoding/asn1"

// InfoType and value syntax of generalInfo, genm and genp elements (RFC 9810 sections 5.1.1 and 5.3.19).
var (
	OIDCAProtEncCert     = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 4, 1}  // CMPCertificate
	OIDSignKeyPairTypes  = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 4, 2}  // SEQUENCE OF AlgorithmIdentifier
	OIDEncKeyPairTypes   = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 4, 3}  // SEQUENCE OF AlgorithmIdentifier
	OIDPreferredSymmAlg  = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 4, 4}  // AlgorithmIdentifier
	OIDCAKeyUpdateInfo   = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 4, 5}  // CAKeyUpdAnnContent, deprecated
	OIDCurrentCRL        = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 4, 6}  // CertificateList
	OIDUnsupportedOIDs   = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 4, 7}  // SEQUENCE OF OBJECT IDENTIFIER
	OIDKeyPairParamReq   = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 4, 10} // OBJECT IDENTIFIER
	OIDKeyPairParamRep   = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 4, 11} // AlgorithmIdentifier
	OIDRevPassphrase     = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 4, 12} // EncryptedKey
	OIDImplicitConfirm   = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 4, 13} // NULL
	OIDConfirmWaitTime   = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 4, 14} // GeneralizedTime
	OIDOrigPKIMessage    = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 4, 15} // PKIMessages
	OIDSuppLangTags      = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 4, 16} // SEQUENCE OF UTF8String
	OIDCACerts           = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 4, 17} // SEQUENCE OF CMPCertificate
	OIDRootCAKeyUpdate   = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 4, 18} // RootCaKeyUpdateContent
	OIDCertReqTemplate   = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 4, 19} // CertReqTemplateContent
	OIDRootCACert        = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 4, 20} // CMPCertificate
	OIDCertProfile       = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 4, 21} // SEQUENCE OF UTF8String
	OIDCRLStatusList     = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 4, 22} // SEQUENCE OF CRLStatus
	OIDCRLs              = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 4, 23} // SEQUENCE OF CertificateList
	OIDKemCiphertextInfo = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 4, 24} // KemCiphertextInfo
)

// Controls (RFC 4211 section 6, RFC 9810 section 5.3.19.16) and registration info (RFC 4211 section 7) of CRMF.
var (
	OIDRegToken        = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 5, 1, 1}  // UTF8String: ParseText
	OIDAuthenticator   = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 5, 1, 2}  // UTF8String: ParseText
	OIDPublicationInfo = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 5, 1, 3}  // ParsePublicationInfo
	OIDArchiveOptions  = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 5, 1, 4}  // ParseArchiveOptions
	OIDOldCertID       = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 5, 1, 5}  // ParseCertID
	OIDProtocolEncrKey = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 5, 1, 6}  // ParsePublicKey
	OIDAltCertTemplate = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 5, 1, 7}  // AttributeTypeAndValue
	OIDAlgID           = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 5, 1, 11} // AlgorithmIdentifier
	OIDRSAKeyLen       = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 5, 1, 12} // INTEGER
	OIDUTF8Pairs       = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 5, 2, 1}  // UTF8String: ParseText
	OIDCertReq         = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 5, 2, 2}  // CertRequest
)

// MAC algorithms (RFC 9810 section 5.1.3, RFC 8018).
var (
	OIDPasswordBasedMac = asn1.ObjectIdentifier{1, 2, 840, 113533, 7, 66, 13}
	OIDKemBasedMac      = asn1.ObjectIdentifier{1, 2, 840, 113533, 7, 66, 16}
	OIDDHBasedMac       = asn1.ObjectIdentifier{1, 2, 840, 113533, 7, 66, 30}
	OIDPBKDF2           = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
	oidPBES2            = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13} // see pbmac1Params
	OIDPBMAC1           = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 14}
)

// InfoTypeName is the name of an infoType in RFC 9810 section 5.3.19, "" for another.
func InfoTypeName(oid asn1.ObjectIdentifier) string {
	return nameUnder(oid, asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 4}, []string{
		1: "caProtEncCert", 2: "signKeyPairTypes", 3: "encKeyPairTypes", 4: "preferredSymmAlg", 5: "caKeyUpdateInfo",
		6: "currentCRL", 7: "unsupportedOIDs", 10: "keyPairParamReq", 11: "keyPairParamRep", 12: "revPassphrase",
		13: "implicitConfirm", 14: "confirmWaitTime", 15: "origPKIMessage", 16: "suppLangTags", 17: "caCerts",
		18: "rootCaKeyUpdate", 19: "certReqTemplate", 20: "rootCaCert", 21: "certProfile", 22: "crlStatusList", 23: "crls",
		24: "KemCiphertextInfo",
	})
}

// ControlName is the name of a control or of a registration info in RFC 4211 and RFC 9810, "" for another.
func ControlName(oid asn1.ObjectIdentifier) string {
	name := nameUnder(oid, asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 5, 1}, []string{
		1: "regToken", 2: "authenticator", 3: "pkiPublicationInfo", 4: "pkiArchiveOptions", 5: "oldCertID",
		6: "protocolEncrKey", 7: "altCertTemplate", 11: "algId", 12: "rsaKeyLen",
	})
	if name == "" {
		name = nameUnder(oid, asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 5, 2}, []string{1: "utf8Pairs", 2: "certReq"})
	}
	return name
}

// nameUnder is the name of the last arc of oid, when the others are those of arc.
func nameUnder(oid, arc asn1.ObjectIdentifier, names []string) string {
	last := len(oid) - 1
	if last != len(arc) || !oid[:last].Equal(arc) || oid[last] < 0 || oid[last] >= len(names) {
		return ""
	}
	return names[oid[last]]
}
