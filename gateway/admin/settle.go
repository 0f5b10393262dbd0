package admin

import (
	"encoding/pem"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/muster-pki/muster/plugins/backend"
)

// settle ends a transaction whose CA does not say what it did, with what the operator found at the CA.
func (s *Server) settle(c echo.Context) error {
	if _, err := known(c); err != nil {
		return err
	}
	var in Finding
	if err := decode(c, &in); err != nil {
		return err
	}
	if err := line("the note", in.Note); err != nil {
		return err
	}
	got, err := in.issuance()
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	t, err := s.find(ctx, param(c, "id"))
	if err != nil {
		return err
	}
	if t, err = s.config.Gateway.SettleStuck(ctx, t.ID, got, actorOf(c), in.Note); err != nil {
		return err
	}
	return s.showTransaction(c, t)
}

// issuance is what was found; nil: nothing was issued.
func (f *Finding) issuance() (*backend.Issuance, error) {
	if f.Never == (f.Certificate != "") {
		return nil, badRequest("say one of certificate and never")
	}
	if f.Never {
		return nil, nil
	}
	var found *backend.Issuance
	rest := []byte(f.Certificate)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		switch {
		case block.Type != "CERTIFICATE":
			return nil, badRequest("the certificate: PEM of type %q", block.Type)
		case found == nil:
			found = &backend.Issuance{Certificate: block.Bytes}
		case len(found.Chain) == backend.MaxChain:
			return nil, badRequest("the certificate: more than %d others behind it", backend.MaxChain)
		default:
			found.Chain = append(found.Chain, block.Bytes)
		}
	}
	if found == nil || strings.TrimSpace(string(rest)) != "" {
		return nil, badRequest("the certificate is no PEM")
	}
	return found, nil
}
