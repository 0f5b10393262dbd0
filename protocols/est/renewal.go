package est

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math/big"
	"net/http"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
	"github.com/muster-pki/muster/protocols/wire"
)

// RenewalHint says what /renewal-info tells clients of when to renew a certificate. Each certificate has a window of its own, a
// quarter of the time between from and until, at a place in it that its bytes decide: so certificates of one hour are not
// renewed in one hour, even by clients that take a window's beginning.
type RenewalHint struct {
	// From is the part of a certificate's life after which the first windows begin. Default: 66%.
	From Percent `yaml:"from"`
	// Until is the part of its life after which all windows have ended. Default: 83%.
	Until Percent `yaml:"until"`
	// Off serves no /renewal-info. Default: false.
	Off bool `yaml:"off"`
}

// Percent is a part of a whole as configurations write it: "66%".
type Percent int

// UnmarshalStrict reads one from 1% to 99%.
func (p *Percent) UnmarshalStrict(file string, n *yaml.Node) error {
	digits, ok := strings.CutSuffix(n.Value, "%")
	v, err := strconv.Atoi(digits)
	if n.Kind != yaml.ScalarNode || !ok || err != nil || v < 1 || v > 99 {
		return strictyaml.Errorf(file, n, "wants 1%% to 99%%")
	}
	*p = Percent(v)
	return nil
}

// WithDefaults is the hint with what was left out.
func (h RenewalHint) WithDefaults() RenewalHint {
	if h.From == 0 {
		h.From = 66
	}
	if h.Until == 0 {
		h.Until = 83
	}
	return h
}

func (h RenewalHint) check() error {
	if d := h.WithDefaults(); d.From >= d.Until {
		return errors.New("renewal-hint: from is not before until")
	}
	return nil
}

// window is when a certificate should be renewed, in whole seconds; ok is false for one that lives too short to have any.
func (h RenewalHint) window(c *x509.Certificate) (start, end time.Time, ok bool) {
	percent := c.NotAfter.Sub(c.NotBefore) / 100
	span := percent * time.Duration(h.Until-h.From)
	length := span / 4
	sum := sha256.Sum256(c.Raw)
	place := float64(binary.BigEndian.Uint64(sum[:])>>11) / (1 << 53)
	start = c.NotBefore.Add(percent*time.Duration(h.From) + time.Duration(place*float64(span-length)))
	end = start.Add(length)
	start, end = start.UTC().Truncate(time.Second), end.UTC().Truncate(time.Second)
	return start, end, end.After(start)
}

// askAgain is when a client should look again: draft-ietf-lamps-est-renewal-info section 3.2 shows 6 hours, RFC 9773 section 4.3.2
// has nobody ask more often than once a minute.
func askAgain(c *x509.Certificate) time.Duration {
	return min(max(c.NotAfter.Sub(c.NotBefore)/48, time.Minute), 6*time.Hour)
}

const (
	renewalInfo      = "renewal-info"
	maxCertificateID = 256 // characters
)

// cutRenewal takes the certificate's identifier off a path that ends in renewal-info/ID.
func cutRenewal(path string) (rest, id string) {
	if before, id, ok := strings.Cut(path, "/"+renewalInfo+"/"); ok {
		return before + "/" + renewalInfo, id
	}
	return path, ""
}

// parseCertificateID reads base64url(AKI keyIdentifier) "." base64url(serial number), without padding
// (draft-ietf-lamps-est-renewal-info section 3.1). The serial number is the contents of the INTEGER; who leaves the zero octet out
// means the same.
func parseCertificateID(id string) (authority []byte, serial *big.Int, err error) {
	if len(id) > maxCertificateID {
		return nil, nil, errors.New("too long")
	}
	if strings.ContainsAny(id, "\r\n") { // which encoding/base64 passes over
		return nil, nil, errors.New("a line break")
	}
	a, s, ok := strings.Cut(id, ".")
	if !ok {
		return nil, nil, errors.New("no period")
	}
	encoding := base64.RawURLEncoding.Strict()
	if authority, err = encoding.DecodeString(a); err != nil {
		return nil, nil, err
	}
	number, err := encoding.DecodeString(s)
	if err != nil {
		return nil, nil, err
	}
	if len(authority) == 0 || len(number) == 0 {
		return nil, nil, errors.New("empty")
	}
	return authority, new(big.Int).SetBytes(number), nil
}

// renewal answers draft-ietf-lamps-est-renewal-info section 3: when to renew a certificate, for everybody who can name it.
func (x *exchange) renewal() *wire.Refusal {
	hint := x.endpoint.Config.RenewalHint
	if hint.Off {
		return wire.RefusedAs(http.StatusNotFound, gateway.Unsupported, "this endpoint gives no hints about renewal")
	}
	authority, serial, err := parseCertificateID(x.certificate)
	if err != nil {
		return wire.Refused(gateway.Malformed, "the path is /renewal-info/ID, with ID = base64url(authority key identifier).base64url(serial number), without padding", err)
	}
	c, err := x.h.gateway.Renewable(x.R.Context(), x.endpoint.Name, authority, serial)
	if err != nil {
		return &wire.Refusal{Err: gateway.AsError(err)}
	}
	unknown := wire.RefusedAs(http.StatusNotFound, gateway.UnknownCert, "no such certificate was issued here, or it is revoked or has ended")
	if c == nil || x.h.now().After(c.NotAfter) {
		return unknown
	}
	start, end, ok := hint.window(c)
	if !ok {
		return unknown
	}
	var answer struct {
		Window struct {
			Start time.Time `json:"start"`
			End   time.Time `json:"end"`
		} `json:"suggestedWindow"`
	}
	answer.Window.Start, answer.Window.End = start, end
	body, err := json.Marshal(answer)
	if err != nil {
		return wire.Refused(gateway.Internal, "", err)
	}
	x.SetRetryAfter(askAgain(c))
	x.Write(http.StatusOK, "application/json", append(body, '\n')) // not in base64: section 3.2.1
	return nil
}
