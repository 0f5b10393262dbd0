package admin

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
)

// maxRevoked bounds what one call revokes.
const maxRevoked = 1000

// revoke revokes one certificate, or all of a device.
func (s *Server) revoke(c echo.Context) error {
	if _, err := known(c); err != nil {
		return err
	}
	var in RevokeOrder
	if err := decode(c, &in); err != nil {
		return err
	}
	reason, err := reasonOf(in.Reason)
	if err != nil {
		return err
	}
	if err := line("the note", in.Note); err != nil {
		return err
	}
	ctx := c.Request().Context()
	meant, err := s.meant(ctx, &in)
	if err != nil {
		return err
	}
	out := RevokeResult{Revoked: []Revoked{}}
	note := crlReason(reason) // the audit trail has it nowhere else
	if in.Note != "" {
		note += ": " + in.Note
	}
	for _, one := range meant {
		already := !one.RevokedAt.IsZero()
		revoked, heard, err := s.config.Gateway.RevokeCertificate(ctx, one.Issuer, one.Serial, reason, actorOf(c), note)
		if err != nil {
			if n := len(out.Revoked); n > 0 {
				status, body := s.failureOf(err, c.Request().URL.Path)
				return &refusal{status: status, message: fmt.Sprintf("%d of %d certificates are revoked, then: %s", n, len(meant), body.Error)}
			}
			return err
		}
		out.Revoked = append(out.Revoked, Revoked{Certificate: certificateOf(revoked, false), Told: heard == gateway.ToldCA, Alone: heard == gateway.ToldNobody, Already: already})
	}
	return c.JSON(http.StatusOK, out)
}

// reasonOf reads a CRLReason by its name (RFC 5280 section 5.3.1). removeFromCRL takes back and is none here; a hold cannot be
// taken back through the gateway.
func reasonOf(word string) (int, error) {
	if word == "" {
		return 0, nil
	}
	var names []string
	for n, name := range crlReasons {
		if name == "removeFromCRL" || name == "certificateHold" || name == strconv.Itoa(n) {
			continue
		}
		if strings.EqualFold(name, word) {
			return n, nil
		}
		names = append(names, name)
	}
	return 0, badRequest("%q is no reason: %s", word, strings.Join(names, ", "))
}

// meant finds what is to be revoked.
func (s *Server) meant(ctx context.Context, in *RevokeOrder) ([]*gateway.Certificate, error) {
	given := 0
	for _, word := range []string{in.Serial, in.Transaction, in.Device} {
		if word != "" {
			given++
		}
	}
	switch {
	case given != 1:
		return nil, badRequest("one of serial, transaction and device says which certificate is meant")
	case in.All && in.Device == "":
		return nil, badRequest("all goes with device")
	case in.Issuer != "" && in.Serial == "":
		return nil, badRequest("issuer goes with serial")
	case in.Serial != "":
		return s.bySerial(ctx, in.Serial, in.Issuer)
	case in.Device != "":
		return s.ofDevice(ctx, in.Device, in.All)
	}
	t, err := s.find(ctx, in.Transaction)
	if err != nil {
		return nil, err
	}
	if t.Certificate == nil {
		return nil, &refusal{status: http.StatusNotFound, message: fmt.Sprintf("transaction %s has no certificate: it is %s", t.ID, t.State)}
	}
	return []*gateway.Certificate{t.Certificate}, nil
}

// bySerial looks among the certificates of all CAs that the backends have, earlier generations included.
func (s *Server) bySerial(ctx context.Context, digits, issuer string) ([]*gateway.Certificate, error) {
	digits = strings.NewReplacer(":", "", " ", "").Replace(strings.TrimPrefix(strings.ToLower(digits), "0x"))
	if len(digits)%2 == 1 {
		digits = "0" + digits
	}
	serial, err := hex.DecodeString(digits)
	if err != nil || len(serial) == 0 || len(serial) > 21 { // RFC 5280 section 4.1.2.2: 20 bytes
		return nil, badRequest("a serial number is hexadecimal, 20 bytes at most")
	}
	for len(serial) > 1 && serial[0] == 0 {
		serial = serial[1:]
	}
	if issuer != "" {
		if issuer, err = canonicalName(issuer); err != nil {
			return nil, badRequest("issuer: %v", err)
		}
	}
	var found []*gateway.Certificate
	var silent []string
	var asked [][]byte
	for _, b := range s.config.CAs(ctx) {
		if b.Err != nil {
			silent = append(silent, b.Backend)
		}
		for _, subject := range subjectsOf(b.CAs) {
			if slices.ContainsFunc(asked, func(x []byte) bool { return string(x) == string(subject) }) || issuer != "" && pkix.FormatName(subject) != issuer {
				continue
			}
			asked = append(asked, subject)
			switch cert, err := s.config.Store.Certificate(ctx, subject, serial); {
			case err == nil:
				found = append(found, cert)
			case !errors.Is(err, gateway.ErrNotFound):
				return nil, err
			}
		}
	}
	switch {
	case len(found) == 1:
		return found, nil
	case len(found) > 1:
		r := &refusal{status: http.StatusConflict, message: "more than one CA has given this serial number: say which issuer is meant"}
		for _, cert := range found[:min(len(found), candidates)] {
			r.candidates = append(r.candidates, pkix.FormatName(cert.Issuer))
		}
		return nil, r
	}
	if len(silent) > 0 { // it may be one of theirs: nobody may take this for an answer
		return nil, &refusal{status: http.StatusServiceUnavailable, message: fmt.Sprintf(
			"whether a certificate with the serial number %x was issued here cannot be told now: the CAs of %s do not answer; try again, or give the transaction's ID",
			serial, strings.Join(silent, ", "))}
	}
	return nil, &refusal{status: http.StatusNotFound, message: fmt.Sprintf("no certificate with the serial number %x was issued here", serial)}
}

// ofDevice lists a device's valid certificates.
func (s *Server) ofDevice(ctx context.Context, given string, all bool) ([]*gateway.Certificate, error) {
	device, err := s.named(ctx, given)
	if err != nil {
		return nil, err
	}
	found, err := s.config.Store.Certificates(ctx, gateway.CertificateFilter{Device: device, ValidAt: s.config.Clock(), Limit: maxRevoked + 1})
	switch {
	case err != nil:
		return nil, err
	case len(found) == 0:
		return nil, &refusal{status: http.StatusNotFound, message: fmt.Sprintf("device %q has no valid certificate", device)}
	case len(found) > maxRevoked:
		return nil, conflict("device %q has more than %d valid certificates", device, maxRevoked)
	case len(found) > 1 && !all:
		r := &refusal{status: http.StatusConflict, message: fmt.Sprintf("device %q has %d valid certificates: say which by its serial number, or all", device, len(found))}
		for _, cert := range found[:min(len(found), candidates)] {
			r.candidates = append(r.candidates, hex.EncodeToString(cert.Serial))
		}
		return nil, r
	}
	return found, nil
}
