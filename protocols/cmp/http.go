package cmp

import "github.com/labstack/echo/v4"

// Where CMP lives: RFC 9811 section 3.4, and the short path that many clients are configured with.
const (
	wellKnown = "/.well-known/cmp"
	short     = "/cmp"
)

// Register adds the CMP paths to a listener's router. serves says which endpoints that listener has; the others are
// unknown there. All methods and all paths below the two roots come here, so that each refusal is one of ours.
func (h *Handler) Register(e *echo.Echo, serves func(endpoint string) bool) {
	serve := func(c echo.Context) error {
		h.serve(c.Response(), c.Request(), serves)
		return nil
	}
	for _, root := range []string{wellKnown, short} {
		// Routes of this kind take any method.
		e.RouteNotFound(root, serve)
		e.RouteNotFound(root+"/*", serve)
	}
}
