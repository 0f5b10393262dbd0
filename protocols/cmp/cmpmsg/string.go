package cmpmsg

import (
	"fmt"
	"strings"
)

// String is the name of the body in RFC 9810 section 5.1.2, such as "ir".
func (t BodyType) String() string {
	names := [...]string{
		"ir", "ip", "cr", "cp", "p10cr", "popdecc", "popdecr", "kur", "kup", "krr", "krp", "rr", "rp", "ccr", "ccp", "ckuann",
		"cann", "rann", "crlann", "pkiconf", "nested", "genm", "genp", "error", "certConf", "pollReq", "pollRep",
	}
	if t < 0 || int(t) >= len(names) {
		return fmt.Sprintf("body %d", int(t))
	}
	return names[t]
}

// String is the name of the status in RFC 9810 section 5.2.3, such as "grantedWithMods".
func (s Status) String() string {
	names := [...]string{
		"accepted", "grantedWithMods", "rejection", "waiting", "revocationWarning", "revocationNotification", "keyUpdateWarning",
	}
	if s < 0 || int(s) >= len(names) {
		return fmt.Sprintf("status %d", int(s))
	}
	return names[s]
}

// String is the names of the bits in RFC 9810 section 5.2.3, such as "badPOP" or "badAlg,badRequest"; "" when there are none.
func (f FailInfo) String() string {
	names := [...]string{
		"badAlg", "badMessageCheck", "badRequest", "badTime", "badCertId", "badDataFormat", "wrongAuthority", "incorrectData",
		"missingTimeStamp", "badPOP", "certRevoked", "certConfirmed", "wrongIntegrity", "badRecipientNonce", "timeNotAvailable",
		"unacceptedPolicy", "unacceptedExtension", "addInfoNotAvailable", "badSenderNonce", "badCertTemplate",
		"signerNotTrusted", "transactionIdInUse", "unsupportedVersion", "notAuthorized", "systemUnavail", "systemFailure",
		"duplicateCertReq",
	}
	var set []string
	for i := range 32 {
		switch {
		case f>>i&1 == 0:
		case i < len(names):
			set = append(set, names[i])
		default:
			set = append(set, fmt.Sprintf("bit %d", i))
		}
	}
	return strings.Join(set, ",")
}

// String is the name of the choice in RFC 4211 section 4, such as "signature".
func (k POPKind) String() string {
	switch k {
	case POPRAVerified:
		return "raVerified"
	case POPSignature:
		return "signature"
	case POPKeyEncipherment:
		return "keyEncipherment"
	case POPKeyAgreement:
		return "keyAgreement"
	}
	return fmt.Sprintf("proof of possession %d", int(k))
}
