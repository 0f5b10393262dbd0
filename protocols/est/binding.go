package est

import (
	"crypto/subtle"
	"crypto/tls"
	"encoding/base64"
	"errors"
)

// Errors of checkBinding. Their texts are for the client.
var (
	errNoBinding = errors.New("this TLS connection has no channel binding to compare the request with; make a full handshake, or leave the attribute out")
	errBinding   = errors.New("the request's challengePassword or estIdentityLinking is not the channel binding of this TLS connection (RFC 7030 section 3.5)")
)

const (
	exporterLabel  = "EXPORTER-Channel-Binding" // RFC 9266 section 2
	exporterLength = 32
)

// channelBinding is what a client puts into a request to link it to the connection: base64 (RFC 4648 section 4) of
// tls-unique up to TLS 1.2 (RFC 7030 section 3.5), of tls-exporter from TLS 1.3 on (RFC 9266), where tls-unique is not
// defined. It is "" where the connection has none: a resumed one without the extended master secret (RFC 7627).
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

// checkBinding compares each value that the request carries with the connection's (RFC 7030 section 3.5: a value that
// is included MUST be verified; RFC 7894 section 4: each attribute on its own). linked is false when there is none.
func checkBinding(binding string, values []string) (linked bool, err error) {
	for _, v := range values {
		if binding == "" {
			return false, errNoBinding
		}
		if subtle.ConstantTimeCompare([]byte(binding), []byte(v)) != 1 {
			return false, errBinding
		}
		linked = true
	}
	return linked, nil
}
