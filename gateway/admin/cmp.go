package admin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/labstack/echo/v4"

	"github.com/muster-pki/muster/gateway"
)

const (
	typePKIXCMP = "application/pkixcmp" // RFC 9811 section 3.2
	maxMessage  = 256 << 10             // bytes of a PKIMessage: no endpoint takes more
)

// processCMP passes a PKIMessage on to an endpoint and answers with the endpoint's. Whoever carries a message grants nothing
// by it: it authenticates itself, and the endpoint's pipeline decides. It takes an approver nevertheless, since the endpoint
// accepts older messages this way than from the network.
func (s *Server) processCMP(c echo.Context) error {
	if _, err := known(c); err != nil {
		return err
	}
	if err := contentType(c, typePKIXCMP); err != nil {
		return err
	}
	message, err := io.ReadAll(http.MaxBytesReader(c.Response(), c.Request().Body, maxMessage))
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return &refusal{status: http.StatusRequestEntityTooLarge, message: fmt.Sprintf("the message is larger than %d bytes", maxMessage)}
	} else if err != nil {
		return badRequest("the message ended early")
	}
	endpoint := param(c, "endpoint")
	answer, err := s.config.ProcessCMP(c.Request().Context(), endpoint, message)
	if e, ok := errors.AsType[*gateway.Error](err); ok && e.Reason == gateway.Malformed {
		return badRequest("%s", e.Detail)
	} else if err != nil {
		return err
	}
	s.config.Log.Info("CMP message passed on", "endpoint", endpoint, "bytes", len(message), "actor", actorOf(c))
	return c.Blob(http.StatusOK, typePKIXCMP, answer)
}

// ProcessCMP has a PKIMessage, DER, answered by an endpoint, "" for the default one, or the only one. The answer is a PKIMessage, which
// may well be a refusal. Errors as Transactions; *Error has status 404 when there is no such endpoint, 400 when the message is
// none, 413 when it is too large: there is no answer then.
func (c *Client) ProcessCMP(ctx context.Context, endpoint string, message []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	path := "/v1/cmp"
	if endpoint != "" {
		path += "/" + url.PathEscape(endpoint)
	}
	resp, err := c.send(ctx, http.MethodPost, path, nil, bytes.NewReader(message), typePKIXCMP)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", c.where, err)
	case len(answer) > maxAnswer:
		return nil, fmt.Errorf("%s: the answer is larger than %d bytes", c.where, maxAnswer)
	}
	return answer, nil
}
