package cmpmsg

import (
	"math"

	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// publicationInfo reads a PKIPublicationInfo for its form.
//
//	PKIPublicationInfo ::= SEQUENCE {                   -- RFC 4211 section 6.3
//	    action    INTEGER { dontPublish (0), pleasePublish (1) },
//	    pubInfos  SEQUENCE SIZE (1..MAX) OF SinglePubInfo OPTIONAL }
//	SinglePubInfo ::= SEQUENCE {
//	    pubMethod    INTEGER { dontCare (0), x500 (1), web (2), ldap (3) },
//	    pubLocation  GeneralName OPTIONAL }
func (in *input) publicationInfo() (p PublicationInfo) {
	const what = "PKIPublicationInfo"
	in.sequence(what, func(in *input) {
		p.Publish = in.int(what+" action", 0, 1) == 1
		if !in.next(cbasn1.SEQUENCE) {
			return
		}
		in.list(what+" pubInfos", 0, maxControls, func(in *input) {
			var l PublicationPlace
			in.sequence("SinglePubInfo", func(in *input) {
				l.Method = int(in.int("pubMethod", 0, math.MaxInt32))
				if in.more() {
					l.Location = in.generalName("pubLocation")
				}
			})
			p.Places = append(p.Places, l)
		})
	})
	return p
}

// PublicationInfo is a PKIPublicationInfo: the value of the control OIDPublicationInfo, and a part of CertifiedKeyPair.
type PublicationInfo struct {
	Publish bool // pleasePublish
	Places  []PublicationPlace
}

// PublicationPlace is a SinglePubInfo.
type PublicationPlace struct {
	Method   int    // 0 dontCare, 1 x500, 2 web, 3 ldap
	Location []byte // DER GeneralName; nil when absent
}

// ParsePublicationInfo reads a DER PKIPublicationInfo. Errors are *Error.
func ParsePublicationInfo(der []byte) (*PublicationInfo, error) {
	var p PublicationInfo
	if err := parseValue(der, "PKIPublicationInfo", func(in *input) { p = in.publicationInfo() }); err != nil {
		return nil, err
	}
	return &p, nil
}

// ParseText reads a DER UTF8String of at most 4096 octets, as the values of regToken, authenticator and utf8Pairs are
// (RFC 4211 sections 6.1, 6.2 and 7.1). Errors are *Error.
func ParseText(der []byte) (s string, err error) {
	err = parseValue(der, "UTF8String", func(in *input) { s = in.utf8("UTF8String") })
	if err != nil {
		return "", err
	}
	return s, nil
}

// MarshalText is the DER UTF8String of s.
func MarshalText(s string) ([]byte, error) {
	return build(func(b *builder) { b.utf8(s) })
}

// ArchiveOptions is a PKIArchiveOptions, the value of the control OIDArchiveOptions. One of the fields is meant; none is
// archiveRemGenPrivKey FALSE.
//
//	PKIArchiveOptions ::= CHOICE {                      -- RFC 4211 section 6.4
//	    encryptedPrivKey      [0] EncryptedKey,         -- explicit, as EncryptedKey is a CHOICE
//	    keyGenParameters      [1] KeyGenParameters,     -- OCTET STRING
//	    archiveRemGenPrivKey  [2] BOOLEAN }
type ArchiveOptions struct {
	EncryptedKey     []byte // DER EncryptedKey
	KeyGenParameters []byte
	ArchiveGenerated bool
}

// ParseArchiveOptions reads a DER PKIArchiveOptions. Errors are *Error.
func ParseArchiveOptions(der []byte) (*ArchiveOptions, error) {
	const what = "PKIArchiveOptions"
	var o ArchiveOptions
	err := parseValue(der, what, func(in *input) {
		at := in.s
		if in.tagged(0, what, func(in *input) { o.EncryptedKey = in.encryptedKey("encryptedPrivKey") }) {
			return
		}
		if der := in.take(primitive(1)); der != nil {
			o.KeyGenParameters = keep(in.open(der).s)
			return
		}
		der := in.take(primitive(2))
		if len(der) != 3 || der[2] != 0 && der[2] != 0xff {
			in.syntax(at, what, "no option of RFC 4211")
			return
		}
		o.ArchiveGenerated = der[2] != 0
	})
	if err != nil {
		return nil, err
	}
	return &o, nil
}

// ParsePublicKey checks the form of a DER SubjectPublicKeyInfo, the value of the control OIDProtocolEncrKey, and returns it.
// Errors are *Error.
func ParsePublicKey(der []byte) (spki []byte, err error) {
	err = parseValue(der, "SubjectPublicKeyInfo", func(in *input) { spki = in.publicKey("SubjectPublicKeyInfo") })
	if err != nil {
		return nil, err
	}
	return spki, nil
}

// Marshal is the DER of the PKIPublicationInfo.
func (p *PublicationInfo) Marshal() ([]byte, error) {
	return build(func(b *builder) {
		b.sequence(func(b *builder) {
			action := int64(0)
			if p.Publish {
				action = 1
			}
			b.AddASN1Int64(action)
			if len(p.Places) == 0 {
				return
			}
			b.sequence(func(b *builder) {
				for _, l := range p.Places {
					b.sequence(func(b *builder) {
						b.AddASN1Int64(int64(l.Method))
						if l.Location != nil {
							b.generalName(l.Location, "pubLocation")
						}
					})
				}
			})
		})
	})
}

// Marshal is the DER of the PKIArchiveOptions.
func (o *ArchiveOptions) Marshal() ([]byte, error) {
	return build(func(b *builder) {
		switch {
		case o.EncryptedKey != nil:
			b.tagged(0, func(b *builder) { b.encryptedKey(o.EncryptedKey, "encryptedPrivKey") })
		case o.KeyGenParameters != nil:
			b.add(primitive(1), func(b *builder) { b.AddBytes(o.KeyGenParameters) })
		case o.ArchiveGenerated:
			b.add(primitive(2), func(b *builder) { b.AddUint8(0xff) })
		default:
			b.add(primitive(2), func(b *builder) { b.AddUint8(0) })
		}
	})
}
