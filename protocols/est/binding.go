package est

import (
	"crypto/subtle"
	"crypto/tls"
	"encoding/base64"
	"fmt"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/wire"
)

const (
	exporterLabel  = "EXPORTER-Channel-Binding" // RFC 9266 section 2
	exporterLength = 32
)

// binding is what a request says that links it to a connection.
type binding struct {
	attribute string // challengePassword (RFC 7030 section 3.5) or estIdentityLinking (RFC 7894 section 3.3)
	value     string // base64 of a channel binding, if it is one
}

// link verifies what links the request to this TLS connection, and notes it with the request. Where a registration authority
// passes on what a device has linked to another connection, which the RA has verified, nothing is verified here (RFC 7030 section
// 3.7, RFC 7894 section 4); the gateway lets such a request pass only where a stage vouches for the RA.
func (x *exchange) link(c *certification) *wire.Refusal {
	if x.mef() {
		return x.linkToMEF(c)
	}
	own := ""
	if len(c.bindings) > 0 {
		own = channelBinding(x.R.TLS)
	}
	linked, err := checkBinding(own, bindingName(x.R.TLS), c.bindings)
	x.Request.POP = gateway.POPSignature
	if linked {
		x.Request.POP = gateway.POPLinked
	}
	var refused *wire.Refusal
	if err != nil {
		refused = wire.Refused(gateway.BadPOP, err.Error(), err)
	}
	cred, shown := x.Request.Credential(gateway.CredentialTLS)
	renews := x.Request.Operation != gateway.Enroll
	ofAnother := shown && !pkix.SameName(c.Subject, cred.Chain[0].RawSubject)
	if !shown || renews && !ofAnother || !renews && err == nil {
		return refused
	}
	switch e := x.h.gateway.TrustedRA(x.R.Context(), x.endpoint.Name, cred, true); {
	case e == nil && renews:
		// The certificate to be renewed is the TLS client's (section 4.2.2), and there is no place for another one's name.
		return wire.Refused(gateway.NotAuthorized, "EST cannot say which certificate of the device's a registration authority renews: "+
			"use /simpleenroll for the device, or let it re-enroll itself; /simplereenroll renews the RA's own certificate", nil)
	case e == nil:
		x.Request.Relayed = true
		return nil
	case err != nil && e.Reason != gateway.NotAuthorized:
		return &wire.Refusal{Err: e}
	}
	return refused // as from everybody; what a renewal may be named, the pipeline judges
}

// channelBinding is what a client puts into a request to link it to the connection: base64 (RFC 4648 section 4) of
// tls-unique up to TLS 1.2 (RFC 7030 section 3.5), of tls-exporter from TLS 1.3 on (RFC 9266), where tls-unique is not
// defined. It is "" where the connection has none: a resumed one without the extended master secret (RFC 7627), or one that ends at a
// proxy (Version 0), which keeps its secrets.
func channelBinding(cs *tls.ConnectionState) string {
	value := cs.TLSUnique
	if cs.Version >= tls.VersionTLS13 {
		var err error
		if value, err = cs.ExportKeyingMaterial(exporterLabel, nil, exporterLength); err != nil {
			return ""
		}
	}
	return base64.StdEncoding.EncodeToString(value)
}

// bindingName says which channel binding a connection has, "" for one that ends at a proxy.
func bindingName(cs *tls.ConnectionState) string {
	if cs.Version == 0 {
		return ""
	}
	if cs.Version >= tls.VersionTLS13 {
		return "tls-exporter (RFC 9266)"
	}
	return "tls-unique (RFC 7030 section 3.5)"
}

// checkBinding compares each value that the request carries with the connection's own, of the kind (RFC 7030 section 3.5: a value
// that is included MUST be verified; RFC 7894 section 4: each attribute on its own). linked is false when there is none. Errors
// are for the client.
func checkBinding(own, kind string, carried []binding) (linked bool, err error) {
	for _, b := range carried {
		if kind == "" {
			return false, fmt.Errorf("TLS ends at a proxy in front of this server, which cannot compare the request's %s with that connection: leave the attribute out", b.attribute)
		}
		if own == "" {
			return false, fmt.Errorf("this TLS connection has no channel binding to compare the request's %s with; make a full handshake, or leave the attribute out", b.attribute)
		}
		if subtle.ConstantTimeCompare([]byte(own), []byte(b.value)) != 1 {
			return false, fmt.Errorf("the request's %s is not the channel binding of this TLS connection: on this one it has to be the base64 of %s", b.attribute, kind)
		}
		linked = true
	}
	return linked, nil
}
