package backend

import (
	"context"
	"errors"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	pb "github.com/muster-pki/muster/plugins/backend/backendpb/v1"
)

const (
	// protocolVersion is negotiated in the handshake: the 1 of muster.backend.v1.
	protocolVersion = 1
	pluginName      = "backend"
)

// Handshake is what a host and a plugin of Muster know each other by. The cookie keeps a plugin from being started
// by hand; it is no security measure.
func Handshake() plugin.HandshakeConfig {
	return plugin.HandshakeConfig{ProtocolVersion: protocolVersion, MagicCookieKey: cookieKey, MagicCookieValue: cookieValue}
}

// HostPlugins is the host's half for go-plugin: what Dispense gives is a *Client whose errors begin with name.
func HostPlugins(name string) map[int]plugin.PluginSet {
	return map[int]plugin.PluginSet{protocolVersion: {pluginName: &grpcPlugin{name: name}}}
}

// Dispense returns the facade of a connected plugin.
func Dispense(c plugin.ClientProtocol) (*Client, error) {
	raw, err := c.Dispense(pluginName)
	if err != nil {
		return nil, err
	}
	client, ok := raw.(*Client)
	if !ok {
		return nil, errors.New("the plugin speaks another contract")
	}
	return client, nil
}

// grpcPlugin is either half of the contract, as go-plugin wants it.
type grpcPlugin struct {
	plugin.NetRPCUnsupportedPlugin
	server *server // in the plugin
	name   string  // in the host
}

// GRPCServer is plugin.GRPCPlugin.
func (p *grpcPlugin) GRPCServer(_ *plugin.GRPCBroker, s *grpc.Server) error {
	pb.RegisterBackendServer(s, p.server)
	return nil
}

// GRPCClient is plugin.GRPCPlugin.
func (p *grpcPlugin) GRPCClient(_ context.Context, _ *plugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return NewClient(conn, p.name), nil
}
