package admin

import (
	"context"
	"net/http"

	"github.com/labstack/echo/v4"
)

// PipelineList is the answer to GET /v1/pipelines.
type PipelineList struct {
	Pipelines []PipelineDrawing `json:"pipelines"` // by endpoint
}

// PipelineDrawing is an endpoint of the configuration that runs.
type PipelineDrawing struct {
	Endpoint string `json:"endpoint"`
	Protocol string `json:"protocol"`
	Drawing  string `json:"drawing"` // as `muster pipeline show` draws it, lines of at most 80 columns for the most part
}

// pipelines draws them.
func (s *Server) pipelines(c echo.Context) error {
	if _, err := known(c); err != nil {
		return err
	}
	list := PipelineList{Pipelines: []PipelineDrawing{}}
	if s.config.Pipelines != nil {
		list.Pipelines = append(list.Pipelines, s.config.Pipelines()...)
	}
	return c.JSON(http.StatusOK, list)
}

// Pipelines draws what requests pass at each endpoint of the configuration that runs. Errors as Transactions.
func (c *Client) Pipelines(ctx context.Context) (*PipelineList, error) {
	out := &PipelineList{}
	return out, c.get(ctx, "/v1/pipelines", nil, out)
}
