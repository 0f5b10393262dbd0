package admin

import (
	"context"
	"errors"
	"net/http"

	"github.com/labstack/echo/v4"
)

// NotReloadedError says why a configuration that was read again is not in force: another one runs on, as before.
type NotReloadedError struct{ Err error }

func (e *NotReloadedError) Error() string { return e.Err.Error() }

func (e *NotReloadedError) Unwrap() error { return e.Err }

// reload has the configuration read again. What is wrong with it is told as `muster config check` does.
func (s *Server) reload(c echo.Context) error {
	if _, err := known(c); err != nil {
		return err
	}
	done, err := s.config.Reload(c.Request().Context(), actorOf(c))
	if wrong, ok := errors.AsType[*NotReloadedError](err); ok {
		return &refusal{status: http.StatusUnprocessableEntity, message: wrong.Error()}
	}
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, done)
}

// Reload has the gateway read its configuration again. Errors as Transactions; *Error has status 422, with all that is wrong, when
// the configuration cannot be put into force.
func (c *Client) Reload(ctx context.Context) (*Reload, error) {
	out := &Reload{}
	return out, c.do(ctx, http.MethodPost, "/v1/reload", nil, nil, out)
}
