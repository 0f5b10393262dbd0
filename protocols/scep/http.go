package scep

import "github.com/labstack/echo/v4"

// root is where SCEP lives here. RFC 8894 section 4.1 leaves the path to the CA.
const root = "/scep"

// Register adds the SCEP paths to a listener's router. serves says which endpoints that listener has; the others are
// unknown there. All methods and all paths below the root come here, so that each refusal is one of ours. The listener
// may be one without TLS: SCEP protects its messages itself.
func (h *Handler) Register(e *echo.Echo, serves func(endpoint string) bool) {
	serve := func(c echo.Context) error {
		h.serve(c.Response(), c.Request(), serves)
		return nil
	}
	// Routes of this kind take any method.
	e.RouteNotFound(root, serve)
	e.RouteNotFound(root+"/*", serve)
}
