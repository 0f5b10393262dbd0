package mdm

import "github.com/labstack/echo/v4"

// root is where the profile service lives here. Apple leaves the path to the server.
const root = "/ota"

// Register adds the paths to a listener's router. serves says which endpoints that listener has; the others are unknown there.
// All methods and all paths below the root come here, so that each refusal is one of ours.
func (h *Handler) Register(e *echo.Echo, serves func(endpoint string) bool) {
	serve := func(c echo.Context) error {
		h.serve(c.Response(), c.Request(), serves)
		return nil
	}
	e.RouteNotFound(root, serve)
	e.RouteNotFound(root+"/*", serve)
}
