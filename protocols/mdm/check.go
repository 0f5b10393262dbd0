package mdm

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cms"
	"github.com/muster-pki/muster/protocols/wire"
)

// The headers of a check.
const (
	signatureHeader  = "Mdm-Signature" // Apple: SignMessage, a detached SignedData over the body, base64
	clientCertHeader = "Client-Cert"   // RFC 9440 section 2.2
	deviceHeader     = "Muster-Device"
)

// maxSignature bounds the header: a chain of three certificates takes 6 KiB.
const maxSignature = 32 << 10

// check says for a reverse proxy whether a message of the MDM protocol comes from the device that it names: 200, with the device's
// name and its certificate to pass on, or 403. The certificate is that of Mdm-Signature, or the TLS client's where there is no such header;
// with a body it has to be that of the body's UDID.
func (x *exchange) check() *wire.Refusal {
	var body []byte
	if x.R.Method == http.MethodPost || x.R.Method == http.MethodPut {
		var ref *wire.Refusal
		if body, ref = x.ReadBody(""); ref != nil {
			return ref
		}
		x.Request.Raw = body
	}
	kind, leaf, chain, ref := x.shown(body)
	if ref != nil {
		return ref
	}
	note := fmt.Sprintf("check of %s", pkix.FormatName(leaf.RawSubject))
	if body != nil {
		stated, err := readPlist(body)
		if err != nil {
			return wire.Refused(gateway.Malformed, "the body is no XML property list", err)
		}
		if !isMDMMessage(stated) {
			return wire.Refused(gateway.Malformed, "the body is no MDM message: it has neither MessageType nor Status", nil)
		}
		// An MDM message names the device by its UDID; what else may stand in it is no identifier.
		if ref := x.state(map[string]string{"UDID": stated["UDID"]}); ref != nil {
			return ref
		}
		note += ", UDID " + stated["UDID"]
	}
	if ref := x.issued(leaf); ref != nil {
		return ref
	}
	x.Request.Credentials = []gateway.Credential{credential(kind, leaf, chain)}
	x.Request.Notes = []string{note}
	name := ""
	_, err := x.h.gateway.Recognise(x.R.Context(), x.Request, func(_ context.Context, who *gateway.Recognised) ([]byte, string, error) {
		name = who.Device
		err := ownDevice(who, leaf)
		if err == nil && body != nil {
			err = ownUDID(who, x.Request.Identifiers)
		}
		return nil, note, err
	})
	if err != nil {
		x.writeError(gateway.AsError(err), 0, "")
		return nil
	}
	header := x.W.Header()
	header.Set(deviceHeader, headerText(name))
	header.Set(clientCertHeader, ":"+base64.StdEncoding.EncodeToString(leaf.Raw)+":")
	x.Write(http.StatusOK, "text/plain; charset=utf-8", nil)
	return nil
}

// ownUDID refuses a message whose UDID is not among the entry's. The pipeline may find the device by something else, and lets pass a
// UDID of which no entry says anything: the MDM server would take the device for whichever has that one.
func ownUDID(who *gateway.Recognised, stated []gateway.DeviceID) error {
	for _, s := range stated {
		s.Value = gateway.NormalIdentifier(s.Kind, s.Value)
		if !slices.Contains(who.Inventory.Identifiers, s) {
			return gateway.Errorf(gateway.NotAuthorized, "the UDID is not the device's", "the message is of UDID %q, which does not stand in the entry of device %s: "+
				"put it in (`muster device add --replace`, or `import`) to have its messages checked", s.Value, who.Device)
		}
	}
	return nil
}

// shown is the certificate whose key the sender has shown.
func (x *exchange) shown(body []byte) (kind gateway.CredentialKind, leaf *x509.Certificate, chain []*x509.Certificate, ref *wire.Refusal) {
	refused := func(ref *wire.Refusal) (gateway.CredentialKind, *x509.Certificate, []*x509.Certificate, *wire.Refusal) {
		return "", nil, nil, ref
	}
	headers := x.R.Header.Values(signatureHeader)
	switch {
	case len(headers) > 1:
		return refused(wire.Refused(gateway.Malformed, "more than one "+signatureHeader, nil))
	case len(headers) == 1 && body == nil:
		return refused(wire.Refused(gateway.Malformed, signatureHeader+" signs the body: send it along, by POST", nil))
	case len(headers) == 1:
		if len(headers[0]) > maxSignature {
			return refused(wire.Refused(gateway.Malformed, fmt.Sprintf("%s is larger than %d bytes", signatureHeader, maxSignature), nil))
		}
		der, err := base64.StdEncoding.DecodeString(strings.TrimSpace(headers[0]))
		if err != nil {
			return refused(wire.Refused(gateway.Malformed, signatureHeader+" is not base64", err))
		}
		signed, err := cms.ParseSigned(der, cms.Limits{Size: maxSignature})
		if err == nil {
			err = signed.VerifyDetached(body, x.endpoint.Config.digests())
		}
		if err != nil {
			return refused(cmsRefusal(err))
		}
		return gateway.CredentialSigner, signed.Signer, signed.Certificates, nil
	}
	if x.R.TLS != nil && len(x.R.TLS.PeerCertificates) > 0 {
		certs := x.R.TLS.PeerCertificates
		return gateway.CredentialTLS, certs[0], certs[1:], nil
	}
	return refused(wire.Refused(gateway.Unauthenticated, "there is neither "+signatureHeader+" nor a TLS client certificate", nil))
}

// headerText makes a name fit for a header: what is not visible ASCII, and %, is percent-encoded.
func headerText(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c > ' ' && c < 0x7f && c != '%' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
