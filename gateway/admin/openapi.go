package admin

import (
	_ "embed"
	"net/http"

	"github.com/labstack/echo/v4"
)

// openAPIDocument describes the API (OpenAPI 3.1). It is made of routes and of the wire structs with their comments:
// `go test ./gateway/admin -run OpenAPI -update` writes it anew.
//
//go:embed openapi.json
var openAPIDocument []byte

func (s *Server) openAPI(c echo.Context) error {
	if _, err := known(c); err != nil {
		return err
	}
	return c.JSONBlob(http.StatusOK, openAPIDocument)
}
