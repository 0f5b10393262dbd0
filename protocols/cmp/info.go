package cmp

import (
	"bytes"
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

// checkInfo judges what a request has in generalInfo for its answer: the value of implicitConfirm is NULL, that of
// confirmWaitTime a GeneralizedTime (RFC 9810 sections 5.1.1.1 and 5.1.1.2). Either may be left out: the type alone asks.
func (x *exchange) checkInfo() *refusal {
	for _, i := range x.message.Header.GeneralInfo {
		switch {
		case i.Value == nil:
		case i.Type.Equal(cmpmsg.OIDImplicitConfirm) && !bytes.Equal(i.Value, asn1.NullBytes):
			return refused(gateway.Unsupported, "the value of implicitConfirm is NULL", nil)
		case i.Type.Equal(cmpmsg.OIDConfirmWaitTime):
			if _, err := cmpmsg.ParseTime(i.Value); err != nil {
				return refused(gateway.Malformed, "the value of confirmWaitTime is not a GeneralizedTime", err)
			}
		}
	}
	return nil
}

// maxProfile is how many bytes a profile's name may have.
const maxProfile = 255

// readProfile reads the profile that is asked for (RFC 9810 section 5.1.1.4). There is one request in a message, so
// there is one name at most; an empty one is none.
func (x *exchange) readProfile() *refusal {
	names, ref := x.profileNames(1, "there are requests")
	if ref == nil && len(names) > 0 {
		x.Request.Profile = names[0]
	}
	return ref
}

// profileNames reads certProfile, which has at most as many names as there is something that they can be for, in its order.
//
//	CertProfileValue ::= SEQUENCE SIZE (1..MAX) OF UTF8String
func (x *exchange) profileNames(most int, than string) (names []string, ref *refusal) {
	seen := false
	for _, i := range x.message.Header.GeneralInfo {
		if !i.Type.Equal(cmpmsg.OIDCertProfile) {
			continue
		}
		in := cryptobyte.String(i.Value)
		var seq cryptobyte.String
		if seen || !in.ReadASN1(&seq, cbasn1.SEQUENCE) || !in.Empty() || seq.Empty() {
			return nil, refused(gateway.Malformed, "certProfile does not parse", nil)
		}
		seen = true
		for !seq.Empty() {
			var text cryptobyte.String
			switch {
			case !seq.ReadASN1(&text, cbasn1.UTF8String):
				return nil, refused(gateway.Malformed, "certProfile does not parse", nil)
			case len(names) == most:
				return nil, refused(gateway.Unsupported, "certProfile names more profiles than "+than, nil)
			case len(text) > maxProfile, !utf8.Valid(text):
				return nil, refused(gateway.Malformed, fmt.Sprintf("the name in certProfile is not UTF-8 of at most %d bytes", maxProfile), nil)
			}
			for _, r := range string(text) {
				if !unicode.IsPrint(r) {
					return nil, refused(gateway.Malformed, "the name in certProfile has characters that cannot be shown", nil)
				}
			}
			names = append(names, string(text))
		}
	}
	return names, nil
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
