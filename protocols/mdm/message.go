package mdm

import (
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cms"
	"github.com/muster-pki/muster/protocols/wire"
)

// limits are those of a CMS message, as far as the body was let in.
func (x *exchange) limits() cms.Limits { return cms.Limits{Size: int(x.Limits.WithDefaults().MaxBody)} }

// cmsRefusal is what an error of package cms means.
func cmsRefusal(err error) *wire.Refusal {
	switch {
	case errors.Is(err, cms.ErrAlgorithm):
		return wire.Refused(gateway.BadAlgorithm, "the message's digest or signature algorithm is not accepted here (SHA-1 only with `legacy: [sha1]`)", err)
	case errors.Is(err, cms.ErrSignature):
		return wire.Refused(gateway.BadIntegrity, "the message's signature does not verify, or its signer's certificate is not in it", err)
	}
	return wire.Refused(gateway.Malformed, "the message is no CMS SignedData with one signer", err)
}

// signedPlist reads a device's answer: a property list in a SignedData, whose signature holds.
func (x *exchange) signedPlist() (*cms.Signed, map[string]string, *wire.Refusal) {
	body, ref := x.ReadBody("")
	if ref != nil {
		return nil, nil, ref
	}
	x.Request.Raw = body
	signed, err := cms.ParseSigned(body, x.limits())
	if err == nil {
		err = signed.Verify(x.endpoint.Config.digests())
	}
	if err != nil {
		return nil, nil, cmsRefusal(err)
	}
	stated, err := readPlist(signed.Content)
	if err != nil {
		return nil, nil, wire.Refused(gateway.Malformed, "the signed content is no XML property list of a device's attributes", err)
	}
	if isMDMMessage(stated) {
		return nil, nil, wire.Refused(gateway.Malformed, "this is an MDM message, and here are profiles", nil)
	}
	return signed, stated, nil
}

// isMDMMessage tells the messages of the MDM protocol (check-ins have a MessageType, results a Status) from the answers of the
// profile service, which the same key signs: neither may pass for the other.
func isMDMMessage(stated map[string]string) bool {
	return stated["MessageType"] != "" || stated["Status"] != ""
}

// state takes down what the message states of the device. Its UDID has to be there.
func (x *exchange) state(stated map[string]string) *wire.Refusal {
	for _, name := range messageValues {
		v := stated[name]
		if v == "" {
			continue
		}
		if len(v) > gateway.MaxDeviceName || strings.ContainsFunc(v, func(r rune) bool { return !unicode.IsPrint(r) }) {
			return wire.Refused(gateway.Malformed, "the device's "+name+" is too long, or has characters that cannot be printed", nil)
		}
		switch name {
		case "UDID", "SERIAL", "IMEI", "MEID":
			x.Request.Identifiers = append(x.Request.Identifiers, gateway.DeviceID{Kind: strings.ToLower(name), Value: v})
		}
	}
	if stated["UDID"] == "" {
		return wire.Refused(gateway.Malformed, "the property list has no UDID", nil)
	}
	return nil
}

// credential is what a certificate counts as.
func credential(kind gateway.CredentialKind, leaf *x509.Certificate, others []*x509.Certificate) gateway.Credential {
	chain := []*x509.Certificate{leaf}
	for _, c := range others {
		if !c.Equal(leaf) {
			chain = append(chain, c)
		}
	}
	return gateway.Credential{Kind: kind, ID: gateway.Fingerprint(leaf), Chain: chain}
}

// issued refuses a certificate that this gateway did not issue.
func (x *exchange) issued(leaf *x509.Certificate) *wire.Refusal {
	ours, err := x.h.gateway.Issued(x.R.Context(), leaf)
	switch {
	case err != nil:
		return &wire.Refusal{Err: gateway.AsError(err)}
	case !ours:
		return wire.Refused(gateway.Untrusted, "the message is signed by a certificate that was not issued here, and not under the device CA",
			fmt.Errorf("the signer is %s, issued by %s", pkix.FormatName(leaf.RawSubject), pkix.FormatName(leaf.RawIssuer)))
	}
	return nil
}
