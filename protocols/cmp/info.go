package cmp

import (
	"encoding/asn1"
	"fmt"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// asks reports whether a generalInfo element is there, whatever its value.
func asks(h *cmpmsg.Header, infoType asn1.ObjectIdentifier) bool {
	_, ok := h.Info(infoType)
	return ok
}

// maxProfile is how many bytes a profile's name may have.
const maxProfile = 255

// readProfile reads the profile that is asked for (RFC 9810 section 5.1.1.4). There is one request in a message, so
// there is one name at most; an empty one is none.
//
//	CertProfileValue ::= SEQUENCE SIZE (1..MAX) OF UTF8String
func (x *exchange) readProfile() *refusal {
	seen := false
	for _, i := range x.message.Header.GeneralInfo {
		if !i.Type.Equal(cmpmsg.OIDCertProfile) {
			continue
		}
		in := cryptobyte.String(i.Value)
		var seq, text cryptobyte.String
		switch {
		case seen, !in.ReadASN1(&seq, cbasn1.SEQUENCE), !in.Empty(), !seq.ReadASN1(&text, cbasn1.UTF8String):
			return refused(gateway.Malformed, "certProfile does not parse", nil)
		case !seq.Empty():
			return refused(gateway.Unsupported, "certProfile names more profiles than there are requests", nil)
		case len(text) > maxProfile, !utf8.Valid(text):
			return refused(gateway.Malformed, fmt.Sprintf("the name in certProfile is not UTF-8 of at most %d bytes", maxProfile), nil)
		}
		for _, r := range string(text) {
			if !unicode.IsPrint(r) {
				return refused(gateway.Malformed, "the name in certProfile has characters that cannot be shown", nil)
			}
		}
		seen = true
		x.Request.Profile = string(text)
	}
	return nil
}

// implicitConfirm is the granting of it (RFC 9810 section 5.1.1.1).
func implicitConfirm() cmpmsg.InfoTypeAndValue {
	return cmpmsg.InfoTypeAndValue{Type: cmpmsg.OIDImplicitConfirm, Value: []byte{byte(cbasn1.NULL), 0}}
}

// confirmWaitTime says until when the certConf is waited for (RFC 9810 section 5.1.1.2).
func confirmWaitTime(until time.Time) cmpmsg.InfoTypeAndValue {
	var b cryptobyte.Builder
	b.AddASN1GeneralizedTime(until)
	return cmpmsg.InfoTypeAndValue{Type: cmpmsg.OIDConfirmWaitTime, Value: b.BytesOrPanic()}
}
