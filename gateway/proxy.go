package gateway

import "context"

type proxyKey struct{}

// ThroughProxy says that a request came through a proxy that the configuration names: what it shows of the client (address,
// certificate) is the proxy's word.
func ThroughProxy(ctx context.Context, name string) context.Context {
	return context.WithValue(ctx, proxyKey{}, name)
}

// ProxyOf is the name of the proxy that a request came through, "" for none.
func ProxyOf(ctx context.Context) string {
	name, _ := ctx.Value(proxyKey{}).(string)
	return name
}
