package est

import "github.com/labstack/echo/v4"

// root is where EST lives (RFC 7030 section 3.2.2).
const root = "/.well-known/est"

// Register adds the EST paths to a listener's router. serves says which endpoints that listener has; the others are
// unknown there. All methods and all paths below the root come here, so that each refusal is one of ours.
func (h *Handler) Register(e *echo.Echo, serves func(endpoint string) bool) {
	serve := func(c echo.Context) error {
		h.serve(c.Response(), c.Request(), serves)
		return nil
	}
	// Routes of this kind take any method.
	e.RouteNotFound(root, serve)
	e.RouteNotFound(root+"/*", serve)
}
