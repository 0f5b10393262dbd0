// Command forwarder is a third party's plugin for the end-to-end tests: it certifies nothing, and passes CMP messages on to a URL.
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

func main() { backend.Serve(&forwarder{}) }

type forwarder struct {
	backend.Unimplemented
	config config
}

// config is what stands under `config:` in muster.yaml.
type config struct {
	URL string `yaml:"url,required"` // of a CMP server
}

func (*forwarder) Validate(_ context.Context, text []byte) error {
	var c config
	if err := strictyaml.Decode("config", text, &c); err != nil {
		return backend.Refuse(codes.InvalidArgument, "%v", err)
	}
	return nil
}

func (f *forwarder) Configure(ctx context.Context, text []byte) error {
	if err := f.Validate(ctx, text); err != nil {
		return err
	}
	return strictyaml.Decode("config", text, &f.config)
}

func (*forwarder) Describe(context.Context) (*backend.Description, error) {
	return &backend.Description{
		Name: "forwarder", Version: "1", Forms: []backend.Form{backend.FormExchange}, Idempotency: backend.IdempotencyNone,
		Capabilities: []backend.Capability{backend.CapExchange},
	}, nil
}

func (*forwarder) CACertificates(context.Context) ([]backend.CA, error) {
	return nil, backend.Refuse(codes.Unimplemented, "it passes messages on and knows no CA")
}

func (*forwarder) Issue(context.Context, *backend.IssueRequest) (*backend.Issuance, error) {
	return nil, backend.Refuse(codes.Unimplemented, "it certifies nothing")
}

func (*forwarder) Lookup(context.Context, *backend.IssueRequest) (*backend.Outcome, error) {
	return nil, backend.Refuse(codes.Unimplemented, "it certifies nothing")
}

// Exchange is backend.Exchanger.
func (f *forwarder) Exchange(ctx context.Context, _ string, message []byte) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, f.config.URL, bytes.NewReader(message))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/pkixcmp")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s", answer.Status)
	}
	return io.ReadAll(io.LimitReader(answer.Body, backend.MaxContent))
}
